"""
A program as users write it for fast-channels 1.1: layers, a consumer, a test.

The program uses no later features. It takes the address of a server from REDIS_CHANNEL_URL and
prints the messages of two clients.
"""

import asyncio
import os

from fast_channels.consumer.websocket import AsyncWebsocketConsumer
from fast_channels.layers import (
    InMemoryChannelLayer,
    get_channel_layer,
    has_layers,
    register_channel_layer,
)
from fast_channels.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.testing import WebsocketCommunicator

# Seconds for an answer, on a busy machine.
PATIENCE = 15


def setup_channel_layers():
    """Register the layers of this application, unless they are registered already."""
    if has_layers():
        return

    redis_url = os.getenv("REDIS_CHANNEL_URL", "redis://localhost:6379/0")

    layers = {
        "memory": InMemoryChannelLayer(),
        "chat": RedisPubSubChannelLayer(hosts=[redis_url], prefix="chat"),
        "queue": RedisChannelLayer(hosts=[redis_url], prefix="queue", expiry=900, capacity=1000),
    }
    for alias, layer in layers.items():
        register_channel_layer(alias, layer)


class ChatConsumer(AsyncWebsocketConsumer):
    """Joins its group by declaring it."""

    channel_layer_alias = "chat"
    groups = ["chat_room"]  # noqa: RUF012 - written as users write it

    async def connect(self):
        await self.accept()
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat_message", "message": "somebody joined"}
        )

    async def disconnect(self, code):
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat_message", "message": "somebody left"}
        )

    async def receive(self, text_data=None, bytes_data=None, **kwargs):
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat_message", "message": f"they said: {text_data}"}
        )

    async def chat_message(self, event):
        await self.send(event["message"])


class QueueChatConsumer(AsyncWebsocketConsumer):
    """Joins and leaves its group by calls."""

    channel_layer_alias = "queue"

    async def connect(self):
        await self.accept()
        await self.channel_layer.group_add("queue_room", self.channel_name)

    async def disconnect(self, code):
        await self.channel_layer.group_discard("queue_room", self.channel_name)

    async def receive(self, text_data=None, bytes_data=None, **kwargs):
        await self.channel_layer.group_send(
            "queue_room", {"type": "chat.message", "message": text_data}
        )

    async def chat_message(self, event):
        await self.send(text_data=event["message"])


async def test_two_clients_chat():
    first = WebsocketCommunicator(ChatConsumer.as_asgi(), "/ws/chat")
    second = WebsocketCommunicator(ChatConsumer.as_asgi(), "/ws/chat")

    connected, _ = await first.connect(PATIENCE)
    assert connected
    assert await first.receive_from(PATIENCE) == "somebody joined"
    connected, _ = await second.connect(PATIENCE)
    assert connected
    assert await first.receive_from(PATIENCE) == "somebody joined"
    assert await second.receive_from(PATIENCE) == "somebody joined"

    await first.send_to(text_data="hello")
    assert await first.receive_from(PATIENCE) == "they said: hello"
    assert await second.receive_from(PATIENCE) == "they said: hello"

    await get_channel_layer("chat").group_send(
        "chat_room", {"type": "chat_message", "message": "from outside"}
    )
    assert await first.receive_from(PATIENCE) == "from outside"
    assert await second.receive_from(PATIENCE) == "from outside"

    await first.disconnect(timeout=PATIENCE)
    assert await second.receive_from(PATIENCE) == "somebody left"
    await second.disconnect(timeout=PATIENCE)


async def test_two_clients_chat_over_the_queue():
    first = WebsocketCommunicator(QueueChatConsumer.as_asgi(), "/ws/queue")
    second = WebsocketCommunicator(QueueChatConsumer.as_asgi(), "/ws/queue")
    await first.connect(PATIENCE)
    await second.connect(PATIENCE)
    # Its answer shows that the second client has joined, too.
    await second.send_to(text_data="ready")
    assert await second.receive_from(PATIENCE) == "ready"
    assert await first.receive_from(PATIENCE) == "ready"

    await first.send_to(text_data="hello")
    assert await first.receive_from(PATIENCE) == "hello"
    assert await second.receive_from(PATIENCE) == "hello"
    assert await second.receive_nothing()
    await first.disconnect(timeout=PATIENCE)
    await second.disconnect(timeout=PATIENCE)


async def main():
    await test_two_clients_chat()
    await test_two_clients_chat_over_the_queue()


if __name__ == "__main__":
    setup_channel_layers()
    # A worker may run setup again in a process that has done it.
    setup_channel_layers()
    asyncio.run(main())
    print("everything passed")  # noqa: T201 - the program's result
