"""
End the connections of a process, then the process.

A drain belongs to one event loop: an application in another thread goes on. Uvicorn
closes all connections as soon as it is told to stop and asks the application to clean
up afterwards. Therefore `drain_before_stop` handles the signal first, drains, and then
passes the signal to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import multiprocessing
import signal
import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import FrameType

    SignalHandler: TypeAlias = Callable[[int, FrameType | None], Any]

logger = logging.getLogger("fast_channels.drain")

# Up to this many connections are closed at once: that few clients cannot overload a server
# when they all reconnect.
MIN_BATCH = 20

# The least time between two batches; with more connections the batches get larger.
MIN_PAUSE_SECONDS = 0.1

# After the deadline a drain cancels each remaining connection and waits this long, three
# times: the first time a handler may hang, the second time `disconnect`. The sum stays
# below the second by which a drain may exceed its timeout.
CANCEL_PAUSES_SECONDS = (0.4, 0.2, 0.2)

# A signal that comes again within this time counts as the same one: a supervisor may
# signal all processes, and the parent process of a server its workers once more.
REPEATED_SIGNAL_SECONDS = 1.0


class Connection:
    """One connection, from its beginning until its cleanup is done."""

    __slots__ = ("_cancels", "_connections", "_ended", "_task", "close", "loop", "name")

    def __init__(self, connections: Connections, name: str, close: Callable[[], None]) -> None:
        self._connections = connections
        # The name of the consumer class, for the log.
        self.name = name
        # Ends the connection as soon as no handler runs. Does not wait; may be called twice.
        self.close = close
        self.loop = asyncio.get_running_loop()
        # Done when the connection has ended; created when a drain asks for it.
        self._ended: asyncio.Future[None] | None = None
        self._task = asyncio.current_task()
        # How often `cancel` was called: the server may cancel the task, too.
        self._cancels = 0

    def __enter__(self) -> None:
        self._connections.add(self)

    def __exit__(self, _type: object, exc: BaseException | None, _traceback: object) -> bool:
        # Must run even without an error: a cancelled task may have continued and returned.
        only_here = self._take_back_cancels()
        self._connections.remove(self)
        if self._ended is not None:
            self._ended.set_result(None)
        return only_here and isinstance(exc, asyncio.CancelledError)

    @property
    def ended(self) -> asyncio.Future[None]:
        """A future that is done when the connection has ended."""
        if self._ended is None:
            self._ended = self.loop.create_future()
        return self._ended

    def cancel(self) -> None:
        """End the connection even if a handler runs."""
        if self._task is not None:
            self._cancels += 1
            self._task.cancel()

    def _take_back_cancels(self) -> bool:
        """
        Uncancel the task; return True if only `cancel` had cancelled it.

        The server goes on with the task and does not expect it to be cancelled.
        """
        cancels, self._cancels = self._cancels, 0
        by_others = 0
        for _ in range(cancels):
            by_others = self._task.uncancel() if self._task is not None else 0
        return cancels > 0 and by_others == 0


class Connections:
    """The connections that consumers of this process serve now, on all event loops."""

    def __init__(self) -> None:
        # The oldest first; a dict serves as an ordered set.
        self._live: dict[Connection, None] = {}
        # Loops on which new connections are rejected.
        self._refusing: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        # The running drain of each loop.
        self._drains: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    def track(self, name: str, close: Callable[[], None]) -> Connection:
        """
        Count the running task as a connection while a `with` block runs.

        A drain calls `close`; a connection that begins during a drain is closed at
        once. The block ends without an error if a drain had to cancel the task.
        """
        return Connection(self, name, close)

    def add(self, connection: Connection) -> None:
        self._live[connection] = None
        if self.refusing:
            connection.close()

    def remove(self, connection: Connection) -> None:
        del self._live[connection]

    @property
    def refusing(self) -> bool:
        """True while new connections are rejected on this loop: from a drain until `resume`."""
        return asyncio.get_running_loop() in self._refusing

    def resume(self) -> None:
        """Accept connections on this loop again."""
        self._refusing.discard(asyncio.get_running_loop())

    async def drain(self, timeout: float, spread: float) -> None:
        """
        End every connection of this loop and reject new ones until `resume`.

        Connections are closed in batches within `spread` seconds. After `timeout`
        seconds the remaining ones are cancelled, and the drain returns less than a
        second later in any case. Concurrent calls join the first one; cancelling
        one call does not end the drain for the others.
        """
        check_drain_times(timeout, spread)
        loop = asyncio.get_running_loop()
        self._refusing.add(loop)
        if loop not in self._drains:
            drain = self._drain(timeout, spread)
            self._drains[loop] = loop.create_task(drain, name="fast_channels drain")
            self._drains[loop].add_done_callback(lambda _: self._drains.pop(loop))
        await asyncio.shield(self._drains[loop])

    async def _drain(self, timeout: float, spread: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        live = self._on_this_loop()
        if live:
            logger.info("draining %d connections within %s s", len(live), timeout)
        pause, batches = _divide(live, spread)
        for number, batch in enumerate(batches, start=1):
            for connection in batch:
                connection.close()
            if number < len(batches):
                await self._wait_until(loop.time() + pause)
        await self._wait_until(deadline)
        if late := self._on_this_loop():
            logger.warning("cancelled after %s s, did not end: %s", timeout, _count_by_name(late))
        for seconds in CANCEL_PAUSES_SECONDS:
            for connection in self._on_this_loop():
                connection.cancel()
            await self._wait_until(loop.time() + seconds)
        if left := self._on_this_loop():
            logger.error("did not end although cancelled: %s", _count_by_name(left))

    def _on_this_loop(self) -> list[Connection]:
        """Return the connections of this loop, the oldest first."""
        loop = asyncio.get_running_loop()
        return [connection for connection in list(self._live) if connection.loop is loop]

    async def _wait_until(self, time: float) -> None:
        """Return at `time` of the loop's clock, or earlier if no connection is left."""
        loop = asyncio.get_running_loop()
        while (live := self._on_this_loop()) and (left := time - loop.time()) > 0:
            await asyncio.wait([connection.ended for connection in live], timeout=left)


