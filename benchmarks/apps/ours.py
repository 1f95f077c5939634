"""This library, as the README shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_channels import AsyncWebsocketConsumer, InMemoryChannelLayer, channel_layers
from fast_channels.layers import (
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
)

from .settings import CAPACITY, GROUP, LANE, LAYER, REDIS_URL, TYPE, routed

if TYPE_CHECKING:
    from fast_channels.layers import BaseChannelLayer


def make_layer() -> BaseChannelLayer:
    if LAYER == "memory":
        return InMemoryChannelLayer(capacity=CAPACITY)
    kinds = {
        "pubsub": RedisPubSubChannelLayer,
        "queue": RedisChannelLayer,
        "streams": RedisStreamsChannelLayer,
    }
    return kinds[LAYER](hosts=[REDIS_URL], capacity=CAPACITY)


channel_layers.register("bench", make_layer())


class Room(AsyncWebsocketConsumer):
    channel_layer_alias = "bench"
    groups = (GROUP,)

    async def chat_message(self, message: Any) -> None:
        await self.send(text_data=message["text"])


class ForwardingRoom(AsyncWebsocketConsumer):
    channel_layer_alias = "bench"
    groups = (GROUP,)
    forwards = (TYPE,)


class ResumableRoom(Room):
    resumable = True


# The consumers by BENCH_LANE: how the application sends messages of the group to clients.
ROOMS = {"handler": Room, "fast": ForwardingRoom}


class Echo(AsyncWebsocketConsumer):
    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,  # noqa: ARG002
    ) -> None:
        await self.send(text_data=text_data)


class Publish(AsyncWebsocketConsumer):
    channel_layer_alias = "bench"

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,  # noqa: ARG002
    ) -> None:
        await self.channel_layer.group_send(GROUP, {"type": TYPE, "text": text_data})


app = routed(
    {
        "/room": ROOMS[LANE].as_asgi(),
        "/resumable": ResumableRoom.as_asgi(),
        "/echo": Echo.as_asgi(),
        "/publish": Publish.as_asgi(),
    },
    channel_layers.lifespan,
)


def open_layer() -> BaseChannelLayer:
    return make_layer()
