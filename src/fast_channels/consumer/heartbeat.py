"""Finds out whether a client that says nothing is still there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

# Seconds by which a timer may be late before the time is held to be ours: a
# loop that was blocked has not read what the client sent meanwhile.
STALL = 1.0


class Heartbeat:
    """
    Calls `ping` when nothing was heard for `interval` seconds, and `expired`
    when nothing was heard for `timeout` seconds more. Anything heard is life.

    One timer per connection: hearing something only notes the time, and the
    timer looks at it when it fires. `ping` and `expired` run in a task, since
    a handler may be busy for as long as it likes; `unread` says that frames of
    the client wait for room, who then is alive, whatever it may say.
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
        # When the ping was sent that has no answer yet.
        self._pinged: float | None = None
        self._task: asyncio.Task[None] | None = None
        # When the timer is to fire: uvloop's handles do not tell.
        self._due = self._heard + interval
        self._timer = self._loop.call_at(self._due, self._look)

    @property
    def waiting(self) -> bool:
        """Whether a ping is unanswered."""
        return self._pinged is not None

    def heard(self, now: float) -> None:
        """The client has sent something."""
        self._heard = now
        self._pinged = None

    async def stop(self) -> None:
        """Ping no more. Fine to call from `expired`, and more than once."""
        self._timer.cancel()
        if self._cancel() and self._task is not None:
            await asyncio.wait([self._task])

    def _look(self) -> None:
        now = self._loop.time()
        if self._unread():
            self.heard(now)
        late = now - self._due > STALL
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
        """Whether there was a task to cancel, other than the one that asks."""
        task = self._task
        return task is not None and task is not asyncio.current_task() and task.cancel()

    def _run(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # A ping that is still waiting for its turn would be sent for nothing.
        self._cancel()
        self._task = self._loop.create_task(job())