def check_drain_times(timeout: float, spread: float) -> None:
    """Raise ValueError unless 0 <= `spread` <= `timeout`."""
    if not 0 <= spread <= timeout:
        raise ValueError(
            f"a drain cannot close connections within {spread!r} s and end after {timeout!r} s: "
            "make the spread 0 or more, and the timeout at least as long"
        )


def _divide(live: list[Connection], spread: float) -> tuple[float, list[list[Connection]]]:
    """Divide connections into batches; also return the seconds from one batch to the next."""
    most = max(1, int(spread / MIN_PAUSE_SECONDS))
    number = min(most, math.ceil(len(live) / MIN_BATCH))
    if number == 0:
        return 0.0, []
    size = math.ceil(len(live) / number)
    return spread / number, [live[start : start + size] for start in range(0, len(live), size)]


def _count_by_name(connections: list[Connection]) -> str:
    counted = Counter(connection.name for connection in connections)
    return ", ".join(f"{name} ({number} connections)" for name, number in counted.items())


class StopSignals:
    """
    A signal handler in front of a server's own, on the server's event loop in the main thread.

    The first signal starts `drain`; afterwards the server gets the signal. A second
    signal goes straight to the server, with one exception: a worker expects one more
    SIGTERM from its parent process. Uvicorn's parent process passes SIGTERM on to
    its workers late if it waits for another worker's answer, which may take five seconds.
    """

    def __init__(
        self,
        server: SignalHandler,
        signals: list[int],
        drain: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._server = server
        self._signals = signals
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        # When the first signal came, by the loop's clock.
        self._first_at: float | None = None
        self._parent_will_signal = multiprocessing.parent_process() is not None
        # True once the server has the signal, so that it does not get it twice.
        self._passed_on = False
        self._task: asyncio.Task[None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. Python calls this between any two steps of the main thread."""
        if self._passed_on:
            self._server(number, frame)
        elif self._first_at is None:
            self._first_at = self._loop.time()
            self._loop.call_soon_threadsafe(self._begin, number)
        elif number == signal.SIGTERM and self._parent_will_signal:
            self._parent_will_signal = False
        elif self._loop.time() > self._first_at + REPEATED_SIGNAL_SECONDS:
            self._pass_on(number)

    def install(self) -> None:
        for number in self._signals:
            signal.signal(number, self)

    def remove(self) -> None:
        """Restore the server's handler, unless another one was set meanwhile: it may call us."""
        self._passed_on = True
        for number in self._signals:
            current: object = signal.getsignal(number)
            if current is self:
                signal.signal(number, self._server)

    def _begin(self, number: int) -> None:
        drain = self._drain_and_pass_on(number)
        self._task = self._loop.create_task(drain, name="fast_channels stop")

    async def _drain_and_pass_on(self, number: int) -> None:
        try:
            await self._drain()
        finally:
            # After a SIGTERM, uvicorn kills its process with that signal in the end, and the
            # exit code looks like a failure. After a SIGINT, Ctrl+C, it exits with 0.
            both = signal.SIGINT in self._signals
            self._pass_on(signal.SIGINT if both else number)

    def _pass_on(self, number: int) -> None:
        if not self._passed_on:
            self._passed_on = True
            self._server(number, None)


@contextlib.contextmanager
def drain_before_stop(drain: Callable[[], Coroutine[Any, Any, None]]) -> Generator[None]:
    """While the block runs, drain before the server gets a signal to stop, if that is possible."""
    server = _server_handler()
    if server is None:
        yield
        return
    # A different handler of SIGINT does not belong to the server.
    same = signal.getsignal(signal.SIGINT) == server
    signals: list[int] = [signal.SIGTERM, *([signal.SIGINT] if same else [])]
    stop_signals = StopSignals(server, signals, drain)
    stop_signals.install()
    try:
        yield
    finally:
        stop_signals.remove()


def _server_handler() -> SignalHandler | None:
    """Return the function that handles SIGTERM, or None if we cannot call it."""
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(signal.SIGTERM)
    # Hypercorn and Granian use loop.add_signal_handler: then this function is a placeholder
    # of the event loop, and calling it would not tell the server.
    module = getattr(handler, "__module__", None) or ""
    if not callable(handler) or module.partition(".")[0] in ("asyncio", "uvloop"):
        return None
    return handler
