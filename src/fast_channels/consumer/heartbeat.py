"""Detects clients that have gone silently."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

# A timer that is later than this many seconds shows that the loop was blocked. Frames that the
# client sent meanwhile have not been read yet.
MAX_LATE_SECONDS = 1.0


class Heartbeat:
    """
    Calls `ping` after `interval` seconds without a frame, and `expired` after `timeout` more.

    A connection has one timer. A frame only records the time, and the timer checks it when it
    fires. `ping` and `expired` run in a task, because a handler may be busy for any time.
    `unread` returns True if frames of the client wait to be read; then the client is alive.
    """

    def __init__(
        self,
        interval: float,
        timeout: float,
        *,
        ping: Callable[[], Coroutine[Any, Any, None]],
        expired: Callable[[], Coroutine[Any, Any, None]],
        unread: Callable[[], bool],
    ) -> None:
        self._interval = interval
        self._timeout = timeout
        self._ping = ping
        self._expired = expired
        self._unread = unread
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        # The time of a ping without an answer, or None.
        self._pinged: float | None = None
        self._task: asyncio.Task[None] | None = None
        # The time at which the timer fires, because uvloop's handles do not have it.
        self._due = self._heard + interval
        self._timer = self._loop.call_at(self._due, self._look)

    @property
    def waiting(self) -> bool:
        """True while a ping has no answer."""
        return self._pinged is not None

    def heard(self, now: float) -> None:
        """Note that the client has sent a frame."""
        self._heard = now
        self._pinged = None

    async def stop(self) -> None:
        """Stop sending pings. `expired` may call it, and it may be called more than once."""
        self._timer.cancel()
        if self._cancel() and self._task is not None:
            await asyncio.wait([self._task])

    def _look(self) -> None:
        now = self._loop.time()
        if self._unread():
            self.heard(now)
        late = now - self._due > MAX_LATE_SECONDS
        if self._pinged is not None:
            if late:
                self._at(now + self._timeout)
            else:
                self._run(self._expired)
        elif (due := self._heard + self._interval) > now:
            self._at(due)
        else:
            self._pinged = now
            self._run(self._ping)
            self._at(now + self._timeout)

    def _at(self, when: float) -> None:
        self._due = when
        self._timer = self._loop.call_at(when, self._look)

    def _cancel(self) -> bool:
        """Cancel the present task unless it is the caller; return whether it was cancelled."""
        task = self._task
        return task is not None and task is not asyncio.current_task() and task.cancel()

    def _run(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # A ping that still waits for its turn is of no use any more.
        self._cancel()
        self._task = self._loop.create_task(job())
