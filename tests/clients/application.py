"""
A room with resuming clients, for a server process.

`GET /say` sends a message to the room, and `GET /cut` breaks every connection.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from fast_channels import AsyncJsonWebsocketConsumer, InMemoryChannelLayer, channel_layers

channel_layers.register("room", InMemoryChannelLayer(history_size=100))


class Room(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "room"
    groups = ("lobby",)
    resumable = True

    async def connect(self):
        # Not with join_group: a client that reconnects must not get the cut replayed.
        await self.channel_layer.group_add("everybody", self.channel_name)
        await self.accept()

    async def receive_json(self, content, **kwargs):
        await say(content)

    async def said(self, event):
        await self.send_json(event["text"])

    async def cut(self, event):
        await self.close(code=1012)


async def say(text):
    await channel_layers["room"].group_send("lobby", {"type": "said", "text": text})


async def answer_say(request):
    await say(request.query_params["text"])
    return PlainTextResponse("said")


async def answer_cut(request):
    await channel_layers["room"].group_send("everybody", {"type": "cut"})
    return PlainTextResponse("cut")


app = Starlette(
    routes=[
        WebSocketRoute("/ws", Room.as_asgi()),
        Route("/say", answer_say),
        Route("/cut", answer_cut),
    ],
    lifespan=channel_layers.lifespan,
)
