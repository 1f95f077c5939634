"""
The application for every server: one chat, mounted in FastAPI, in Starlette, and bare.

The first part of the path chooses, so the frameworks do not see each other.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.layers import InMemoryChannelLayer, channel_layers, register_channel_layer

register_channel_layer("chat", InMemoryChannelLayer())


class ChatConsumer(AsyncWebsocketConsumer):
    """A room named in the query string; members hear of each other's messages and disconnects."""

    channel_layer_alias = "chat"

    async def __call__(self, scope, receive, send):
        self.room = parse_qs(scope["query_string"].decode())["room"][0]
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The server has got its application back, so nothing can follow.
            await channel_layers["chat"].group_send(
                self.room, {"type": "chat.message", "text": "ended"}
            )

    async def connect(self):
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        match text_data.split():
            case ["close", code, *reason]:
                await self.close(code=int(code), reason=" ".join(reason))
            case ["fail"]:
                raise RuntimeError("as asked")
            case ["outstay"]:
                while not self.disconnected:
                    # The handler is not told that the client left, but it can check.
                    await asyncio.sleep(0.005)
                for _ in range(3):
                    await self.send("too late")
                await self.say("outstayed")
            case _:
                await self.say(text_data)

    async def disconnect(self, code):
        # Printed for tests that look after the server and all other clients have gone.
        print(f"left {self.room}")  # noqa: T201 - the tests read the output
        await self.say(f"left {code}")

    async def say(self, text):
        await self.channel_layer.group_send(self.room, {"type": "chat.message", "text": text})

    async def chat_message(self, event):
        await self.send(event["text"])


class JsonConsumer(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "chat"
    groups = ("json",)

    async def receive_json(self, content, **kwargs):
        await self.channel_layer.group_send("json", {"type": "json.message", "content": content})

    async def json_message(self, event):
        await self.send_json(event["content"])


class ForwardingConsumer(AsyncWebsocketConsumer):
    """Repeats messages to the room: numbers without a handler, words through a handler."""

    channel_layer_alias = "chat"
    groups = ("forwarding",)
    forwards = ("number",)

    async def receive(self, text_data=None, bytes_data=None):
        messages = [
            {"type": "number" if part.isdecimal() else "word", "text": part}
            for part in text_data.split()
        ]
        await self.channel_layer.group_send_many("forwarding", messages)

    async def word(self, event):
        await asyncio.sleep(0)
        await self.send(event["text"])


class RejectingConsumer(AsyncWebsocketConsumer):
    async def connect(self):
        await self.close()


CONSUMERS = {
    "/ws/chat": ChatConsumer.as_asgi(),
    "/ws/json": JsonConsumer.as_asgi(),
    "/ws/forwarding": ForwardingConsumer.as_asgi(),
    "/ws/rejecting": RejectingConsumer.as_asgi(),
}


def routes():
    return [WebSocketRoute(path, consumer) for path, consumer in CONSUMERS.items()]


async def plain(scope, receive, send):
    await CONSUMERS[scope["path"]](scope, receive, send)


FRAMEWORKS = {
    "fastapi": FastAPI(lifespan=channel_layers.lifespan, routes=routes()),
    "starlette": Starlette(routes=routes()),
    "plain": plain,
}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await FRAMEWORKS["fastapi"](scope, receive, send)
        return
    _, framework, rest = scope["path"].split("/", 2)
    await FRAMEWORKS[framework]({**scope, "path": f"/{rest}"}, receive, send)
