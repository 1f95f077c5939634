"""Notices of a server: news that there is work, and of writes to keys."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ._client import CONNECTION_ERRORS
from ._reader import ReaderHeartbeat, first_of
from ._scripts import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._client import RedisConnection
    from ._reader import Reader
    from ._server import Server

HEARTBEAT = Script("heartbeat")

# Where a server says which of the tracked keys were written to.
# https://valkey.io/topics/client-side-caching/
INVALIDATIONS = b"__redis__:invalidate"


class WorkNotices:
    """
    One connection for all names. It is no more than a saving of time.

    What it misses is found by whoever looks again from time to time. `beats` is
    a Redis channel of this process alone.
    """

    def __init__(self, server: Server, beats: str, interval: float) -> None:
        # What to call, by Redis channel.
        self._bells: dict[bytes, Callable[[], None]] = {}
        self._beats = beats.encode()
        publish = server.publishing.call
        self._heart = ReaderHeartbeat(
            server, interval, lambda: publish("PUBLISH", self._beats, b"")
        )
        self._supervisor = server.supervised(self._converse)
        # The connection in use; None while there is none.
        self._link: RedisConnection | None = None

    def listen(self, channel: str, ring: Callable[[], None]) -> None:
        """Call `ring` whenever there may be news, from now on."""
        self._bells[channel.encode()] = ring
        self._write(b"SUBSCRIBE", channel)
        self._supervisor.start()

    def ignore(self, channel: str) -> None:
        del self._bells[channel.encode()]
        self._write(b"UNSUBSCRIBE", channel)

    async def stop(self) -> None:
        await self._supervisor.stop()

    def _write(self, command: bytes, channel: str) -> None:
        if self._link is not None:
            # If it fails, the reader notices too, and subscribes anew.
            with contextlib.suppress(*CONNECTION_ERRORS):
                self._link.write([(command, channel)])

    async def _converse(self, link: RedisConnection, supervisor: Reader) -> None:
        # No waiting between these two lines: a name is in this list or subscribed
        # by whoever added it.
        self._link = link
        link.write([(b"SUBSCRIBE", self._beats, *self._bells)])
        try:
            await first_of(self._read(link, supervisor), self._heart.watch())
        finally:
            self._link = None

    async def _read(self, link: RedisConnection, supervisor: Reader) -> None:
        connected = False
        while True:
            replies = await link.read_all()
            supervisor.touch()
            self._heart.heard()
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
                kind, channel, _ = reply
                # What came before the subscription was confirmed was not told.
                if kind != b"unsubscribe" and (ring := self._bells.get(channel)) is not None:
                    ring()
            if not connected:
                connected = True
                supervisor.connected()


class KeyTracker:
    """
    Rings when keys of a server are written to, also by peers who know nothing of it.

    A blocking pop would tell too, but take as well: what it takes is lost if
    the connection breaks at that moment. A heartbeat is one more write, to a
    key of its own.
    """

    def __init__(self, server: Server, keys: Sequence[str], beats: str, interval: float) -> None:
        self._server = server
        self._keys = [*keys, beats]
        self._beats = beats.encode()
        lasts = int(interval * 2000)
        publish = server.publishing
        self._heart = ReaderHeartbeat(
            server, interval, lambda: publish.run(HEARTBEAT, [beats], [lasts])
        )
        self._rung = asyncio.Event()

    async def arm(self, link: RedisConnection) -> None:
        """Let the server tell of writes on this connection, from now on."""
        # Redirected to itself, because RESP 2 carries what nobody asked for
        # only as messages of pub/sub.
        prefixes = [word for key in self._keys for word in ("PREFIX", key)]
        async with asyncio.timeout(self._server.timeout):
            number = await link.call("CLIENT", "ID")
            await link.call("CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", *prefixes)
            await link.call("SUBSCRIBE", INVALIDATIONS)
        # Nobody told of what was there before.
        self._rung.set()

    async def keep(self, link: RedisConnection, supervisor: Reader) -> None:
        """Ring whenever there is reason to; raises ConnectionError when nothing is heard."""
        await first_of(self._listen(link, supervisor), self._heart.watch())

    async def wait(self) -> None:
        """Return when it has rung since the last call."""
        await self._rung.wait()
        self._rung.clear()

    async def _listen(self, link: RedisConnection, supervisor: Reader) -> None:
        while True:
            _, _, keys = await link.read()
            supervisor.touch()
            self._heart.heard()
            # None: all keys are gone.
            if keys != [self._beats]:
                self._rung.set()
