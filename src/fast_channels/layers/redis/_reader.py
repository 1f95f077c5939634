"""A connection that only receives: kept open, checked by a heartbeat, its outages reported."""

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

# The delay before connecting again doubles from the first to the second.
MIN_RECONNECT_DELAY_SECONDS, MAX_RECONNECT_DELAY_SECONDS = 0.1, 5.0


class Reader:
    """
    Runs `converse(connection, reader)`, and again on a new connection when that fails.

    An outage begins with a call of `on_loss()`. It ends when `converse` calls
    `connected()`, with a call of `on_return(since, until, recovered)`: Unix times in
    seconds, of which `since` is when the server was last heard, and whether everything
    that was sent meanwhile will still arrive. The reader ends when `converse` returns.
    """

    def __init__(
        self,
        host: ChannelDecodedRedisHost,
        converse: Callable[[RedisConnection, Reader], Awaitable[None]],
        state: ServerState,
        on_loss: Callable[[], None] = lambda: None,
        on_return: Callable[[float, float, bool], None] = lambda _since, _until, _recovered: None,
        timeout: float = SEND_TIMEOUT_SECONDS,
    ) -> None:
        self._host = host
        self._converse = converse
        self.state = state
        """The state of the server, shared by all connections to it."""
        self._on_loss = on_loss
        self._on_return = on_return
        # How long connecting may take, in seconds.
        self._timeout = timeout
        self.task: asyncio.Task[None] | None = None
        # When the present outage began; None without an outage.
        self._lost_at: float | None = None
        # The same as time.monotonic(), because the length of an outage must not depend on a
        # system clock, which may be set.
        self._lost_at_monotonic = 0.0
        self.heard_at = time.monotonic()
        """time.monotonic() when the server was last heard. Set by `converse`."""
        self._delays = reconnect_delays()
        # time.monotonic() of the last call of connected(); None during an outage.
        self._connected_at: float | None = None
        # Whether the traceback of an unexpected error was logged in this outage.
        self._traceback_logged = False

    def start(self) -> None:
        """Connect in the background. Starting twice is fine."""
        if self.task is None:
            self.task = asyncio.create_task(self._run(), name=f"fast_channels reader {self}")

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None
            self.state.connected(self)

    @property
    def is_connected(self) -> bool:
        """True after `connected()` until the connection is lost."""
        return self._connected_at is not None

    @property
    def interrupted(self) -> bool:
        """True during an outage, which `connected()` will end."""
        return self._lost_at is not None

    def connected(self, *, recovered: bool = False) -> None:
        """Note that the conversation has set up everything. Called by `converse`."""
        self._connected_at, self._traceback_logged = time.monotonic(), False
        self.heard_at = time.monotonic()
        self.state.connected(self)
        if self._lost_at is not None:
            since, self._lost_at = self._lost_at, None
            until = since + time.monotonic() - self._lost_at_monotonic
            self._on_return(since, until, recovered)

    def __str__(self) -> str:
        return self.state.name

    async def _run(self) -> None:
        while True:
            connection = RedisConnection(self._host, self._timeout)
            try:
                await connection.open()
                await self._converse(connection, self)
            except Exception as exc:  # noqa: BLE001 - a process that lost its reader would receive nothing, unnoticed
                self._log_unexpected(exc)
                self._lost(exc)
            else:
                return
            finally:
                await connection.close()
            await asyncio.sleep(next(self._delays))

    def _log_unexpected(self, exc: Exception) -> None:
        """Log the traceback of an error that is not an ordinary outage, once per outage."""
        if not isinstance(exc, CONNECTION_ERRORS) and not self._traceback_logged:
            self._traceback_logged = True
            logger.error(
                "unexpected error in a reader of %s, which starts again", self, exc_info=exc
            )

    def _lost(self, exc: Exception) -> None:
        connected_for = 0.0 if self._connected_at is None else time.monotonic() - self._connected_at
        # Connections that break at once are made ever less often.
        if connected_for > MAX_RECONNECT_DELAY_SECONDS:
            self._delays = reconnect_delays()
        self._connected_at = None
        self.state.lost(self, exc)
        if self._lost_at is None:
            self._lost_at_monotonic = self.heard_at
            self._lost_at = time.time() - (time.monotonic() - self.heard_at)
            self._on_loss()


class ReaderHeartbeat:
    """
    Proves that messages reach a reader: TCP alone may never notice a dead peer.

    `send` publishes something that the reader has to receive. Other messages prove the
    same: a heartbeat that waits behind a backlog must not cost that backlog. The way to
    the server needs no heartbeat, because every command has a timeout.
    """

    def __init__(
        self, server: Server, interval: float, send: Callable[[], Awaitable[object]]
    ) -> None:
        self._server = server
        # In seconds.
        self._interval = interval
        self._send = send

    async def run(self, reader: Reader) -> None:
        """
        Send a heartbeat at every interval. Raises ConnectionError after two without an answer.

        By then the clients of the server have dropped their connections as well.
        """
        reader.heard_at = time.monotonic()
        sending: asyncio.Task[None] | None = None
        try:
            while True:
                if sending is None or sending.done():
                    sending = asyncio.create_task(self._try_send(), name="fast_channels heartbeat")
                await self._sleep(reader)
                silence = time.monotonic() - reader.heard_at
                if silence >= 2 * self._interval:
                    await self._server.reset()
                    raise ConnectionError(f"no heartbeat came back for {silence:.1f} s")
        finally:
            if sending is not None:
                sending.cancel()

    async def _sleep(self, reader: Reader) -> None:
        began = time.monotonic()
        await asyncio.sleep(self._interval)
        if time.monotonic() - began > 1.5 * self._interval:
            # This process stood still, and the answer may wait in the socket.
            reader.heard_at = time.monotonic()

    async def _try_send(self) -> None:
        # A failed heartbeat is noticed by the missing answer.
        with contextlib.suppress(LayerUnavailable):
            await self._send()


def reconnect_delays() -> Iterator[float]:
    """Yield seconds to wait, with jitter so that many processes do not come back together."""
    delay = MIN_RECONNECT_DELAY_SECONDS
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - not for security
        delay = min(delay * 2, MAX_RECONNECT_DELAY_SECONDS)


async def first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, cancel the others, and raise the error of the first, if any."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        # Also marks the exceptions of the others as retrieved.
        await asyncio.gather(*tasks, return_exceptions=True)
