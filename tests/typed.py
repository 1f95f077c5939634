"""
Code of a user with a type checker: `make check` checks it, and no test runs it.

Consumers, middleware and communicators accept applications of each other and of the frameworks,
and handlers may narrow the types of their parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from fast_channels import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    BaseChannelLayer,
    ChannelNameRouter,
    OriginValidator,
    RedisStreamsChannelLayer,
    channel_layers,
    get_channel_layer,
)
from fast_channels.middleware import BaseMiddleware
from fast_channels.testing import HttpCommunicator, ResumingCommunicator, WebsocketCommunicator
from fast_channels.type_defs import ASGI3Application, ASGIApplicationProtocol, ChannelMessage

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    # Redis layers are imported lazily, which must not hide a name that does not exist.
    from fast_channels import NoSuchName  # type: ignore[attr-defined]  # noqa: F401
    from fast_channels.layers import NoSuchLayer  # type: ignore[attr-defined]  # noqa: F401


class Chat(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "chat"
    groups = ["lobby"]
    resumable = True
    overflow = "close"

    async def connect(self) -> None:
        await self.accept(subprotocol="chat", headers=[(b"x-room", b"lobby")])
        await self.channel_layer.group_add("others", self.channel_name)

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("others", self.channel_name)

    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        await self.channel_layer.group_send("lobby", {"type": "chat.message", **content})

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        return await super().encode_json(content)


class Echo(AsyncWebsocketConsumer):
    groups = ("lobby",)
    forwards = ["chat.message"]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data, bytes_data)


class Page(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        await self.send_response(200, body, headers=[(b"content-type", b"text/plain")])


class Jobs(AsyncConsumer):
    async def job_run(self, message: ChannelMessage) -> None:
        assert_type(await self.channel_layer.receive("done"), ChannelMessage)


class Foreign:
    """Middleware as Starlette types it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Own(BaseMiddleware):
    """Middleware of this library, called with Starlette's types."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.inner(dict(scope), receive, send)


guarded = OriginValidator(Chat.as_asgi(), ["https://example.com"])
routes: list[BaseRoute] = [
    WebSocketRoute("/chat", Chat.as_asgi()),
    WebSocketRoute("/guarded", guarded),
    Route("/page", Page.as_asgi()),
    Mount("/mounted", Echo.as_asgi()),
    Mount("/mounted-and-guarded", Own(Foreign(guarded))),
]
starlette = Starlette(routes=routes, lifespan=channel_layers.lifespan)
fastapi = FastAPI(routes=routes, lifespan=channel_layers.lifespan)
fastapi.mount("/all", OriginValidator(starlette, ["*"]))

everywhere: list[ASGIApp] = [Chat.as_asgi(), guarded, Own(fastapi), Foreign(Echo.as_asgi())]
here: list[ASGI3Application] = [fastapi, starlette, Foreign(guarded), *everywhere]
protocol: list[ASGIApplicationProtocol] = [fastapi, starlette, guarded, Jobs.as_asgi()]
router: ASGIApp = ChannelNameRouter({"jobs": Jobs.as_asgi()})


async def clients() -> None:
    for app in here:
        client = WebsocketCommunicator(app, "/chat")
        assert_type((await client.connect())[0], bool)
        await HttpCommunicator(app, "/page", method="POST").get_response()
        await ResumingCommunicator(app, "/chat").connect()
    WebsocketCommunicator(fastapi, "/chat")


async def layers() -> None:
    assert_type(channel_layers["chat"], BaseChannelLayer)
    assert_type(get_channel_layer("chat"), BaseChannelLayer | None)
    hosts = ["redis://localhost"]
    layer = RedisStreamsChannelLayer(hosts, capacity=10, channel_capacity={"http.*": 3})
    message = {"type": "chat.message", "text": "hello"}
    await layer.group_send_many("lobby", [message, {"type": "chat.message", "n": 1}])
    async with layer.take("jobs") as work:
        assert_type(work.message, ChannelMessage)
