"""The results of 1-preparation.md, 2-system-messages.md and 3-room-chat.md, over sockets."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from fast_channels.testing import WebsocketCommunicator
from sandbox.tutorial.solutions.part_2 import SystemMessageConsumer
from tests.documents.support import block_with
from tests.tutorial.support import PAGES, assert_printed, console

ROOM_CHAT = PAGES / "3-room-chat.md"


async def get(server, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"{server.url}{path}")


async def is_missing(server, route: str) -> bool:
    """Return whether no route exists at this path."""
    with pytest.raises(InvalidStatus) as refusal:
        async with server.socket(route):
            pass
    return refusal.value.response.status_code == 403


async def test_after_part_2_the_system_socket_answers(stage):
    """The socket greets, echoes, and names its message types; there is no broker and no room."""
    server = stage(2).server
    async with server.socket("system") as client:
        assert await client.next() == "welcome: an echo, no layer involved"
        await client.send("  anybody?  ")
        assert await client.next() == "echo: anybody?"
        await client.send(" ")
        assert await client.next() == "not sent: the message is empty"
        await client.send(b"1234")
        refusal = "got a binary frame of 4 bytes, this socket takes text"
        assert await client.closed() == (1003, refusal)
    assert (await get(server, "/healthz")).json() == {"layers": {"memory": "ready"}}
    assert await is_missing(server, "room/lobby")


async def test_after_part_3_a_room_spans_processes(stage):
    """A line typed on one port appears on another, in this room only."""
    first, second = stage(3).server, stage(3).second_server
    *program, _, _, port = console(ROOM_CHAT, "uvicorn")
    assert [*program, port] == ["uvicorn", "sandbox.main:app", "8081"]
    health = await get(first, "/healthz")
    assert health.text == block_with(ROOM_CHAT, "layers", "json").strip()
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
    assert await is_missing(first, "backgroundjob")


async def test_room_name_that_is_too_long_is_refused(stage):
    """The close frame has the reason that the page quotes; other names make rooms."""
    running = stage(3)
    async with running.server.socket("room/two%20words?name=ada") as client:
        assert await client.next() == "ada joined two words"
    async with running.server.socket(f"room/{'x' * 95}") as client:
        code, reason = await client.closed()
    assert code == 4400
    assert_printed(block_with(ROOM_CHAT, "is too long", "text"), reason)


async def test_room_tells_when_the_broker_was_away(stage):
    """Lines are answered meanwhile; then a notice comes, and the room works as before."""
    running = stage(3)
    async with running.server.socket("room/harbour") as client:
        await client.until(" joined harbour")
        running.broker.stop()
        try:
            await client.send("anybody?")
            quote = block_with(ROOM_CHAT, "not sent: redis", "text")
            assert_printed(quote, await client.next())
        finally:
            running.broker.start()
        assert_printed(block_with(ROOM_CHAT, "notice: ", "text"), await client.until("notice"))
        await client.send("here again")
        await client.until(": here again")


async def test_exercises_of_parts_1_and_3_are_solved(stage):
    """A room on one process shows a request to the other; each layer reports its numbers."""
    first, second = stage(3).server, stage(3).second_server
    *program, url = console(ROOM_CHAT, "curl")
    assert program == ["curl", "-X", "POST"]
    target = urlsplit(url)
    assert target.port == 8081
    async with first.socket("room/lobby") as client, httpx.AsyncClient() as http:
        await client.until(" joined lobby")
        posted = await http.post(f"{second.url}{target.path}?{target.query}")
        assert posted.status_code == 204
        assert await client.until("hello") == "hello"
        refused = await http.post(f"{second.url}/rooms/{'x' * 95}?text=hello")
        assert refused.status_code == 422
    statistics = (await get(second, "/statistics")).json()
    assert statistics.keys() == {"memory", "chat"}
    assert statistics["chat"]["published"] >= 1


async def test_exercise_of_part_2_is_solved():
    """Each connection numbers its answers."""
    clients = [WebsocketCommunicator(SystemMessageConsumer.as_asgi(), "/") for _ in range(2)]
    for client in clients:
        await client.connect()
        await client.receive_from()
        for number in (1, 2):
            await client.send_to("hello")
            assert await client.receive_from() == f"echo {number}: hello"
    for client in clients:
        await client.disconnect()
