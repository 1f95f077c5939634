"""A drain ends all connections of a process, then the server gets the signal to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

import pytest

from fast_channels import drain as module
from fast_channels.drain import Connections
from fast_channels.layers import ChannelLayerRegistry
from tests.layers.support import PATIENCE, becomes, turns


@pytest.fixture
def live():
    return Connections()


class Served:
    """A connection in a task, which ends when it is told to close, or later."""

    def __init__(self, live, *, work=None, name="Served"):
        self.asked = []
        self._asked = asyncio.Event()
        self._live, self._name, self.work = live, name, work
        self.task = asyncio.create_task(self._serve())

    async def _serve(self):
        with self._live.track(self._name, self.close):
            await self._asked.wait()
            if self.work is not None:
                await self.work()

    def close(self):
        self.asked.append(asyncio.get_running_loop().time())
        self._asked.set()


async def served(live, count, **options):
    found = [Served(live, **options) for _ in range(count)]
    await turns()
    return found


async def for_ever():
    await asyncio.Event().wait()


# -- connections ---------------------------------------------------------------


async def test_few_connections_are_closed_at_once(live):
    """A long spread makes no difference, because there is no crowd to spread."""
    found = await served(live, module.MIN_BATCH)
    async with asyncio.timeout(PATIENCE):
        await live.drain(60, 60)
    assert [len(one.asked) for one in found] == [1] * len(found)
    assert all(one.task.done() for one in found)


async def test_many_connections_are_closed_in_batches(live):
    """The oldest connections come first, with pauses that fill the spread."""
    size = module.MIN_BATCH
    found = await served(live, 3 * size)
    await live.drain(PATIENCE, 0.6)
    times = [one.asked[0] for one in found]
    assert times == sorted(times)
    for first in (0, size):
        # A timer may be early by the resolution of the clock.
        assert times[first + size] - times[first + size - 1] > 0.19
        assert times[first + size - 1] - times[first] < 0.15


async def test_connections_that_leave_by_themselves_shorten_the_drain(live):
    """The drain returns as soon as no connection is left."""
    found = await served(live, 3 * module.MIN_BATCH)
    draining = asyncio.create_task(live.drain(60, 60))
    await becomes(found[0].task.done)
    for one in found:
        one.close()
    async with asyncio.timeout(PATIENCE):
        await draining


async def test_drain_without_connections_is_quick_and_silent(live, caplog):
    """Most tests of an application end like this."""
    caplog.set_level(logging.INFO)
    async with asyncio.timeout(PATIENCE):
        await live.drain(60, 60)
    assert caplog.messages == []


async def test_connection_that_does_not_end_is_cancelled_at_the_deadline(live, caplog):
    """The task continues without an error and without a trace; one line names the connection."""
    hanging, swift = await served(live, 2)
    hanging.work = for_ever
    await live.drain(0.05, 0)
    assert swift.task.done()
    await hanging.task
    assert hanging.task.cancelling() == 0
    assert caplog.messages == ["cancelled after 0.05 s, did not end: Served (1 connections)"]


async def test_cleanup_that_hangs_is_cancelled_too(live):
    """The drain returns although the cleanup had to be cancelled twice."""

    async def work():
        try:
            await for_ever()
        finally:
            await for_ever()

    (stuck,) = await served(live, 1, work=work)
    async with asyncio.timeout(PATIENCE):
        await live.drain(0.05, 0)
        await stuck.task
    assert stuck.task.cancelling() == 0


async def test_drain_ends_whatever_a_connection_does(live, caplog):
    """A connection that cannot be cancelled is left behind, and an error says so."""
    released = asyncio.Event()

    async def work():
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    (stubborn,) = await served(live, 1, work=work, name="Stubborn")
    async with asyncio.timeout(PATIENCE):
        await live.drain(0.05, 0)
    assert caplog.messages[-1] == "did not end although cancelled: Stubborn (1 connections)"
    released.set()
    await stubborn.task
    assert stubborn.task.cancelling() == 0


async def test_cancellation_by_somebody_else_passes(live):
    """A server that cancels a task sees the cancellation."""

    async def work():
        try:
            await for_ever()
        finally:
            await for_ever()

    one, other = await served(live, 2, work=work)
    one.task.cancel()
    await asyncio.wait([one.task])
    assert one.task.cancelled()
    draining = asyncio.create_task(live.drain(0.05, 0))
    await becomes(other.task.cancelling)
    other.task.cancel()
    await asyncio.wait([other.task])
    assert other.task.cancelled()
    await draining


async def test_connections_are_refused_from_a_drain_until_resume(live):
    """A new connection is asked to close as soon as it begins, even during the drain."""
    assert not live.refusing
    (busy,) = await served(live, 1, work=asyncio.Event().wait)
    draining = asyncio.create_task(live.drain(0.2, 0))
    await becomes(lambda: busy.asked)
    (during,) = await served(live, 1)
    await draining
    (after,) = await served(live, 1)
    assert live.refusing
    assert during.task.done()
    assert after.task.done()
    live.resume()
    (resumed,) = await served(live, 1)
    assert not resumed.asked
    await live.drain(1, 0)
    assert resumed.task.done()


async def test_concurrent_drains_are_one(live):
    """The second call returns with the first, and asks no connection again."""
    released = asyncio.Event()
    (one,) = await served(live, 1, work=released.wait)
    drains = [asyncio.create_task(live.drain(60, 0)) for _ in range(3)]
    await becomes(lambda: one.asked)
    drains[0].cancel()
    await turns()
    assert not one.task.done()
    assert [drain.done() for drain in drains] == [True, False, False]
    released.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*drains[1:])
    assert len(one.asked) == 1


async def test_drain_leaves_other_loops_alone(live):
    """An application in another thread keeps its connections, and accepts more."""
    elsewhere = asyncio.get_running_loop().create_future()
    here = asyncio.get_running_loop()

    async def application():
        (theirs,) = await served(live, 1)
        stop = asyncio.Event()
        there = (asyncio.get_running_loop(), theirs, stop)
        here.call_soon_threadsafe(elsewhere.set_result, there)
        await stop.wait()
        refusing, asked = live.refusing, list(theirs.asked)
        await live.drain(PATIENCE, 0)
        return refusing, asked

    running = asyncio.create_task(asyncio.to_thread(asyncio.run, application()))
    loop, _, stop = await elsewhere
    (ours,) = await served(live, 1)
    await live.drain(PATIENCE, 0)
    assert ours.task.done()
    loop.call_soon_threadsafe(stop.set)
    assert await running == (False, [])


@pytest.mark.parametrize(("timeout", "spread"), [(-1, 0), (1, -1), (1, 2)])
async def test_impossible_times_are_refused(live, timeout, spread):
    """The error comes before any connection is closed, and has both times."""
    (one,) = await served(live, 1)
    with pytest.raises(ValueError, match=f"{spread!r} s.*{timeout!r} s"):
        await live.drain(timeout, spread)
    assert not one.asked
    assert not live.refusing
    await live.drain(1, 0)


# -- signals -------------------------------------------------------------------


class Server:
    """Records the signals that reach it."""

    def __init__(self):
        self.told = []

    def handle_exit(self, number, frame):
        self.told.append(number)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def handled(server):
    """Let the server handle SIGTERM and SIGINT, as uvicorn does."""
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
        with connections.track("Held", self.asked.set):
            await self.released.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_server_is_told_after_the_drain(registry, server, handled, number):
    """The server gets SIGINT, after which it ends with exit code 0, and only once."""
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
    """systemd signals all processes, and the server's parent process signals its workers again."""
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
    """The server gets the signal itself and all later ones; the end of the drain adds none."""
    monkeypatch.setattr(module, "REPEATED_SIGNAL_SECONDS", -1.0)
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
    """The parent process sends SIGTERM at any time, even if the first signal was another one."""
    monkeypatch.setattr(module, "REPEATED_SIGNAL_SECONDS", -1.0)
    monkeypatch.setattr(module.multiprocessing, "parent_process", lambda: "uvicorn's")
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
    """If the handler calls the previous one, that passes the signal on."""
    async with registry.lifespan():
        ours = signal.getsignal(signal.SIGTERM)

        def theirs(number, frame):
            ours(number, frame)

        signal.signal(signal.SIGTERM, theirs)
    assert signal.getsignal(signal.SIGTERM) is theirs
    signal.raise_signal(signal.SIGTERM)
    assert server.told == [signal.SIGTERM]


async def test_ctrl_c_that_is_not_the_servers_is_left_alone(registry, server, handled):
    """The server gets SIGTERM as SIGTERM then."""
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
    """A script with layers ends by it as usual."""
    signal.signal(signal.SIGTERM, handler)
    async with registry.lifespan():
        assert signal.getsignal(signal.SIGTERM) == handler
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_signal_that_the_event_loop_handles_is_left_alone(registry, handled, loop):
    """Hypercorn and Granian get the signal in this way, with or without a drain."""
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
    """Only the main thread may handle signals; thus test clients can have lifespans."""

    async def main():
        async with registry.lifespan():
            return signal.getsignal(signal.SIGTERM)

    assert await asyncio.to_thread(asyncio.run, main()) == server.handle_exit


async def test_lifespan_within_a_lifespan_passes_signals_on(registry, server, handled):
    """Both drain, and the server gets the signal once."""
    inner = ChannelLayerRegistry()
    async with registry.lifespan(), inner.lifespan():
        signal.raise_signal(signal.SIGTERM)
        await becomes(lambda: server.told)
    assert server.told == [signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) == server.handle_exit
