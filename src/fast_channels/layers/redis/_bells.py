"""News that there is work: a subscription that wakes those who wait for it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ._connection import CONNECTION_ERRORS
from ._heartbeat import Heartbeat
from ._supervisor import first_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._connection import Link
    from ._server import Server
    from ._supervisor import Supervisor


class Bells:
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
        self._heart = Heartbeat(server, interval, lambda: publish("PUBLISH", self._beats, b""))
        self._supervisor = server.supervised(self._converse)
        # The connection in use; None while there is none.
        self._link: Link | None = None

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

    async def _converse(self, link: Link, supervisor: Supervisor) -> None:
        # No waiting between these two lines: a name is in this list or subscribed
        # by whoever added it.
        self._link = link
        link.write([(b"SUBSCRIBE", self._beats, *self._bells)])
        try:
            await first_of(self._read(link, supervisor), self._heart.watch())
        finally:
            self._link = None

    async def _read(self, link: Link, supervisor: Supervisor) -> None:
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
