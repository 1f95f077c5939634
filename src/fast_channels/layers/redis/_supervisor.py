"""Keeps one reading connection alive, and says when it was not."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

from ._connection import CONNECTION_ERRORS, Link
from ._hosts import describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .type_defs import ChannelDecodedRedisHost

logger = logging.getLogger("fast_channels.layers.redis")

# Seconds between attempts to connect, doubling from the first to the second.
FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0


class Supervisor:
    """
    Runs `converse(link, self)` on a connection, and on a new one whenever that fails.

    An outage begins with `on_loss()`. It ends when `converse` calls
    `connected()`, once all is in order again, with `on_return(since, until)`:
    Unix times in seconds, the first being when the server was last heard.
    When `converse` returns, the work is done.
    """

    def __init__(
        self,
        host: ChannelDecodedRedisHost,
        converse: Callable[[Link, Supervisor], Awaitable[None]],
        on_loss: Callable[[], None] = lambda: None,
        on_return: Callable[[float, float], None] = lambda _since, _until: None,
    ) -> None:
        self._host = host
        self._converse = converse
        self._on_loss = on_loss
        self._on_return = on_return
        self._task: asyncio.Task[None] | None = None
        # When the outage began that has not ended; None while all is well.
        self._lost_at: float | None = None
        # When the connection last was known to work.
        self._last_heard = time.time()
        self._pauses = pauses()

    def start(self) -> None:
        """Connect in the background. Starting twice is fine."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"fast_channels reader {self}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def ended(self, timeout: float) -> None:
        """Wait for `converse` to return, `timeout` seconds at most and not during an outage."""
        if self._task is not None and self._lost_at is None:
            await asyncio.wait([self._task], timeout=timeout)
        await self.stop()

    def connected(self) -> None:
        """Called by `converse`: everything that was subscribed is so again."""
        self._pauses = pauses()
        if self._lost_at is None:
            return
        since, self._lost_at = self._lost_at, None
        until = time.time()
        logger.info("%s is back after %.1f s", self, until - since)
        self._on_return(since, until)

    def touch(self) -> None:
        """Called by `converse` whenever the server was heard."""
        self._last_heard = time.time()

    def __str__(self) -> str:
        return describe(self._host)

    async def _run(self) -> None:
        while True:
            link = Link(self._host)
            try:
                await link.open()
                await self._converse(link, self)
            except CONNECTION_ERRORS as exc:
                self._lost(exc)
            else:
                return
            finally:
                await link.close()
            await asyncio.sleep(next(self._pauses))

    def _lost(self, exc: BaseException) -> None:
        if self._lost_at is None:
            self._lost_at = self._last_heard
            reason = str(exc) or type(exc).__name__
            logger.warning("lost %s, trying to connect again: %s", self, reason)
            self._on_loss()


def pauses() -> Iterator[float]:
    """Yield seconds to wait, with jitter so that many processes do not come back at once."""
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret depends on it
        pause = min(pause * 2, LAST_PAUSE)
