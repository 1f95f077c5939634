"""The answer of a model, word for word, until it ends, is stopped, or nobody is there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from fast_channels import AsyncJsonWebsocketConsumer, channel_layers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

logger = logging.getLogger("answers")


async def model(prompt: str) -> AsyncGenerator[str]:
    """Stand in for a model, which costs money for as long as it is asked for more."""
    for word in f"You asked: {prompt}".split():
        await asyncio.sleep(0.1)
        yield f"{word} "


class AnswerConsumer(AsyncJsonWebsocketConsumer):
    """
    In: `{"ask": "..."}` and `{"stop": true}`.
    Out: `{"text": "..."}` for each piece, and `{"end": "done"}`, `"stopped"` or `"failed"`.
    """

    # Bytes. What a client may ask for costs money, too.
    max_frame_size = 20_000

    answering: asyncio.Task[None] | None = None

    async def receive_json(self, content: Any, **_: Any) -> None:
        match content:
            case {"ask": str(prompt)} if self.answering is None:
                # As a task: while a handler runs no other frame is handled, such as a stop.
                self.answering = asyncio.create_task(self.answer(prompt))
            case {"ask": str()}:
                await self.send_json({"error": "one answer at a time"})
            case {"stop": True}:
                if await self.stop():
                    await self.send_json({"end": "stopped"})
            case _:
                await self.send_json({"error": 'send {"ask": "..."} or {"stop": true}'})

    async def disconnect(self, code: int) -> None:
        await self.stop()

    async def answer(self, prompt: str) -> None:
        end = "failed"
        try:
            async with contextlib.aclosing(model(prompt)) as pieces:
                async for text in pieces:
                    # Waits while the client reads too little, and so does the model.
                    await self.send_json({"text": text})
            end = "done"
        except Exception:
            logger.exception("the model failed")
        self.answering = None
        await self.send_json({"end": end})

    async def stop(self) -> bool:
        """End the answer, if there is one; returns when the model has been let go of."""
        answering, self.answering = self.answering, None
        if answering is None:
            return False
        answering.cancel()
        await asyncio.wait([answering])
        return True


app = FastAPI(
    routes=[WebSocketRoute("/ws/answers", AnswerConsumer.as_asgi())],
    lifespan=channel_layers.lifespan,
)
