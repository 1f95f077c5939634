"""A rolling deploy: a server with many clients is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import pytest
import redis

from tests.chaos.clients import RawClient, open_request
from tests.chaos.proxy import Proxy
from tests.chaos.support import MARGIN
from tests.chaos.web import PLAIN, PROGRAM, UVICORN, WORKERS, WebProcess, clients, closed, fetched
from tests.servers.support import COALESCING, closing, complaints, heard

# The defaults of rolling.py.
DRAIN_TIMEOUT, DRAIN_SPREAD = 3.0, 1.0
RESTART = 1012


@pytest.fixture
def make_server(tmp_path, request):
    servers = []

    def make(**options):
        servers.append(WebProcess(tmp_path / f"server-{len(servers)}.log", **options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.mark.parametrize("layer", ["memory", "pubsub", "queue"])
async def test_two_hundred_clients_are_closed_in_order(make_server, redis_url, layer):
    """
    Each client sees 1012 and has one disconnect(); the process ends in time without leftovers.
    """
    server = make_server(LAYER=layer, REDIS_URL=redis_url)
    async with clients(server, 200) as opened:
        await opened[0].send("hello")
        assert await heard(opened[-1]) == ["hello"]
        told = time.monotonic()
        server.tell()
        assert await server.exit_code() == 0
        took = time.monotonic() - told
        codes = [(await closing(client))[0] for client in opened]
    assert codes == [RESTART] * 200
    assert server.said(f"disconnect {RESTART}") == server.said("disconnect") == 200
    # Measured by the server's log, because the clients may be suspended meanwhile.
    assert server.lasted("disconnect") > DRAIN_SPREAD / 2
    assert took < DRAIN_TIMEOUT + MARGIN
    server.assert_nothing_to_complain_about()
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("*") == []
        assert client.pubsub_channels("*") == []


async def test_handler_and_disconnect_that_hang_are_cancelled_at_the_deadline(make_server):
    """The other connections are closed meanwhile, and the process ends in time with 0."""
    server = make_server(DRAIN_TIMEOUT="3")
    async with clients(server, 5) as opened:
        stuck, late, *others = opened
        await stuck.send("hang")
        await late.send("later")
        assert await heard(late) == ["will hang"]
        await server.says("hangs")
        told = time.monotonic()
        server.tell()
        for client in others:
            when, code = await closed(client)
            assert (code, when - told < 3) == (RESTART, True)
        assert await server.exit_code() == 0
        took = time.monotonic() - told
        assert [(await closing(client))[0] for client in (stuck, late)] == [RESTART] * 2
    # A second for cancelling and leaving, plus the margin for a busy machine.
    assert 3 <= took < 4 + MARGIN
    assert server.said(f"disconnect {RESTART}") == server.said("disconnect") == 5
    assert "RollingConsumer (2 connections)" in server.output
    server.assert_nothing_to_complain_about()


@pytest.mark.parametrize("protocol", ["websockets", "websockets-sansio", "wsproto", COALESCING])
async def test_clients_that_never_read_do_not_keep_the_process(make_server, protocol):
    """The server ends their sockets; uvicorn alone would wait without limit."""
    command = f"{UVICORN} --ws {protocol}"
    server = make_server(command=command, DRAIN_TIMEOUT="1")
    deaf, stream = RawClient(server, "ws"), open_request(server, "stream/?flood")
    with contextlib.closing(deaf), contextlib.closing(stream):
        deaf.send("flood")
        await server.says("floods")
        await server.says("streams")
        told = time.monotonic()
        server.tell()
        assert await server.exit_code() == 0
        took = time.monotonic() - told
    # A second for cancelling and leaving, plus the margin for a busy machine.
    assert 1 <= took < 2 + MARGIN
    assert server.said(f"disconnect {RESTART}") == server.said("stream ended") == 1
    # Without warnings: uvicorn's oldest protocol is deprecated and warns about it.
    assert complaints(server.output) == []


@pytest.mark.parametrize("layer", ["pubsub", "queue"])
async def test_broker_that_does_not_answer_does_not_keep_the_process(make_server, valkey, layer):
    """The broker cannot be told, and finds out when the lease is over."""
    with Proxy(valkey.port) as proxy:
        server = make_server(LAYER=layer, REDIS_URL=proxy.url)
        async with clients(server, 20) as opened:
            proxy.blackhole()
            told = time.monotonic()
            server.tell()
            assert await server.exit_code(timeout=15) == 0
            took = time.monotonic() - told
            assert [(await closing(client))[0] for client in opened] == [RESTART] * 20
        proxy.restore()
    assert took < DRAIN_TIMEOUT + MARGIN
    assert server.said(f"disconnect {RESTART}") == server.said("disconnect") == 20
    server.assert_nothing_to_complain_about()


async def test_new_clients_are_sent_elsewhere_during_the_drain(make_server):
    """The new clients are accepted and closed with 1012 without connect(); a handler may finish."""
    server = make_server(DRAIN_TIMEOUT="10")
    async with clients(server, 1) as (busy,):
        # Longer than a busy machine needs for the steps below.
        await busy.send("sleep 4")
        await server.says("sleeps")
        server.tell()
        await server.says("draining 1 connections")
        async with clients(server, 1) as (new,):
            assert (await closing(new))[0] == RESTART
        assert server.said("connect") == 1
        assert await fetched(server, "/stream/") == (503, b"Service Unavailable")
        assert await heard(busy) == ["slept"]
        assert (await closing(busy))[0] == RESTART
        assert await server.exit_code() == 0
    server.assert_nothing_to_complain_about()


async def test_stream_ends_with_the_process(make_server):
    """The client sees a complete response, like that of a stream that ends by itself."""
    server = make_server()
    stream = asyncio.create_task(fetched(server, "/stream/"))
    await server.says("streams")
    server.tell()
    assert await stream == (200, b"data: hello\n\n")
    assert await server.exit_code() == 0
    assert server.said("stream ended") == 1
    server.assert_nothing_to_complain_about()


async def test_second_signal_goes_straight_to_the_server(make_server):
    """Uvicorn closes the remaining connections at once, and ends as after a SIGTERM."""
    server = make_server(DRAIN_TIMEOUT="30", DRAIN_SPREAD="30")
    async with clients(server, 40) as opened:
        server.tell()
        await server.says("disconnect", 20)
        # A second signal within one second counts as the first one.
        await asyncio.sleep(1.1)
        server.tell()
        assert await server.exit_code() == -signal.SIGTERM
        assert [(await closing(client))[0] for client in opened] == [RESTART] * 40
    assert server.said(f"disconnect {RESTART}") == 40
    server.assert_nothing_to_complain_about()


async def test_supervisor_that_is_late_ends_no_drain(make_server, redis_url):
    """Uvicorn's parent process forwards a signal to workers that already have it, at any time."""
    options = {"LAYER": "pubsub", "REDIS_URL": redis_url}
    server = make_server(command=WORKERS, DRAIN_TIMEOUT="12", DRAIN_SPREAD="10", **options)
    async with clients(server, 60) as opened:
        server.tell(signal.SIGSTOP)
        server.tell_all()
        await server.says("disconnect")
        # Later than the interval in which a repeated signal counts as one.
        await asyncio.sleep(1.1)
        server.tell(signal.SIGCONT)
        assert await server.exit_code() == 0
        codes = [(await closing(client))[0] for client in opened]
    assert "Terminated child process" in server.output
    assert codes == [RESTART] * 60
    # The last batch is due three seconds after the first.
    assert server.lasted("disconnect") > 2.5
    server.assert_nothing_to_complain_about()


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (PLAIN, signal.SIGINT),
        (f"{UVICORN} --ws {COALESCING}", signal.SIGTERM),
        (PROGRAM, signal.SIGTERM),
        (WORKERS, signal.SIGTERM),
    ],
    ids=["ctrl-c", "coalescing", "uvicorn.run", "workers"],
)
async def test_every_way_to_run_uvicorn_drains(make_server, redis_url, command, number):
    """Every way drains, even if a terminal or systemd signals the whole process group."""
    server = make_server(command=command, LAYER="pubsub", REDIS_URL=redis_url, DRAIN_SPREAD="2")
    async with clients(server, 60) as opened:
        server.tell_all(number)
        assert await server.exit_code() == 0
        codes = [(await closing(client))[0] for client in opened]
    assert codes == [RESTART] * 60
    assert server.said(f"disconnect {RESTART}") == server.said("disconnect") == 60
    # The second batch is due after two thirds of a second at least.
    assert server.lasted("disconnect") > 0.6
    server.assert_nothing_to_complain_about()
