"""What the pages of parts 1 to 3 promise is what the application does after them."""

from __future__ import annotations

import httpx
import pytest
from websockets.exceptions import InvalidStatus


async def healthz(server) -> dict[str, str]:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{server.url}/healthz")).json()["layers"]


async def refused(server, route: str) -> bool:
    """Whether there is nothing at this route."""
    with pytest.raises(InvalidStatus) as refusal:
        async with server.socket(route):
            pass
    return refusal.value.response.status_code == 403


async def test_after_part_1_the_page_is_there_and_no_route(stage):
    """The layers are said to be ready, and no broker is needed for the one there is."""
    server = stage(1).server
    assert await healthz(server) == {"memory": "ready"}
    async with httpx.AsyncClient() as client:
        page = await client.get(server.url)
    assert "System messages" in page.text
    assert await refused(server, "system")


async def test_after_part_2_the_system_socket_answers(stage):
    """It greets, echoes, and says what it takes; there is no broker and no room."""
    server = stage(2).server
    async with server.socket("system") as client:
        assert await client.next() == "welcome: an echo, no layer involved"
        await client.send("  anybody?  ")
        assert await client.next() == "echo: anybody?"
        await client.send(" ")
        assert await client.next() == "not sent: the message is empty"
        await client.send(b"1234")
        assert await client.closed() == (
            1003,
            "got a binary frame of 4 bytes, this socket takes text",
        )
    assert await healthz(server) == {"memory": "ready"}
    assert await refused(server, "room/lobby")


async def test_after_part_3_a_room_spans_processes(stage):
    """What is typed on one port is read on another, in this room only."""
    first, second = stage(3).server, stage(3).second_server
    assert await healthz(first) == {"memory": "ready", "chat": "ready"}
    async with first.socket("room/lobby") as one, first.socket("room/other") as elsewhere:
        joined = await one.until(" joined lobby")
        async with second.socket("room/lobby") as two:
            guest = (await two.until(" joined lobby")).split()[0]
            assert guest not in joined
            await two.send("hello")
            assert await one.until("hello") == f"{guest}: hello"
        await one.until(f"{guest} left")
        await elsewhere.send("here")
        await elsewhere.until(": here")
        assert len(elsewhere.received) == 2
    assert await refused(first, "backgroundjob")
