"""
One event loop in one daemon thread per process, for callers who have none that lasts.

Sync code, and `async_to_sync` from worker threads, come and go; connections
that belong to their short-lived loops would be made anew for every message.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading

from .forks import keep_in_children

# Seconds that open connections have to close when the process exits.
EXIT_TIMEOUT = 2.0


class _State:
    def __init__(self) -> None:
        # A fork copies this object without the thread, so it says whose it is.
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None


_state = _State()


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process; started on first use, in a child of fork again."""
    global _state  # noqa: PLW0603 - there is one thread per process, and this is its only handle
    if _state.pid != os.getpid():
        # The parent's lock may have been held at the moment of the fork.
        _state = _State()
    with _state.lock:
        if _state.loop is None:
            _state.loop = asyncio.new_event_loop()
            keep_in_children(_state)
            thread = threading.Thread(
                target=_run, args=(_state.loop,), name="fast_channels background", daemon=True
            )
            running = threading.Event()
            _state.loop.call_soon(running.set)
            thread.start()
            # Only a loop that runs can be the home of a layer.
            running.wait()
            # Registered here, not at import: only a process that has the thread
            # needs to end it, in time for connections to be closed properly.
            atexit.register(_end, _state, thread)
        return _state.loop


def is_background(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is that loop; asking does not start it."""
    return loop is _state.loop and _state.pid == os.getpid()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    # At its end a Runner cancels all tasks and waits for them; that is when
    # layers close their connections.
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


def _end(state: _State, thread: threading.Thread) -> None:
    # A child of fork inherits this call, but not the thread.
    if state.pid == os.getpid() and state.loop is not None:
        with contextlib.suppress(RuntimeError):  # it was stopped before
            state.loop.call_soon_threadsafe(state.loop.stop)
        thread.join(timeout=EXIT_TIMEOUT)
