"""fast-channels 1.1, the published package with the names that this library keeps."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from fast_channels.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer

from .settings import CAPACITY, GROUP, LAYER, REDIS_URL, TYPE, routed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def make_layer() -> Any:
    if LAYER == "memory":
        return InMemoryChannelLayer(capacity=CAPACITY)
    kinds = {"pubsub": RedisPubSubChannelLayer, "queue": RedisChannelLayer}
    return kinds[LAYER](hosts=[REDIS_URL], capacity=CAPACITY)


layer = make_layer()
register_channel_layer("bench", layer)


class Room(AsyncWebsocketConsumer):
    channel_layer_alias = "bench"
    groups = [GROUP]  # noqa: RUF012 - the type it declares

    async def chat_message(self, message: Any) -> None:
        await self.send(text_data=message["text"])


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:  # noqa: ARG002
        await self.send(text_data=text_data)


class Publish(AsyncWebsocketConsumer):
    channel_layer_alias = "bench"

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:  # noqa: ARG002
        await self.channel_layer.group_send(GROUP, {"type": TYPE, "text": text_data})


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    yield


app = routed(
    {"/room": Room.as_asgi(), "/echo": Echo.as_asgi(), "/publish": Publish.as_asgi()}, lifespan
)


@contextlib.asynccontextmanager
async def open_layer() -> AsyncIterator[Any]:
    yield layer
