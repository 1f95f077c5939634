"""Keeps one reading connection alive, and says when it was not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import LayerUnavailable

from ._client import CONNECTION_ERRORS, SEND_TIMEOUT_SECONDS, RedisConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from ._server import Server, ServerState
    from .type_defs import ChannelDecodedRedisHost

logger = logging.getLogger("fast_channels.layers.redis")

# Seconds between attempts to connect, doubling from the first to the second.
MIN_RECONNECT_DELAY_SECONDS, MAX_RECONNECT_DELAY_SECONDS = 0.1, 5.0


class Reconnect(Exception):
    """Raised by a conversation that wants a new connection, though the old one is in order."""


class Reader:
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
        converse: Callable[[RedisConnection, Reader], Awaitable[None]],
        watch: ServerState,
        on_loss: Callable[[], None] = lambda: None,
        on_return: Callable[[float, float, bool], None] = lambda _since, _until, _recovered: None,
        timeout: float = SEND_TIMEOUT_SECONDS,
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
        self._pauses = reconnect_delays()
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
            link = RedisConnection(self._host, self._timeout)
            try:
                await link.open()
                await self._converse(link, self)
            except Reconnect:
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
        if (
            self._well_since is not None
            and time.monotonic() - self._well_since > MAX_RECONNECT_DELAY_SECONDS
        ):
            self._pauses = reconnect_delays()
        self._well_since = None
        self._watch.lost(self, exc)
        if self._lost_at is None:
            self._lost_at, self._lost_tick = self._last_heard, self._last_tick
            self._on_loss()


class ReaderHeartbeat:
    """
    `beat` sends something on the way that messages go; a reading connection must hear of it.

    A reader that hears other things is alive too: a heartbeat that waits
    behind a backlog must not cost that backlog. That the way there is broken
    is found out without it, since every command has a timeout.
    """

    def __init__(
        self, server: Server, interval: float, beat: Callable[[], Awaitable[object]]
    ) -> None:
        self._server = server
        # Seconds.
        self._interval = interval
        self._send = beat
        # time.monotonic() when the reader last heard anything.
        self._heard = 0.0

    def heard(self) -> None:
        self._heard = time.monotonic()

    async def watch(self) -> None:
        """
        Beat at every interval. Raises ConnectionError after two in silence.

        By then the other connections to the server are given up as well.
        """
        self.heard()
        beating: asyncio.Task[None] | None = None
        try:
            while True:
                if beating is None or beating.done():
                    beating = asyncio.create_task(self._beat(), name="fast_channels heartbeat")
                await self._sleep()
                silence = time.monotonic() - self._heard
                if silence >= 2 * self._interval:
                    await self._server.reset()
                    raise ConnectionError(f"no heartbeat came back for {silence:.1f} s")
        finally:
            if beating is not None:
                beating.cancel()

    async def _sleep(self) -> None:
        began = time.monotonic()
        await asyncio.sleep(self._interval)
        if time.monotonic() - began > 1.5 * self._interval:
            # This process stood still, and what it did not read may be waiting.
            self.heard()

    async def _beat(self) -> None:
        # Whoever sends for a purpose is told; here silence says it.
        with contextlib.suppress(LayerUnavailable):
            await self._send()


def reconnect_delays() -> Iterator[float]:
    """Yield seconds to wait, with jitter so that many processes do not come back at once."""
    pause = MIN_RECONNECT_DELAY_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret depends on it
        pause = min(pause * 2, MAX_RECONNECT_DELAY_SECONDS)


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
