"""The application that the other files of this folder test."""

from typing import Any

from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from fast_channels import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    ChannelNameRouter,
    channel_layers,
)
from fast_channels.middleware import BaseMiddleware

# Users by their tokens. A real application asks a database, or checks a signature.
USERS = {"token-of-ann": "ann", "token-of-bob": "bob"}


class TokenAuth(BaseMiddleware):
    """Middleware that puts the user of the token in the query string, or None, into the scope."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        token = scope["query_string"].decode().removeprefix("token=")
        return await super().__call__({**scope, "user": USERS.get(token)}, receive, send)


class Room(AsyncJsonWebsocketConsumer):
    """A chat room for known users."""

    channel_layer_alias = "chat"

    async def connect(self) -> None:
        self.user = self.scope["user"]
        if self.user is None:
            await self.close()
            return
        self.group = f"room.{self.scope['path_params']['room']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if content.get("report"):
            await self.channel_layer.send("reports", {"type": "report.make", "group": self.group})
        else:
            message = {"type": "chat.message", "who": self.user, "text": content["text"]}
            await self.channel_layer.group_send(self.group, message)

    async def chat_message(self, event: Any) -> None:
        await self.send_json({"who": event["who"], "text": event["text"]})

    async def disconnect(self, code: int) -> None:
        message = {"type": "chat.message", "who": self.user, "text": f"left with {code}"}
        await self.channel_layer.group_send(self.group, message)


class News(AsyncWebsocketConsumer):
    """Headlines that clients receive even after a reconnect."""

    channel_layer_alias = "chat"
    groups = ["news"]
    resumable = True

    async def headline(self, event: Any) -> None:
        await self.send(event["text"])


class Count(AsyncHttpConsumer):
    """An endpoint that returns the length of the request body."""

    async def handle(self, body: bytes) -> None:
        await self.send_response(200, str(len(body)).encode())


class Reports(AsyncConsumer):
    """Work: make a report, and tell the room that asked for it."""

    async def report_make(self, message: Any) -> None:
        event = {"type": "chat.message", "who": "reports", "text": "ready"}
        await self.channel_layer.group_send(message["group"], event)


app = FastAPI(
    routes=[
        WebSocketRoute("/ws/room/{room}", TokenAuth(Room.as_asgi())),
        WebSocketRoute("/ws/news", News.as_asgi()),
    ],
    lifespan=channel_layers.lifespan,
)
router = ChannelNameRouter({"reports": Reports.as_asgi()})


@app.post("/announce/{room}")
async def announce(room: str, text: str) -> None:
    message = {"type": "chat.message", "who": "operator", "text": text}
    await channel_layers["chat"].group_send(f"room.{room}", message)
