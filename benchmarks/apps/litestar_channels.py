"""Litestar with its channels plugin."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from litestar.exceptions import WebSocketDisconnect
from redis.asyncio import Redis

from .settings import GROUP, LAYER, REDIS_URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def make_plugin() -> ChannelsPlugin:
    if LAYER == "memory":
        backend: Any = MemoryChannelsBackend()
    else:
        backend = RedisChannelsPubSubBackend(redis=Redis.from_url(REDIS_URL))
    return ChannelsPlugin(backend=backend, arbitrary_channels_allowed=True)


plugin = make_plugin()


async def frames(socket: WebSocket) -> AsyncIterator[str]:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            yield await socket.receive_text()


@websocket("/room")
async def room(socket: WebSocket) -> None:
    async with plugin.start_subscription(GROUP) as subscriber:
        await socket.accept()
        async with subscriber.run_in_background(socket.send_text):
            async for _ in frames(socket):
                pass


@websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in frames(socket):
        await socket.send_text(text)


@websocket("/publish")
async def publish(socket: WebSocket) -> None:
    await socket.accept()
    async for text in frames(socket):
        await plugin.wait_published(text, GROUP)


app = Litestar([room, echo, publish], plugins=[plugin], openapi_config=None)


class Publisher:
    def __init__(self, channels: ChannelsPlugin) -> None:
        self._channels = channels

    async def group_send(self, group: str, message: dict[str, str]) -> None:
        await self._channels.wait_published(message["text"], group)


@contextlib.asynccontextmanager
async def open_layer() -> AsyncIterator[Publisher]:
    async with make_plugin() as channels:
        yield Publisher(channels)
