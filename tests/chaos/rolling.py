"""
The application of the rolling deploy tests; it prints every event of its consumers.

LAYER, REDIS_URL, DRAIN_TIMEOUT and DRAIN_SPREAD (in seconds) configure it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute

from fast_channels import (
    AsyncHttpConsumer,
    AsyncWebsocketConsumer,
    InMemoryChannelLayer,
    channel_layers,
)
from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer

logging.basicConfig(level=logging.INFO, format="%(message)s")

LAYERS = {
    "memory": InMemoryChannelLayer,
    "pubsub": lambda: RedisPubSubChannelLayer([os.environ["REDIS_URL"]]),
    "queue": lambda: RedisChannelLayer([os.environ["REDIS_URL"]]),
}

channel_layers.register("chat", LAYERS[os.environ.get("LAYER", "memory")]())
channel_layers.drain_timeout = float(os.environ.get("DRAIN_TIMEOUT", "3"))
channel_layers.drain_spread = float(os.environ.get("DRAIN_SPREAD", "1"))


def say(text):
    # One write, unlike print(), because several workers share the output.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class RollingConsumer(AsyncWebsocketConsumer):
    channel_layer_alias = "chat"
    groups = ("room",)

    async def connect(self):
        say("connect")
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        match text_data.split():
            case ["sleep", seconds]:
                say("sleeps")
                await asyncio.sleep(float(seconds))
                await self.send("slept")
            case ["hang"]:
                say("hangs")
                await asyncio.Event().wait()
            case ["flood"]:
                say("floods")
                while not self.disconnected:
                    await self.send("x" * 65_536)
            case ["later"]:
                self.hangs_later = True
                await self.send("will hang")
            case _:
                message = {"type": "chat.message", "text": text_data}
                await self.channel_layer.group_send("room", message)

    async def chat_message(self, event):
        await self.send(event["text"])

    async def disconnect(self, code):
        say(f"disconnect {code} at {time.monotonic()}")
        if hasattr(self, "hangs_later"):
            await asyncio.Event().wait()


class StreamConsumer(AsyncHttpConsumer):
    channel_layer_alias = "chat"

    async def handle(self, body):
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send_headers(headers=[(b"content-type", b"text/event-stream")])
        await self.send_body(b"data: hello\n\n", more_body=True)
        say("streams")
        while self.scope["query_string"] == b"flood" and not self.disconnected:
            await self.send_body(b"x" * 65_536, more_body=True)

    async def chat_message(self, event):
        await self.send_body(f"data: {event['text']}\n\n".encode(), more_body=True)

    async def disconnect(self):
        say("stream ended")


@contextlib.asynccontextmanager
async def lifespan(app):
    async with channel_layers.lifespan(app):
        say("started")
        yield


app = Starlette(
    lifespan=lifespan,
    routes=[
        WebSocketRoute("/ws", RollingConsumer.as_asgi()),
        Mount("/stream", StreamConsumer.as_asgi()),
    ],
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]))
