"""The application for tests that cut clients off; REDIS_URL configures it."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from fast_channels import AsyncWebsocketConsumer, channel_layers
from fast_channels.layers import RedisStreamsChannelLayer

channel_layers.register(
    "chat", RedisStreamsChannelLayer([os.environ["REDIS_URL"]], history_size=5000)
)


class ResumableConsumer(AsyncWebsocketConsumer):
    channel_layer_alias = "chat"
    groups = ("room",)
    resumable = True

    async def test_number(self, message):
        await self.number(message)

    async def number(self, message):
        await self.send(text_data=str(message["n"]))


app = Starlette(
    lifespan=channel_layers.lifespan, routes=[WebSocketRoute("/ws", ResumableConsumer.as_asgi())]
)
