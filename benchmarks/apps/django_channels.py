"""Django Channels with channels_redis, under Django's ASGI application."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings

from .settings import CAPACITY, GROUP, LAYER, REDIS_URL, TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BACKENDS = {
    "memory": "channels.layers.InMemoryChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "queue": "channels_redis.core.RedisChannelLayer",
}
options: dict[str, Any] = {"capacity": CAPACITY}
if LAYER != "memory":
    options["hosts"] = [REDIS_URL]

settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="for a benchmark on loopback",  # noqa: S106
    CHANNEL_LAYERS={"default": {"BACKEND": BACKENDS[LAYER], "CONFIG": options}},
)
django.setup()

# These imports need a configured Django.
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402


class Room(AsyncWebsocketConsumer):
    groups = [GROUP]  # noqa: RUF012 - the type it declares

    async def chat_message(self, message: Any) -> None:
        await self.send(text_data=message["text"])


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:  # noqa: ARG002
        await self.send(text_data=text_data)


class Publish(AsyncWebsocketConsumer):
    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:  # noqa: ARG002
        await self.channel_layer.group_send(GROUP, {"type": TYPE, "text": text_data})


app = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [
                path("room", Room.as_asgi()),
                path("echo", Echo.as_asgi()),
                path("publish", Publish.as_asgi()),
            ]
        ),
    }
)


@contextlib.asynccontextmanager
async def open_layer() -> AsyncIterator[Any]:
    yield get_channel_layer()
