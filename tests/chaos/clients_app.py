"""The application for tests/chaos/test_clients.py: one consumer per way to misbehave."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict

from fast_channels.consumer import AsyncHttpConsumer, AsyncWebsocketConsumer, RateLimit, ws_state
from fast_channels.layers import InMemoryChannelLayer, channel_layers, register_channel_layer

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")

register_channel_layer("chat", InMemoryChannelLayer())

# Shorter than the default, which allows for slow phones, so that tests do not wait.
ws_state.CLOSE_FRAME_TIMEOUT_SECONDS = 0.5


class Told(AsyncWebsocketConsumer):
    """Tells the watchers about its connections, frames and disconnects."""

    channel_layer_alias = "chat"

    async def tell(self, text):
        message = {"type": "news", "text": f"{type(self).__name__} {text}"}
        await self.channel_layer.group_send("watchers", message)

    async def disconnect(self, code):
        await self.tell(f"left {code}")


class Watcher(AsyncWebsocketConsumer):
    """Sends the news to its client and answers questions about the process."""

    channel_layer_alias = "chat"
    groups = ("watchers",)

    async def news(self, message):
        await self.send(message["text"])

    async def receive(self, text_data=None, bytes_data=None):
        match text_data.split():
            case ["statistics"]:
                statistics = asdict(self.channel_layer.statistics())
                await self.send(f"answer {json.dumps(statistics)}")
            case ["broadcast", group, count]:
                for _ in range(int(count)):
                    message = {"type": "data", "data": b"x" * 65_536}
                    await self.channel_layer.group_send(group, message)
                await self.send("answer sent")


class Flooded(Told):
    """Sends every message of its group to its client."""

    groups = ("flood",)

    async def data(self, message):
        await self.send(bytes_data=message["data"])


class Impatient(Flooded):
    groups = ("impatient",)
    send_timeout = 0.5


class Forwarding(Told):
    """Like `Flooded`, but without a handler: the message itself is the frame."""

    groups = ("forwarded",)
    forwards = ("data",)

    @classmethod
    def forwarded_frame(cls, message):
        return message["data"]


class ForwardingImpatient(Forwarding):
    groups = ("forwarded-impatient",)
    send_timeout = 0.5


class Stream(AsyncHttpConsumer):
    """A response that goes on as long as its client is connected."""

    channel_layer_alias = "chat"
    send_timeout = 0.5

    async def handle(self, body):
        await self.send_headers()
        while not self.disconnected:
            await self.send_body(b"x" * 65_536, more_body=True)

    async def disconnect(self):
        message = {"type": "news", "text": "Stream left"}
        await self.channel_layer.group_send("watchers", message)


class Slow(Told):
    """A handler that runs until its client leaves."""

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "work":
            await self.tell("works")
            while not self.disconnected:
                # No event announces this, so the handler polls.
                await asyncio.sleep(0.005)
            await self.send("too late")
            await self.tell("noticed")
        else:
            await self.tell(text_data)


class Crowded(Told):
    """Sends from many tasks at once, more than the kernel buffers."""

    async def receive(self, text_data=None, bytes_data=None):
        await asyncio.gather(*(self.send(bytes_data=bytes([n]) * 300_000) for n in range(20)))
        await self.close(4000)


class Beating(Told):
    heartbeat_interval = 0.2
    heartbeat_timeout = 2.0

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "work":
            await asyncio.sleep(2.4)
        await self.send(f"heard {text_data}")


class Limited(Told):
    max_frame_size = 100
    rate_limit = RateLimit(per_second=0.001, burst=3)

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data)


class Dropping(Limited):
    rate_limit = RateLimit(per_second=0.001, burst=3, action="drop")


class Single(Told):
    max_connections = 1


class Talkative(Told):
    """Sends to its client after the client has left."""

    async def receive(self, text_data=None, bytes_data=None):
        await self.close(4000, "enough")
        await self.close(4001, "again")
        for _ in range(3):
            await self.send("too late")
        await self.tell("went on")

    async def disconnect(self, code):
        await self.send("far too late")
        await self.close(4002)
        await super().disconnect(code)


CONSUMERS = [
    Watcher,
    Flooded,
    Impatient,
    Forwarding,
    ForwardingImpatient,
    Stream,
    Slow,
    Crowded,
    Beating,
    Limited,
    Dropping,
    Single,
    Talkative,
]
ROUTES = {f"/{consumer.__name__}": consumer.as_asgi() for consumer in CONSUMERS}


async def app(scope, receive, send):
    if scope["type"] != "lifespan":
        await ROUTES[scope["path"]](scope, receive, send)
        return
    await receive()
    async with channel_layers.lifespan():
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
