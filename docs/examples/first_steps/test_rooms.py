"""Tests of the application, without a server."""

import httpx
from main import app

from fast_channels.testing import WebsocketCommunicator


async def test_room_reads_what_is_typed_and_posted() -> None:
    ann = WebsocketCommunicator(app, "/ws/rooms/7")
    bob = WebsocketCommunicator(app, "/ws/rooms/7")
    assert await ann.connect() == (True, None)
    assert await bob.connect() == (True, None)

    await ann.send_to(text_data="hello")
    assert await bob.receive_from() == "hello"

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        response = await http.post("/rooms/7/messages", params={"text": "lunch"})
    assert response.status_code == 204
    assert await bob.receive_from() == "lunch"

    await ann.disconnect()
    await bob.disconnect()
