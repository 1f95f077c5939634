"""An answer outlives its connection: clients that come back or come later get all of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from typing import TYPE_CHECKING

from fastapi import FastAPI
from llm_stream import model
from starlette.routing import WebSocketRoute

from fast_channels import (
    AsyncJsonWebsocketConsumer,
    LayerUnavailable,
    RedisStreamsChannelLayer,
    channel_layers,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fast_channels.type_defs import ChannelMessage

logger = logging.getLogger("answers")

layer = RedisStreamsChannelLayer(
    [os.environ.get("REDIS_URL", "redis://localhost:6399")],
    prefix="answers",
    # Pieces to keep of each answer, and for how many seconds after the last one.
    history_size=10_000,
    history_ttl=900,
)
channel_layers.register("answers", layer)

# Answers that the model is writing. The event loop alone does not keep a task alive.
WRITING: set[asyncio.Task[None]] = set()


class AnswerConsumer(AsyncJsonWebsocketConsumer):
    """
    Sends one answer.

    Clients first get `{"so_far": "..."}`, which replaces their text, then `{"text": "..."}`
    for each piece, and `{"end": "..."}`.
    """

    channel_layer_alias = "answers"

    async def connect(self) -> None:
        group = answer_group(self.scope["path_params"]["answer"])
        await self.accept()
        past = await self.channel_layer.history(group)
        # `joined` has messages sent between these two calls; later ones come to the mailbox.
        joined = await self.channel_layer.join(group, self.channel_name, since=past.position)
        messages = [message for _, message in (*past.messages, *joined.messages)]
        text = "".join(message["text"] for message in messages if "text" in message)
        await self.send_json({"so_far": text})
        if messages and messages[-1]["type"] == "answer.end":
            await self.answer_end(messages[-1])

    async def answer_text(self, message: ChannelMessage) -> None:
        await self.send_json({"text": message["text"]})

    async def answer_end(self, message: ChannelMessage) -> None:
        await self.send_json({"end": message["reason"]}, close=True)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with channel_layers.lifespan(app):
        yield
        # The layer is still open, so readers get the end of their answers.
        for writing in WRITING:
            writing.cancel()
        await asyncio.gather(*WRITING, return_exceptions=True)


app = FastAPI(
    routes=[WebSocketRoute("/ws/answers/{answer:uuid}", AnswerConsumer.as_asgi())],
    lifespan=lifespan,
)


@app.post("/answers")
async def ask(prompt: str) -> dict[str, uuid.UUID]:
    answer = uuid.uuid4()
    writing = asyncio.create_task(write(answer_group(answer), prompt))
    WRITING.add(writing)
    writing.add_done_callback(WRITING.discard)
    return {"answer": answer}


async def write(group: str, prompt: str) -> None:
    """Send the answer of the model to a group, even if the group is empty."""
    end = "failed"
    try:
        async for text in model(prompt):
            await layer.group_send(group, {"type": "answer.text", "text": text})
        end = "done"
    except Exception:
        logger.exception("the model failed, or the layer is not available")
    finally:
        with contextlib.suppress(LayerUnavailable):
            await layer.group_send(group, {"type": "answer.end", "reason": end})


def answer_group(answer: uuid.UUID) -> str:
    return f"answer.{answer.hex}"
