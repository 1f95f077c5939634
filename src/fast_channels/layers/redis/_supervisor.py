"""Keeps one reading connection alive, and says when it was not."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from ._connection import CONNECTION_ERRORS, TIMEOUT, Link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from ._watch import Watch
    from .type_defs import ChannelDecodedRedisHost

logger = logging.getLogger("fast_channels.layers.redis")

# Seconds between attempts to connect, doubling from the first to the second.
FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0


class Renew(Exception):
    """Raised by a conversation that wants a new connection, though the old one is in order."""


class Supervisor:
    """
    Runs `converse(link, self)` on a connection, and on a new one whenever that fails.

    An outage begins with `on_loss()`. It ends when `converse` calls
    `connected()`, once all is in order again, with `on_return(since, until,
    recovered)`: Unix times in seconds, the first being when the server was last
    heard, and whether what was sent meanwhile is there after all. When
    `converse` returns, the work is done.
    """

    def __init__(
        self,
        host: ChannelDecodedRedisHost,
        converse: Callable[[Link, Supervisor], Awaitable[None]],
        watch: Watch,
        on_loss: Callable[[], None] = lambda: None,
        on_return: Callable[[float, float, bool], None] = lambda _since, _until, _recovered: None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._host = host
        self._converse = converse
        self._watch = watch
        self._on_loss = on_loss
        self._on_return = on_return
        # Seconds to connect.
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None
        # When the outage began that has not ended; None while all is well.
        self._lost_at: float | None = None
        # When the connection last was known to work: Unix time, and time.monotonic()
        # because an outage is no shorter for a clock that was set back meanwhile.
        self._last_heard, self._last_tick = time.time(), time.monotonic()
        # The latter at the beginning of the outage.
        self._lost_tick = 0.0
        self._pauses = pauses()
        # time.monotonic() when all was well last; None while it is not.
        self._well_since: float | None = None
        # Whether an error that nobody expects was logged in this outage.
        self._puzzled = False

    def start(self) -> None:
        """Connect in the background. Starting twice is fine."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"fast_channels reader {self}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
            self._watch.back(self)

    @property
    def interrupted(self) -> bool:
        """Whether there is an outage that `connected()` will end."""
        return self._lost_at is not None

    def connected(self, *, recovered: bool = False) -> None:
        """Called by `converse`: everything is again as it should be."""
        self._well_since, self._puzzled = time.monotonic(), False
        self.touch()
        self._watch.back(self)
        if self._lost_at is not None:
            since, self._lost_at = self._lost_at, None
            self._on_return(since, since + time.monotonic() - self._lost_tick, recovered)

    def touch(self) -> None:
        """Called by `converse` whenever the server was heard."""
        self._last_heard, self._last_tick = time.time(), time.monotonic()

    def __str__(self) -> str:
        return self._watch.name

    async def _run(self) -> None:
        while True:
            link = Link(self._host, self._timeout)
            try:
                await link.open()
                await self._converse(link, self)
            except Renew:
                continue
            except Exception as exc:  # noqa: BLE001 - a process without its reader is deaf, and nobody would know
                self._explain(exc)
                self._lost(exc)
            else:
                return
            finally:
                await link.close()
            await asyncio.sleep(next(self._pauses))

    def _explain(self, exc: Exception) -> None:
        """Log a traceback if it takes one to understand the error, once per outage."""
        if not isinstance(exc, CONNECTION_ERRORS) and not self._puzzled:
            self._puzzled = True
            logger.error(
                "an error that no reader of %s expects; it begins anew", self, exc_info=exc
            )

    def _lost(self, exc: Exception) -> None:
        # A connection that breaks whenever it was made is no reason to hurry.
        if self._well_since is not None and time.monotonic() - self._well_since > LAST_PAUSE:
            self._pauses = pauses()
        self._well_since = None
        self._watch.lost(self, exc)
        if self._lost_at is None:
            self._lost_at, self._lost_tick = self._last_heard, self._last_tick
            self._on_loss()


def pauses() -> Iterator[float]:
    """Yield seconds to wait, with jitter so that many processes do not come back at once."""
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret depends on it
        pause = min(pause * 2, LAST_PAUSE)


async def first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, which ends the others; raises what that one raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        # Also marks what they raised as seen.
        await asyncio.gather(*tasks, return_exceptions=True)
