"""Middleware classes have one shape."""

from __future__ import annotations

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.middleware import BaseMiddleware
from fast_channels.testing import WebsocketCommunicator


class Recorded:
    """An application that records its calls."""

    def __init__(self) -> None:
        self.calls = []

    async def __call__(self, scope, receive, send):
        scope["by the application"] = True
        self.calls.append((scope, receive, send))
        return "the result"


async def receive():
    raise AssertionError("nobody asks for events here")


async def send(event):
    raise AssertionError("nobody sends events here")


class TestBaseMiddleware:
    async def test_application_gets_a_copy_of_the_scope(self):
        """Changes inside do not reach the outer scope."""
        inner = Recorded()
        scope = {"type": "websocket", "path": "/"}
        await BaseMiddleware(inner)(scope, receive, send)
        assert scope == {"type": "websocket", "path": "/"}
        [(seen, *_)] = inner.calls
        assert seen == {"type": "websocket", "path": "/", "by the application": True}

    async def test_receive_send_and_the_result_pass_through(self):
        """A middleware without changes has no effect."""
        inner = Recorded()
        assert await BaseMiddleware(inner)({"type": "http"}, receive, send) == "the result"
        assert inner.calls[0][1:] == (receive, send)

    async def test_subclass_adds_to_the_scope_of_a_consumer(self):
        """The common use, in five lines."""

        class Greeting(BaseMiddleware):
            async def __call__(self, scope, receive, send):
                return await super().__call__({**scope, "greeting": "hello"}, receive, send)

        class Greeted(AsyncWebsocketConsumer):
            async def connect(self):
                await self.accept()
                await self.send(self.scope["greeting"])

        client = WebsocketCommunicator(Greeting(Greeted.as_asgi()), "/")
        assert await client.connect() == (True, None)
        assert await client.receive_from() == "hello"
        assert "greeting" not in client.scope
        await client.disconnect()
