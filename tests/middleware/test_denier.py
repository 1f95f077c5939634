"""WebsocketDenier rejects every connection."""

from __future__ import annotations

from fast_channels.middleware import WebsocketDenier
from fast_channels.testing import WebsocketCommunicator


class TestWebsocketDenier:
    async def test_connection_is_rejected(self):
        """The close event comes before any accept, with code and reason."""
        client = WebsocketCommunicator(WebsocketDenier(), "/")
        await client.send_input({"type": "websocket.connect"})
        assert await client.receive_output() == {
            "type": "websocket.close",
            "code": 1000,
            "reason": "",
        }
        await client.wait()

    async def test_as_asgi_returns_an_application(self):
        """A route can contain it like a consumer."""
        client = WebsocketCommunicator(WebsocketDenier.as_asgi(), "/")
        assert await client.connect() == (False, 1000)
        await client.wait()

    async def test_client_that_left_already_gets_no_answer(self):
        """The client has left, so the denier sends nothing."""
        client = WebsocketCommunicator(WebsocketDenier(), "/")
        await client.send_input({"type": "websocket.disconnect", "code": 1001})
        await client.wait()
        assert client.output_queue.empty()
