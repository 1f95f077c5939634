"""Routes of WebSockets by path. Routes of shared channels are tested in test_worker.py."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Router

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import ConsumerStateError, UnknownLayer
from fast_channels.routing import WebSocketRouter
from fast_channels.testing import (
    ApplicationCommunicator,
    HttpCommunicator,
    WebsocketCommunicator,
)


class Echo(AsyncJsonWebsocketConsumer):
    """Sends the parameters of its path."""

    def __init__(self, name="echo"):
        super().__init__()
        self.name = name

    async def connect(self):
        await self.accept()
        await self.send_json([self.name, self.scope["path_params"]])


@pytest.fixture
def router():
    made = WebSocketRouter()
    made.add_websocket_route("/chat", Echo.as_asgi(name="chat"))
    made.add_websocket_route("/room/{room_name}", Echo.as_asgi(name="room"))
    made.add_websocket_route("/room/{room_name}/{what}", Echo.as_asgi(name="two"))
    made.add_websocket_route("/file/{path:path}", Echo.as_asgi(name="file"))
    made.add_websocket_route("/a.b", Echo.as_asgi(name="dot"))
    return made


@pytest.mark.parametrize(
    ("path", "reached"),
    [
        ("/chat", ["chat", {}]),
        ("/room/two words", ["room", {"room_name": "two words"}]),
        ("/room/north/log", ["two", {"room_name": "north", "what": "log"}]),
        ("/room/été%0A☕", ["room", {"room_name": "été\n☕"}]),
        ("/file/a/b.txt", ["file", {"path": "a/b.txt"}]),
        ("/file/", ["file", {"path": ""}]),
        ("/a.b", ["dot", {}]),
    ],
)
async def test_path_leads_to_its_consumer_with_its_parameters(router, path, reached):
    """A parameter is one segment, or with `:path` all that remain."""
    client = WebsocketCommunicator(router, path)
    assert (await client.connect())[0]
    assert await client.receive_json_from() == reached
    await client.disconnect()


@pytest.mark.parametrize(
    "path", ["/", "/chat/", "/chats", "/room/", "/axb", "/nowhere", "/chat%0A"]
)
async def test_other_paths_are_refused(router, path):
    """The handshake ends without a consumer."""
    client = WebsocketCommunicator(router, path)
    assert await client.connect() == (False, 1000)


async def test_first_route_that_matches_is_used(router):
    """Like in other routers, a later route of the same path is never reached."""
    router.add_websocket_route("/chat", Echo.as_asgi(name="late"))
    client = WebsocketCommunicator(router, "/chat")
    await client.connect()
    assert await client.receive_json_from() == ["chat", {}]
    await client.disconnect()


@pytest.mark.parametrize("framework", [FastAPI, lambda: Router(routes=[])])
@pytest.mark.parametrize(
    ("path", "reached"),
    [
        ("/ws/room/north east", ["room", {"room_name": "north east"}]),
        ("/acme/ws/chat", ["chat", {"tenant": "acme"}]),
        ("/ws/nowhere", None),
    ],
)
async def test_router_is_mounted_into_an_application(framework, router, path, reached):
    """The path below the mount decides, and parameters of the mount are kept."""
    app = framework()
    app.mount("/ws", router)
    app.mount("/{tenant}/ws", router)
    client = WebsocketCommunicator(app, path)
    connected, _ = await client.connect()
    assert connected == (reached is not None)
    if connected:
        assert await client.receive_json_from() == reached
        await client.disconnect()


async def test_request_without_a_websocket_is_answered_with_404(router):
    """A browser that opens the address gets an answer."""
    response = await HttpCommunicator(router, "/chat").get_response()
    assert response["status"] == 404
    assert response["body"] == b"this address takes WebSockets only"


@pytest.mark.parametrize(("path", "root_path"), [("/api/chat", "/api"), ("/chat", "/api")])
async def test_root_path_of_a_proxy_is_left_out(router, path, root_path):
    """Servers differ in whether the path of the scope has it."""
    scope = {
        "type": "websocket",
        "path": path,
        "root_path": root_path,
        "headers": [],
        "query_string": b"",
    }
    client = ApplicationCommunicator(router, scope)
    await client.send_input({"type": "websocket.connect"})
    assert (await client.receive_output())["type"] == "websocket.accept"
    await client.send_input({"type": "websocket.disconnect", "code": 1000})
    await client.wait()


async def test_scope_of_the_caller_is_not_changed(router):
    """Middleware around the router still sees its own parameters."""
    client = WebsocketCommunicator(router, "/room/north")
    before = dict(client.scope)
    await client.connect()
    assert client.scope == before
    await client.disconnect()


async def test_scope_that_is_no_connection_is_an_error(router):
    """An application around the router has the lifespan."""
    with pytest.raises(ValueError, match="not 'lifespan'; mount it into an application"):
        await router({"type": "lifespan"}, None, None)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("chat", "path is 'chat'; begin it with a slash"),
        ("/room/{}", "'{}' in '/room/{}' is not a parameter; use {name} or {name:path}"),
        ("/room/{room:uuid}", "'{room:uuid}' in .* is not a parameter"),
        ("/room/{two words}", "is not a parameter"),
        ("/{a}/{a}", "'/{a}/{a}' has the parameter 'a' twice"),
    ],
)
def test_path_that_makes_no_sense_is_refused(router, path, said):
    """The error comes when the route is added, and says what is allowed."""
    with pytest.raises(ValueError, match=said):
        router.add_websocket_route(path, Echo.as_asgi())


async def test_consumers_are_checked_at_the_start(registry, router):
    """The lifespan of the layers looks for the layer of each routed consumer."""
    async with registry.lifespan(router):
        pass

    class Chat(Echo):
        channel_layer_alias = "chat"

    router.add_websocket_route("/late", Chat.as_asgi())
    with pytest.raises(UnknownLayer, match="Chat: no channel layer is called 'chat'"):
        async with registry.lifespan(Router(routes=[Mount("/ws", app=router)])):
            pass


async def test_consumer_without_as_asgi_is_told(registry, router):
    """The application does not start."""
    router.add_websocket_route("/late", Echo)
    with pytest.raises(ConsumerStateError, match=r"mount Echo\.as_asgi\(\)"):
        async with registry.lifespan(router):
            pass
