"""The signal that stops a server waits until connections are drained."""

from __future__ import annotations

import asyncio
import signal

import pytest

from fast_channels.layers import ChannelLayerRegistry, signals
from tests.layers.support import becomes, turns


class Server:
    """Writes down the signals that it is told of."""

    def __init__(self):
        self.told = []

    def handle_exit(self, number, frame):
        self.told.append(number)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def handled(server):
    """SIGTERM and SIGINT are the server's, as under uvicorn."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, server.handle_exit)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def registry():
    own = ChannelLayerRegistry()
    own.drain_spread = 0
    return own


class Held:
    """A connection that stays until it is released."""

    def __init__(self, registry):
        self.asked, self.released = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._serve(registry.connections))

    async def _serve(self, connections):
        with connections.entered("Held", self.asked.set):
            await self.released.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_server_is_told_after_the_drain(registry, server, handled, number):
    """As of a Ctrl+C, after which it ends with exit code 0; and only once."""
    async with registry.lifespan():
        held = Held(registry)
        await turns()
        signal.raise_signal(number)
        await held.asked.wait()
        await turns()
        assert server.told == []
        assert registry.connections.refusing
        held.released.set()
        await becomes(lambda: server.told)
        assert registry.connections.refusing
        await turns()
    assert server.told == [signal.SIGINT]
    assert not registry.connections.refusing


async def test_signal_that_comes_again_at_once_is_the_same(registry, server, handled):
    """Systemd tells all processes, and the server's parent process tells its workers again."""
    async with registry.lifespan():
        held = Held(registry)
        await turns()
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        await held.asked.wait()
        assert server.told == []
        held.released.set()
        await becomes(lambda: server.told)
    assert server.told == [signal.SIGINT]


async def test_second_signal_goes_straight_to_the_server(registry, server, handled, monkeypatch):
    """As what it is, and so do all that follow; the end of the drain adds none."""
    monkeypatch.setattr(signals, "ECHO", -1.0)
    async with registry.lifespan():
        held = Held(registry)
        await turns()
        signal.raise_signal(signal.SIGTERM)
        await held.asked.wait()
        signal.raise_signal(signal.SIGTERM)
        assert server.told == [signal.SIGTERM]
        signal.raise_signal(signal.SIGINT)
        held.released.set()
    assert server.told == [signal.SIGTERM, signal.SIGINT]


async def test_worker_is_told_once_more_by_its_parent(registry, server, handled, monkeypatch):
    """By SIGTERM, whatever the first signal was, and whenever it comes to it."""
    monkeypatch.setattr(signals, "ECHO", -1.0)
    monkeypatch.setattr(signals.multiprocessing, "parent_process", lambda: "uvicorn's")
    async with registry.lifespan():
        held = Held(registry)
        await turns()
        signal.raise_signal(signal.SIGINT)
        await held.asked.wait()
        signal.raise_signal(signal.SIGTERM)
        assert server.told == []
        signal.raise_signal(signal.SIGTERM)
        assert server.told == [signal.SIGTERM]
        held.released.set()
    assert server.told == [signal.SIGTERM]


async def test_handlers_are_restored_when_the_lifespan_ends(registry, server, handled):
    """Signals reach the server as before."""
    for _ in range(2):
        async with registry.lifespan():
            assert signal.getsignal(signal.SIGTERM) != server.handle_exit
            assert signal.getsignal(signal.SIGINT) != server.handle_exit
        assert signal.getsignal(signal.SIGTERM) == server.handle_exit
        assert signal.getsignal(signal.SIGINT) == server.handle_exit


async def test_handler_that_came_later_is_left_in_place(registry, server, handled):
    """If it calls the one before, that passes the signal on."""
    async with registry.lifespan():
        ours = signal.getsignal(signal.SIGTERM)

        def theirs(number, frame):
            ours(number, frame)

        signal.signal(signal.SIGTERM, theirs)
    assert signal.getsignal(signal.SIGTERM) is theirs
    signal.raise_signal(signal.SIGTERM)
    assert server.told == [signal.SIGTERM]


async def test_ctrl_c_that_is_not_the_servers_is_left_alone(registry, server, handled):
    """Then the server is told of SIGTERM as of SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    async with registry.lifespan():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
        await becomes(lambda: server.told)
    assert server.told == [signal.SIGTERM]


async def test_signals_are_left_alone_if_asked_to(registry, server, handled):
    """For programs that call drain() themselves."""
    registry.handle_signals = False
    async with registry.lifespan():
        assert signal.getsignal(signal.SIGTERM) == server.handle_exit


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
async def test_signal_that_no_server_handles_is_left_alone(registry, handled, handler):
    """A script with layers dies of it as ever."""
    signal.signal(signal.SIGTERM, handler)
    async with registry.lifespan():
        assert signal.getsignal(signal.SIGTERM) == handler
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_signal_that_the_event_loop_handles_is_left_alone(registry, handled, loop):
    """Hypercorn and Granian hear of it in that way, drain or not."""
    factory = asyncio.new_event_loop
    if loop == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    async def main():
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        before = signal.getsignal(signal.SIGTERM)
        async with registry.lifespan():
            assert signal.getsignal(signal.SIGTERM) == before
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(told.wait(), 5)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


async def test_lifespan_in_another_thread_leaves_signals_alone(registry, server, handled):
    """Only the main thread may handle them; so test clients can have lifespans."""

    async def main():
        async with registry.lifespan():
            return signal.getsignal(signal.SIGTERM)

    assert await asyncio.to_thread(asyncio.run, main()) == server.handle_exit


async def test_lifespan_within_a_lifespan_passes_signals_on(registry, server, handled):
    """Both drain, and the server is told once."""
    inner = ChannelLayerRegistry()
    async with registry.lifespan(), inner.lifespan():
        signal.raise_signal(signal.SIGTERM)
        await becomes(lambda: server.told)
    assert server.told == [signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) == server.handle_exit
