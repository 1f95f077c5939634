"""Clients get the drawings of other clients, and none of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute

from fast_channels import AsyncJsonWebsocketConsumer, InMemoryChannelLayer, channel_layers

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

channel_layers.register("board", InMemoryChannelLayer(history_size=1000))


class PointerConsumer(AsyncJsonWebsocketConsumer):
    """Sends where other clients point, which matters only at that moment."""

    channel_layer_alias = "board"
    groups = ["pointers"]

    async def receive_json(self, content: Any, **_: Any) -> None:
        message = {"type": "pointer.moved", "at": content, "sender": self.channel_name}
        await self.channel_layer.group_send("pointers", message)

    async def pointer_moved(self, message: ChannelMessage) -> None:
        if message["sender"] != self.channel_name:
            await self.send_json(message["at"])


class StrokeConsumer(AsyncJsonWebsocketConsumer):
    """Sends strokes of other clients, even after a reconnect, and none of the client's own."""

    channel_layer_alias = "board"
    groups = ["strokes"]
    resumable = True

    async def connect(self) -> None:
        # The page chooses its id once. After a reconnect, channel_name is another one.
        self.client = HTTPConnection(self.scope).query_params.get("client")
        await self.accept()

    async def receive_json(self, content: Any, **_: Any) -> None:
        message = {"type": "stroke.drawn", "stroke": content, "sender": self.client}
        await self.channel_layer.group_send("strokes", message)

    async def stroke_drawn(self, message: ChannelMessage) -> None:
        if message["sender"] != self.client:
            await self.send_json(message["stroke"])


app = FastAPI(
    routes=[
        WebSocketRoute("/ws/pointers", PointerConsumer.as_asgi()),
        WebSocketRoute("/ws/strokes", StrokeConsumer.as_asgi()),
    ],
    lifespan=channel_layers.lifespan,
)
