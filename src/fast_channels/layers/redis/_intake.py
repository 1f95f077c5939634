"""Takes payloads out of sorted sets so that a connection that breaks loses none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from ._heartbeat import Heartbeat
from ._scripts import Script
from ._supervisor import first_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._connection import Link
    from ._pipe import Pipe
    from ._server import Server
    from ._supervisor import Supervisor

TAKE = Script("take")
BEAT = Script("beat")

# Where a server says which of the tracked keys were written to.
# https://valkey.io/topics/client-side-caching/
INVALIDATIONS = b"__redis__:invalidate"


class Taken(NamedTuple):
    """A payload, and the score it takes to put it back where it was."""

    payload: bytes
    score: bytes


class Intake:
    """
    Takes batches from `keys` on one server; see take.lua for why none is lost.

    Cancelling `take` is fine: the next call returns the same batch.
    """

    def __init__(self, pipe: Pipe, batch: str, keys: Sequence[str], expiry: float) -> None:
        self._pipe = pipe
        self._batch = batch
        # Its owner may add to it.
        self._keys = keys
        # Milliseconds that the server keeps a batch which is not fetched.
        self._expiry = int(expiry * 1000)
        # Number of the last batch that has arrived here.
        self._arrived = 0

    async def take(self, size: int) -> list[Taken]:
        """
        Return up to `size` payloads; what the last call returned is then forgotten.

        With a size of 0 it returns only what was taken and did not arrive.
        Raises LayerUnavailable.
        """
        args = [self._arrived, size, self._expiry]
        number, *batch = await self._pipe.run(TAKE, [self._batch, *self._keys], args)
        if int(number) <= self._arrived:
            return []
        self._arrived = int(number)
        return [Taken(*pair) for pair in zip(batch[::2], batch[1::2], strict=True)]


class Recent:
    """Remembers the last payloads, as many as `size`, by their hash."""

    def __init__(self, size: int) -> None:
        self._size = size
        # A dict, because it is an ordered set.
        self._seen: dict[int, None] = {}

    def add(self, payload: bytes) -> None:
        self._seen[hash(payload)] = None
        if len(self._seen) > self._size:
            del self._seen[next(iter(self._seen))]

    def __contains__(self, payload: bytes) -> bool:
        return hash(payload) in self._seen


class Alarm:
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
        self._heart = Heartbeat(server, interval, lambda: publish.run(BEAT, [beats], [lasts]))
        self._rung = asyncio.Event()

    async def arm(self, link: Link) -> None:
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

    async def keep(self, link: Link, supervisor: Supervisor) -> None:
        """Ring whenever there is reason to; raises ConnectionError when nothing is heard."""
        await first_of(self._listen(link, supervisor), self._heart.watch())

    async def wait(self) -> None:
        """Return when it has rung since the last call."""
        await self._rung.wait()
        self._rung.clear()

    async def _listen(self, link: Link, supervisor: Supervisor) -> None:
        while True:
            _, _, keys = await link.read()
            supervisor.touch()
            self._heart.heard()
            # None: all keys are gone.
            if keys != [self._beats]:
                self._rung.set()
