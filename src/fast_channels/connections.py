"""
The connections that a process serves now, and how they all end when it does.

A drain belongs to one event loop: an application in another thread goes on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("fast_channels.connections")

# So few connections are closed at once: there is no rush of clients to avoid.
SMALLEST_BATCH = 20

# Seconds between two batches at least; more connections make larger batches.
SHORTEST_PAUSE = 0.1

# After the deadline a connection is cancelled, and again after each of these
# seconds: the first time it may be a handler that hangs, the second time
# `disconnect`. Together less than the second that a drain may take too long.
LAST_PAUSES = (0.4, 0.2, 0.2)


class Connection:
    """One connection, from its beginning until its cleanup is done."""

    __slots__ = ("_connections", "_cuts", "_ended", "_task", "close", "loop", "name")

    def __init__(self, connections: Connections, name: str, close: Callable[[], None]) -> None:
        self._connections = connections
        # What serves it, for the log.
        self.name = name
        # Ends it as soon as no handler runs. Does not wait, may come twice.
        self.close = close
        self.loop = asyncio.get_running_loop()
        # Done when the connection is over; made when a drain asks for it.
        self._ended: asyncio.Future[None] | None = None
        self._task = asyncio.current_task()
        # How often it was cancelled here, rather than by the server.
        self._cuts = 0

    def __enter__(self) -> None:
        self._connections.add(self)

    def __exit__(self, _type: object, exc: BaseException | None, _traceback: object) -> bool:
        # Asked in any case: what was cancelled may have gone on, and ended in another way.
        cut = self.was_cut()
        self._connections.remove(self)
        if self._ended is not None:
            self._ended.set_result(None)
        return cut and isinstance(exc, asyncio.CancelledError)

    @property
    def ended(self) -> asyncio.Future[None]:
        """What is done when the connection is over, for a drain to wait on."""
        if self._ended is None:
            self._ended = self.loop.create_future()
        return self._ended

    def cut(self) -> None:
        """End it whatever it is doing."""
        if self._task is not None:
            self._cuts += 1
            self._task.cancel()

    def was_cut(self) -> bool:
        """
        Whether it was cancelled here, and by nobody else.

        Takes that back: the server goes on with the task, and knows nothing of it.
        """
        cuts, self._cuts = self._cuts, 0
        others = 0
        for _ in range(cuts):
            others = self._task.uncancel() if self._task is not None else 0
        return cuts > 0 and others == 0


class Connections:
    """Every connection of the process, and which event loops take no more of them."""

    def __init__(self) -> None:
        # In the order in which they came; a dict, because it is an ordered set.
        self._live: dict[Connection, None] = {}
        # Loops on which new connections are turned away.
        self._refusing: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        # Drains under way.
        self._drains: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    def entered(self, name: str, close: Callable[[], None]) -> Connection:
        """
        Count the running task as a connection while a `with` block runs.

        A drain ends it with `close`, which during a drain is called at once. A
        connection that a drain had to cancel ends without an error.
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
        """Whether new connections are turned away on this loop."""
        return asyncio.get_running_loop() in self._refusing

    def resume(self) -> None:
        """Take connections on this loop again."""
        self._refusing.discard(asyncio.get_running_loop())

    async def drain(self, timeout: float, spread: float) -> None:
        """
        End every connection of this loop and refuse new ones until `resume`.

        They are closed in batches within `spread` seconds. What is not over
        after `timeout` seconds is cancelled; this returns less than a second
        later, in any case. Concurrent calls join the first one, and cancelling
        one of them does not end it for the others.
        """
        check_drain(timeout, spread)
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
        live = self._here()
        if live:
            logger.info("draining %d connections within %s s", len(live), timeout)
        pause, batches = _batches(live, spread)
        for number, batch in enumerate(batches, start=1):
            for connection in batch:
                connection.close()
            if number < len(batches):
                await self._over(loop.time() + pause)
        await self._over(deadline)
        if late := self._here():
            logger.warning("did not end in %s s and is cancelled: %s", timeout, _named(late))
        for seconds in LAST_PAUSES:
            for connection in self._here():
                connection.cut()
            await self._over(loop.time() + seconds)
        if left := self._here():
            logger.error("is cancelled and does not end: %s", _named(left))

    def _here(self) -> list[Connection]:
        """Return the connections of this loop, the oldest first."""
        loop = asyncio.get_running_loop()
        return [connection for connection in list(self._live) if connection.loop is loop]

    async def _over(self, until: float) -> None:
        """Return when no connection is left, or at a time of the loop's clock."""
        loop = asyncio.get_running_loop()
        while (live := self._here()) and (left := until - loop.time()) > 0:
            await asyncio.wait([connection.ended for connection in live], timeout=left)


def check_drain(timeout: float, spread: float) -> None:
    """Raise ValueError for seconds with which no drain can be made."""
    if not 0 <= spread <= timeout:
        raise ValueError(
            f"a drain is to close connections within {spread!r} s and end after {timeout!r} s; "
            "make the spread 0 or more, and the timeout no shorter"
        )


def _batches(live: list[Connection], spread: float) -> tuple[float, list[list[Connection]]]:
    """Divide connections into batches; also returns the seconds from one to the next."""
    most = max(1, int(spread / SHORTEST_PAUSE))
    number = min(most, math.ceil(len(live) / SMALLEST_BATCH))
    if number == 0:
        return 0.0, []
    size = math.ceil(len(live) / number)
    return spread / number, [live[start : start + size] for start in range(0, len(live), size)]


def _named(connections: list[Connection]) -> str:
    counted = Counter(connection.name for connection in connections)
    return ", ".join(f"{name} ({number} connections)" for name, number in counted.items())
