"""One chat on each ASGI server, mounted in each framework, seen by a real client."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest
import websockets

from tests.servers.support import (
    COMMANDS,
    Room,
    ServerProcess,
    closing,
    complaints,
    heard,
)


@pytest.fixture(scope="module", params=COMMANDS)
def running(request, tmp_path_factory):
    """One server for all tests of this module."""
    process = ServerProcess(request.param, tmp_path_factory.mktemp("server") / "output.log")
    yield process
    process.stop()
    assert complaints(process.new_output()) == []


@pytest.fixture
def server(running):
    """Fail a test during which the server printed an unexpected error."""
    yield running
    assert complaints(running.new_output()) == []


@pytest.fixture(params=["fastapi", "starlette", "plain"])
def framework(request):
    return request.param


@pytest.fixture
def room(server, framework):
    return Room(server, framework)


async def test_message_reaches_both_clients(room):
    """Two clients in a room get each other's messages, text as text."""
    async with await room.enter() as first, await room.enter() as second:
        await first.send("hello")
        assert await heard(first) == await heard(second) == ["hello"]
        await second.send("Grüße \N{PARTY POPPER}")
        assert await heard(first) == await heard(second) == ["Grüße \N{PARTY POPPER}"]


async def test_json_consumer_answers(server, framework):
    """JSON goes in and out; invalid JSON closes with 1007, and a binary frame with 1003."""
    url = server.url(f"{framework}/ws/json")
    async with websockets.connect(url) as client:
        await client.send('{"type": "greeting", "count": [1, 2.5, null]}')
        (answer,) = await heard(client)
        assert json.loads(answer) == {"type": "greeting", "count": [1, 2.5, None]}
        await client.send("{no json")
        code, reason = await closing(client)
        assert (code, reason.startswith("invalid JSON")) == (1007, True)
    async with websockets.connect(url) as client:
        await client.send(b"binary")
        code, _ = await closing(client)
        assert code == 1003


async def test_what_is_forwarded_and_what_is_handled_arrives_in_order(server, framework):
    """Messages arrive in order at every client, in the way that each server offers."""
    url = server.url(f"{framework}/ws/forwarding")
    parts = [str(n) if n % 3 else f"word{n}" for n in range(60)]
    async with websockets.connect(url) as first, websockets.connect(url) as second:
        for number in range(0, len(parts), 6):
            await first.send(" ".join(parts[number : number + 6]))
        assert await heard(first, len(parts)) == parts
        assert await heard(second, len(parts)) == parts


async def test_close_code_and_reason_arrive(room):
    """A client sees the code and the reason with which a handler closed."""
    async with await room.enter() as client:
        await client.send("close 4001 seen enough")
        assert await closing(client) == (4001, "seen enough")


async def test_rejected_client_sees_403(server, framework):
    """Closing in connect() instead of accepting is HTTP status 403."""
    with pytest.raises(websockets.InvalidStatus) as rejected:
        await websockets.connect(server.url(f"{framework}/ws/rejecting"))
    assert rejected.value.response.status_code == 403


async def test_disconnect_runs_once_when_a_client_leaves(room, server):
    """Other clients hear one goodbye with the client's code, then that its consumer ended."""
    # Hypercorn always reports 1006 to applications.
    code = 1006 if server.name == "hypercorn" else 1001
    async with await room.enter() as watcher:
        async with await room.enter() as leaver:
            await leaver.close(1001)
        assert await heard(watcher, 2) == [f"left {code}", "ended"]
        await watcher.send("anybody there?")
        assert await heard(watcher) == ["anybody there?"]


async def test_disconnect_runs_once_when_a_client_vanishes(room):
    """A connection that breaks without a close frame ends its consumer all the same."""
    async with await room.enter() as watcher:
        leaver = await room.enter()
        leaver.transport.abort()
        farewell, end = await heard(watcher, 2)
        # Servers differ in the code that they report for a broken connection.
        assert farewell in ("left 1005", "left 1006")
        assert end == "ended"
        await watcher.send("anybody there?")
        assert await heard(watcher) == ["anybody there?"]


async def test_disconnect_runs_once_when_the_consumer_closes(room):
    """
    Closing from a handler runs disconnect once with that code; the client's answer adds no
    call.
    """
    async with await room.enter() as watcher:
        async with await room.enter() as leaver:
            await leaver.send("close 4002")
            await closing(leaver)
        assert await heard(watcher, 2) == ["left 4002", "ended"]
        await watcher.send("anybody there?")
        assert await heard(watcher) == ["anybody there?"]


@pytest.mark.parametrize("how", ["closes", "vanishes"])
async def test_send_to_a_client_that_left_is_harmless(room, how):
    """A handler that continues to send after its client left returns without a traceback."""
    async with await room.enter() as watcher:
        leaver = await room.enter()
        await leaver.send("outstay")
        if how == "closes":
            await leaver.close()
        else:
            leaver.transport.abort()
        said = await heard(watcher, 3)
        assert (said[0], said[1][:4], said[2]) == ("outstayed", "left", "ended")


async def test_broadcasts_while_clients_leave_are_harmless(room):
    """Clients that leave during a flood disturb neither the server nor the remaining clients."""
    flood = [f"message {number}" for number in range(100)]
    async with await room.enter() as watcher:
        leavers = [await room.enter() for _ in range(6)]

        async def leave():
            for number, leaver in enumerate(leavers):
                await heard(leaver, 5)
                if number % 2:
                    await leaver.close()
                else:
                    leaver.transport.abort()

        leaving = asyncio.create_task(leave())
        for text in flood:
            await watcher.send(text)
        await leaving
        said = await heard(watcher, len(flood) + 2 * len(leavers))
        assert [text for text in said if text.startswith("message")] == flood
        assert said.count("ended") == len(leavers)
        assert sum(text.startswith("left") for text in said) == len(leavers)


async def test_failing_handler_closes_its_own_connection_only(room, running):
    """
    An exception in a handler closes its client with 1011, logs one traceback, and ends nothing
    else.
    """
    async with await room.enter() as watcher:
        async with await room.enter() as unlucky:
            await unlucky.send("fail")
            assert (await closing(unlucky))[0] == 1011
        assert await heard(watcher, 2) == ["left 1011", "ended"]
        await watcher.send("still here")
        assert await heard(watcher) == ["still here"]
    output = running.new_output()
    assert output.count("Traceback") == 1
    assert "RuntimeError: as asked" in output


@pytest.mark.parametrize("name", COMMANDS)
async def test_server_stops_while_clients_are_connected(name, tmp_path):
    """A server that is told to stop ends in time, and no code of ours fails."""
    if name == "hypercorn" and sys.version_info >= (3, 12):
        pytest.skip("Hypercorn 0.18 waits for its clients there, whatever it serves")
    server = ServerProcess(name, tmp_path / "output.log")
    room = Room(server, "fastapi")
    try:
        client = await room.enter()
        await client.send("hello")
        assert await heard(client) == ["hello"]
    finally:
        await asyncio.to_thread(server.stop)
    await closing(client)
    # Granian may end its loop without telling the application.
    fewest = 0 if name == "granian" else 1
    assert fewest <= server.output.count(f"left {room.name}") <= 1
    # Hypercorn's own tasks may report that they were cancelled.
    assert "fast_channels" not in server.output
