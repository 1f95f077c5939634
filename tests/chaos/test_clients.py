"""Slow, gone and hostile clients on real servers: each client harms only its own connection."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
import websockets

from tests.chaos.clients import RawClient, Server, Watch, closings, eventually, open_request
from tests.chaos.proxy import Proxy
from tests.servers.support import COMMANDS, PATIENCE, closing, complaints

MEBIBYTE = 1024 * 1024

# The flooded clients are sent 125 MiB each, or a quarter of it where it is forwarded.
BROADCASTS = 2_000
# Messages sent at once; a mailbox holds 100.
BATCH = 50


@pytest.fixture(scope="module", params=COMMANDS)
def running(request, tmp_path_factory):
    """One server for all tests of this module."""
    process = Server(request.param, tmp_path_factory.mktemp("clients") / "output.log")
    yield process
    process.stop()
    assert complaints(process.new_output()) == []


@pytest.fixture
def server(running):
    """Fail a test during which the server printed an error."""
    yield running
    assert complaints(running.new_output()) == []


@pytest.fixture
async def watch(server):
    async with server.connect("Watcher") as client:
        yield Watch(client)


@pytest.fixture
def raw(server):
    """Connect clients over plain sockets, and close them after the test."""
    with contextlib.ExitStack() as stack:

        def connect(path):
            client = RawClient(server, path)
            stack.callback(client.close)
            return client

        yield connect


def normal(server):
    """Return the close code of a client that leaves: Hypercorn always reports 1006."""
    return 1006 if server.name == "hypercorn" else 1000


class TestClientThatNeverReads:
    @pytest.mark.parametrize(
        ("path", "group", "broadcasts"),
        [("Flooded", "flood", BROADCASTS), ("Forwarding", "forwarded", BROADCASTS // 4)],
    )
    async def test_others_receive_everything_and_memory_stays(
        self, server, watch, raw, path, group, broadcasts
    ):
        """
        The group loses none of 2,000 broadcasts of 64 KiB; the process keeps less than 32 MiB.
        """
        dropped = (await watch.statistics())["dropped"]
        deaf = raw(path)
        async with server.connect(path) as first, server.connect(path) as second:

            async def flood(count):
                """Broadcast, and let the reading clients keep up."""
                assert await watch.ask(f"broadcast {group} {count}") == "sent"
                async with asyncio.timeout(PATIENCE):
                    for client in (first, second):
                        for _ in range(count):
                            assert len(await client.recv()) == 65_536

            await flood(BATCH)
            before = server.memory()
            grown = 0
            for _ in range(broadcasts // BATCH):
                await flood(BATCH)
                grown = max(grown, server.memory() - before)
        print(f"{server.name}: {grown / MEBIBYTE:.1f} MiB more")  # noqa: T201 - a figure to quote
        assert grown < 32 * MEBIBYTE
        statistics = await watch.statistics()
        # Its own mailbox dropped the oldest messages, and no other mailbox dropped any.
        assert statistics["dropped"] - dropped > broadcasts / 2
        assert statistics["waiting"] <= 101
        deaf.close()
        left = sorted(await watch.heard(3))
        assert [line.rpartition(" ")[0] for line in left] == [f"{path} left"] * 3

    @pytest.mark.parametrize(
        ("path", "group"),
        [("Impatient", "impatient"), ("ForwardingImpatient", "forwarded-impatient")],
    )
    async def test_send_that_nobody_reads_ends_with_1013(self, server, watch, raw, path, group):
        """After send_timeout, disconnect runs once and the server closes the socket."""
        deaf = raw(path)
        began = time.monotonic()
        # More than the kernel buffers for it, and no more than its mailbox holds.
        assert await watch.ask(f"broadcast {group} 100") == "sent"
        assert await watch.heard(1) == [f"{path} left 1013"]
        await eventually(lambda: not server.holds(deaf.port))
        # A send_timeout of 0.5 s and as long for the close frame, plus a margin for a slow
        # machine.
        assert 0.5 <= time.monotonic() - began < PATIENCE
        await eventually(lambda: server.closed(path))
        [line] = server.closed(path)
        assert line.startswith("WARNING fast_channels.consumer ")
        assert f"client=127.0.0.1:{deaf.port} path='/{path}'" in line
        assert "code=1013 reason='slow' by=send_timeout after=" in line
        # Nothing else of the connection is left.
        assert (await watch.statistics())["channels"] == 1

    async def test_stream_that_nobody_reads_is_broken_off(self, server, watch):
        """After send_timeout, a response over HTTP ends like a WebSocket."""
        deaf = open_request(server, "Stream")
        with contextlib.closing(deaf):
            assert await watch.heard(1) == ["Stream left"]
            await eventually(lambda: not server.holds(deaf.getsockname()[1]))
        await eventually(lambda: server.closed("Stream"))
        [line] = server.closed("Stream")
        assert "reason='slow' by=send_timeout" in line


class TestSlowReader:
    async def test_tasks_that_send_at_once_take_turns(self, server, watch, raw):
        """Tasks take turns while the client reads slowly; without turns, some servers fail."""
        client = raw("Crowded")
        client.send("go")
        frames = await asyncio.to_thread(client.frames)
        assert [(data[0], len(data)) for _, data in frames[:-1]] == [
            (n, 300_000) for n in range(20)
        ]
        assert closings(frames) == [(4000, "")]
        assert await watch.heard(1) == ["Crowded left 4000"]


class TestSlowHandler:
    @pytest.mark.parametrize("how", ["closes", "vanishes"])
    async def test_disconnect_is_noticed_and_waiting_frames_are_handled(self, server, watch, how):
        """
        The handler sees that its client is gone; then waiting frames are handled, then
        disconnect.
        """
        async with server.connect("Slow") as client:
            await client.send("work")
            assert await watch.heard(1) == ["Slow works"]
            for text in ("1", "2", "3"):
                await client.send(text)
            if how == "closes":
                await client.close()
            else:
                client.transport.abort()
            *news, end = await watch.heard(5)
        assert news == ["Slow noticed", "Slow 1", "Slow 2", "Slow 3"]
        assert end.startswith("Slow left ")

    async def test_neighbours_are_not_delayed(self, server, watch):
        """A handler that hangs delays only its own connection."""
        async with server.connect("Slow") as slow, server.connect("Limited") as quick:
            await slow.send("work")
            assert await watch.heard(1) == ["Slow works"]
            await quick.send("here")
            async with asyncio.timeout(PATIENCE):
                assert await quick.recv() == "here"
            await slow.close()
            assert (await watch.heard(2))[0] == "Slow noticed"


class TestHeartbeat:
    async def test_silent_client_is_closed_with_1011(self, server, watch, raw):
        """The server sends one ping, and the client does not answer."""
        client = raw("Beating")
        frames = await asyncio.to_thread(client.frames)
        assert frames[0] == (1, b'{"type":"ping"}')
        assert closings(frames) == [(1011, "heartbeat timeout")]
        assert await watch.heard(1) == ["Beating left 1011"]

    async def test_client_that_answers_stays_while_its_handler_is_busy(self, server, watch):
        """The server processes pongs while the handler runs; the handler sees none of them."""
        async with server.connect("Beating") as client:
            await client.send("work")
            pings = 0
            async with asyncio.timeout(PATIENCE):
                while (frame := await client.recv()) == '{"type":"ping"}':
                    pings += 1
                    await client.send('{ "type": "pong" }')
            assert frame == "heard work"
            # 2.4 s of work is longer than the 2.2 s that a client may be silent for.
            assert pings >= 2
        assert await watch.heard(1) == [f"Beating left {normal(server)}"]

    async def test_client_whose_network_died_is_closed(self, server, watch):
        """Nothing is refused or closed; TCP alone would wait for minutes."""
        ended = len(server.closed("Beating"))
        with Proxy(server.port) as network:
            url = f"ws://127.0.0.1:{network.port}/Beating"
            async with websockets.connect(url, ping_interval=None, close_timeout=0.1) as client:
                async with asyncio.timeout(PATIENCE):
                    assert await client.recv() == '{"type":"ping"}'
                with contextlib.suppress(websockets.ConnectionClosed):
                    await client.send('{"type":"pong"}')
                network.blackhole()
                assert await watch.heard(1) == ["Beating left 1011"]
        await eventually(lambda: len(server.closed("Beating")) > ended)
        assert "by=heartbeat_timeout" in server.closed("Beating")[-1]
        assert (await watch.statistics())["channels"] == 1


class TestLimits:
    async def test_frame_that_is_too_large_closes_with_1009(self, server, watch):
        """The reason names the limit."""
        async with server.connect("Limited") as client:
            await client.send("x" * 101)
            assert await closing(client) == (1009, "a frame may have 100 bytes")
        assert await watch.heard(1) == ["Limited left 1009"]

    async def test_too_many_frames_close_with_1008(self, server, watch, raw):
        """The frames within the limit are handled first."""
        client = raw("Limited")
        client.send(*map(str, range(10)))
        frames = await asyncio.to_thread(client.frames)
        assert [data for opcode, data in frames if opcode == 1] == [b"0", b"1", b"2"]
        assert closings(frames) == [(1008, "too many messages")]
        assert await watch.heard(1) == ["Limited left 1008"]

    async def test_too_many_frames_may_be_dropped(self, server, watch):
        """The dropped frames are counted, and the connection stays open."""
        before = (await watch.statistics())["frames_dropped"]
        async with server.connect("Dropping") as client:
            for number in range(10):
                await client.send(str(number))
            async with asyncio.timeout(PATIENCE):
                assert [await client.recv() for _ in range(3)] == ["0", "1", "2"]
            while (await watch.statistics())["frames_dropped"] < before + 7:
                await asyncio.sleep(0.02)
        assert (await watch.statistics())["frames_dropped"] == before + 7

    async def test_one_connection_too_many_is_closed_with_1013(self, server, watch):
        """
        The connection is accepted first, so that a browser sees the code. A freed place can be
        used.
        """
        first = server.connect("Single")
        async with first, server.connect("Single", subprotocols=["chat"]) as second:
            assert await closing(second) == (1013, "too many connections")
            assert second.subprotocol == "chat"
        # disconnect() was not called for the second client.
        assert await watch.heard(1) == [f"Single left {normal(server)}"]
        async with server.connect("Single") as third:
            await third.ping()
        assert await watch.heard(1) == [f"Single left {normal(server)}"]


class TestAfterTheEnd:
    async def test_sending_and_closing_again_is_quiet(self, server, watch, raw):
        """The wire has one close frame and the log no error; four sends are counted."""
        before = (await watch.statistics())["sent_after_close"]
        client = raw("Talkative")
        client.send("hello")
        frames = await asyncio.to_thread(client.frames)
        assert closings(frames) == [(4000, "enough")]
        assert len(frames) == 1
        assert await watch.heard(2) == ["Talkative went on", "Talkative left 4000"]
        assert (await watch.statistics())["sent_after_close"] == before + 4

    async def test_everything_returns_to_where_it_was(self, server, watch):
        """After all these tests, only the watcher has a channel, a group and a task."""
        statistics = await watch.statistics()
        assert (statistics["channels"], statistics["members"]) == (1, 1)
