"""A router for tests of the command, and functions that register layers for it."""

from __future__ import annotations

import asyncio
import os
import signal

from fast_channels.consumer import AsyncConsumer
from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisStreamsChannelLayer,
    register_channel_layer,
)
from fast_channels.routing import ChannelNameRouter


class Echo(AsyncConsumer):
    """Sends each message to the group that it names."""

    async def echo(self, message):
        await self.channel_layer.group_send(message["group"], {**message, "type": "echoed"})


router = ChannelNameRouter({"echo": Echo.as_asgi()})


async def setup():
    register_channel_layer("default", RedisStreamsChannelLayer([os.environ["REDIS_URL"]]))


def setup_memory():
    register_channel_layer("default", InMemoryChannelLayer())


def setup_stopping():
    """Send SIGTERM as soon as the worker starts."""
    setup_memory()
    asyncio.get_running_loop().call_later(0.02, signal.raise_signal, signal.SIGTERM)
