"""An application for fast-channels 1.1, which runs unchanged on 1.1 and on 2.0."""

import os

from asgiref.sync import async_to_sync

from fast_channels.consumer.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.layers import (
    InMemoryChannelLayer,
    get_channel_layer,
    has_layers,
    register_channel_layer,
)
from fast_channels.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.middleware import BaseMiddleware


def setup_channel_layers():
    if has_layers():
        return
    redis_url = os.getenv("REDIS_URL", "redis://localhost:6379")
    register_channel_layer("memory", InMemoryChannelLayer())
    register_channel_layer("chat", RedisPubSubChannelLayer(hosts=[redis_url], prefix="app_chat"))
    register_channel_layer(
        "orders", RedisChannelLayer(hosts=[redis_url], prefix="app_orders", capacity=1500)
    )


class Language(BaseMiddleware):
    async def __call__(self, scope, receive, send):
        scope = dict(scope)
        scope["language"] = dict(scope["headers"]).get(b"accept-language", b"en").decode()
        return await super().__call__(scope, receive, send)


class ChatConsumer(AsyncWebsocketConsumer):
    """Joins its group by declaring it."""

    channel_layer_alias = "chat"
    groups = ["chat_room"]

    async def connect(self):
        await self.accept()
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat_message", "message": f"joined ({self.scope['language']})"}
        )

    async def disconnect(self, close_code):
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat_message", "message": f"left ({close_code})"}
        )

    async def receive(self, text_data=None, bytes_data=None, **kwargs):
        if text_data == "quit":
            await self.send("bye", close=4001)
            return
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat_message", "message": f"message: {text_data}"}
        )

    async def chat_message(self, event):
        await self.send(event["message"])


class OrderConsumer(AsyncJsonWebsocketConsumer):
    """Calls group_add and group_discard itself."""

    channel_layer_alias = "orders"

    async def connect(self):
        if self.channel_layer:
            await self.channel_layer.group_add("orders", self.channel_name)
        await self.accept()

    async def disconnect(self, close_code):
        if self.channel_layer:
            await self.channel_layer.group_discard("orders", self.channel_name)

    async def receive_json(self, content, **kwargs):
        await self.channel_layer.group_send("orders", {"type": "order.placed", **content})

    async def order_placed(self, event):
        await self.send_json({"order": event["order"]})


def place_order(number):
    """Send from a job, which runs in a thread without an event loop."""
    layer = get_channel_layer("orders")
    async_to_sync(layer.group_send)("orders", {"type": "order.placed", "order": number})


setup_channel_layers()
