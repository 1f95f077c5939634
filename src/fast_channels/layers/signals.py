"""
The signals that stop a server: first everything is drained, then the server hears of it.

Uvicorn closes all connections at once when it is told to stop, and asks the
application to clean up only afterwards. So the signal has to be caught before.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import FrameType

    Handler: TypeAlias = Callable[[int, FrameType | None], Any]

# Seconds in which a signal that comes again is the same one: a supervisor may
# tell all processes, and the server's parent process its workers once more.
ECHO = 1.0


class StopSignals:
    """
    Stands before the handler of a server, on its event loop in the main thread.

    The first signal starts `drain`, and the server gets it afterwards. A second
    one goes straight to the server, but for the one that a worker is owed by
    its parent process: uvicorn's passes SIGTERM on when it comes to it, which
    may be while it waits five seconds for the answer of another worker.
    """

    def __init__(
        self, server: Handler, signals: list[int], drain: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._server = server
        self._signals = signals
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        # When the first signal came, by the loop's clock.
        self._told_at: float | None = None
        self._parent_will_tell = multiprocessing.parent_process() is not None
        # Whether the server knows, so that it is not told twice.
        self._handed_over = False
        self._task: asyncio.Task[None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: between any two steps of what the main thread does."""
        if self._handed_over:
            self._server(number, frame)
        elif self._told_at is None:
            self._told_at = self._loop.time()
            self._loop.call_soon_threadsafe(self._begin, number)
        elif number == signal.SIGTERM and self._parent_will_tell:
            self._parent_will_tell = False
        elif self._loop.time() > self._told_at + ECHO:
            self._hand_over(number)

    def install(self) -> None:
        for number in self._signals:
            signal.signal(number, self)

    def remove(self) -> None:
        """Give the signals back, unless somebody else has taken them meanwhile, who may call us."""
        self._handed_over = True
        for number in self._signals:
            here: object = signal.getsignal(number)
            if here is self:
                signal.signal(number, self._server)

    def _begin(self, number: int) -> None:
        drain = self._drain_and_hand_over(number)
        self._task = self._loop.create_task(drain, name="fast_channels stop")

    async def _drain_and_hand_over(self, number: int) -> None:
        try:
            await self._drain()
        finally:
            # Uvicorn lets a SIGTERM kill the process when all is done, whose exit
            # code then tells of a failure. After a SIGINT, Ctrl+C, it ends with 0.
            both = signal.SIGINT in self._signals
            self._hand_over(signal.SIGINT if both else number)

    def _hand_over(self, number: int) -> None:
        if not self._handed_over:
            self._handed_over = True
            self._server(number, None)


@contextlib.contextmanager
def drained_before_stop(drain: Callable[[], Coroutine[Any, Any, None]]) -> Generator[None]:
    """Let the server of this process stop after a drain, if it is one that can be made to."""
    server = _server_handler()
    if server is None:
        yield
        return
    # One that treats Ctrl+C alike. Otherwise that is not the server's.
    alike = signal.getsignal(signal.SIGINT) == server
    signals: list[int] = [signal.SIGTERM, *([signal.SIGINT] if alike else [])]
    stop_signals = StopSignals(server, signals, drain)
    stop_signals.install()
    try:
        yield
    finally:
        stop_signals.remove()


def _server_handler() -> Handler | None:
    """Return the function that handles SIGTERM; None if there is none that we may call."""
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(signal.SIGTERM)
    # With loop.add_signal_handler, as Hypercorn and Granian do it, a server hears
    # of the signal in another way than by the function that stands here.
    module = getattr(handler, "__module__", None) or ""
    if not callable(handler) or module.partition(".")[0] in ("asyncio", "uvloop"):
        return None
    return handler
