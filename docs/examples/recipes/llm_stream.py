"""A model answers word by word, until it ends, the client stops it, or the client leaves."""

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
    """Stand in for a model, which costs money for every word."""
    for word in f"You asked: {prompt}".split():
        await asyncio.sleep(0.1)
        yield f"{word} "


class AnswerConsumer(AsyncJsonWebsocketConsumer):
    """
    Answers one question at a time.

    Clients send `{"ask": "..."}` and `{"stop": true}`. They get `{"text": "..."}` for each
    piece, and then `{"end": "done"}`, `"stopped"` or `"failed"`.
    """

    max_frame_size = 20_000
    """The size of a question in bytes is limited, because long questions cost money, too."""

    answering: asyncio.Task[None] | None = None

    async def receive_json(self, content: Any, **_: Any) -> None:
        match content:
            case {"ask": str(prompt)} if self.answering is None:
                # A task, because a running handler would delay other frames, such as a stop.
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
                    # Waits for a slow client, and the model waits as well.
                    await self.send_json({"text": text})
            end = "done"
        except Exception:
            logger.exception("the model failed")
        self.answering = None
        await self.send_json({"end": end})

    async def stop(self) -> bool:
        """Stop the answer, if there is one, and wait until the request to the model is closed."""
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
