"""
The logs of topics on one server: a stream each, and beside it where it stands.

The names of the keys of one topic have the same hash tag, as Redis Cluster wants it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.broker import LogEntry, LogSlice
from fast_channels.layers.position import Position, new_epoch, new_tag

from ._scripts import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_channels.layers.options import HistoryOptions

    from ._server import Server

APPEND = Script("append")
READ = Script("read")

# Payloads that one reply carries at most: nobody else is served meanwhile.
PORTION = 250

# Seconds for which it is known where a log stood that nobody writes to or reads, at least,
# and in relation to how long its payloads are kept. A client that comes back after
# that cannot be told that it has missed nothing.
META_TTL = 86_400.0
META_TTL_FACTOR = 10

# Seconds until the shared channels in a group are forgotten, since the last was added.
MEMBERS_TTL = 86_400


class StreamLog:
    """Appends and reads. Raises LayerUnavailable as Client.call does."""

    def __init__(self, server: Server, prefix: str, options: HistoryOptions) -> None:
        self._server = server
        self._prefix = f"{prefix}__log__{{"
        # One more than asked for: whoever has seen the one before the oldest has a
        # position that can be checked.
        self._size = options.size + 1
        self._ttl = milliseconds(options.ttl)
        self._meta_ttl = milliseconds(max(options.ttl * META_TTL_FACTOR, META_TTL))
        self._window = milliseconds(options.window)

    def key(self, topic: str) -> str:
        """Return the name of a topic's log, which is also the Redis channel it is told on."""
        return f"{self._prefix}{topic}}}"

    async def append(
        self, topic: str, payload: bytes, once: str | None
    ) -> tuple[Position, Sequence[bytes]]:
        """Return the position of a payload, and to which shared channels it has to be sent."""
        key = self.key(topic)
        keys = [key, _meta(key), members_key(key)]
        if once is not None:
            keys.append(_once(key, once))
        args = [payload, new_epoch(), new_tag(), self._size, self._ttl, self._meta_ttl]
        found = await self._server.publishing.run(APPEND, keys, [*args, self._window])
        position, members = found
        return Position.parse(position.decode()), members

    async def sent(self, topic: str, position: Position, once: str) -> None:
        """Let `append` return the members no more to who repeats it."""
        # Who has sent has done so, whether that can be written down or not.
        with contextlib.suppress(LayerUnavailable):
            await self._server.publishing.call(
                "SET", _once(self.key(topic), once), str(position), "XX", "KEEPTTL"
            )

    async def add_member(self, topic: str, name: str) -> None:
        """Let `append` return a channel that processes share."""
        key, call = members_key(self.key(topic)), self._server.control.call
        await asyncio.gather(call("SADD", key, name), call("EXPIRE", key, MEMBERS_TTL))

    async def remove_member(self, topic: str, name: str) -> None:
        await self._server.control.call("SREM", members_key(self.key(topic)), name)

    async def read(self, topic: str, after: Position | None, limit: int | None) -> LogSlice:
        """See layers.broker.Log."""
        if after is None:
            stretch = await self._newest(topic, limit)
        else:
            stretch = await self.read_some(topic, after)
        entries = list(stretch.entries)
        while entries and _goes_on(entries, stretch.end, limit):
            # What is appended meanwhile is not part of it, or it might never end.
            more = await self.read_some(topic, entries[-1].position)
            if not more.connected:
                # What follows is gone while we read: nobody may take this for all of it.
                return stretch._replace(entries=entries[:limit], connected=False)
            entries += [e for e in more.entries if e.position.offset <= stretch.end.offset]
        return stretch._replace(entries=entries[:limit])

    async def read_some(self, topic: str, after: Position) -> LogSlice:
        """Return what came after a position, a portion of it."""
        # With the one that has that position, if it is there.
        end, entries = await self._read(topic, PORTION + 1, after.offset)
        if after.epoch != end.epoch:
            # Nothing of it is known to whoever asks.
            return (await self._newest(topic, None))._replace(connected=False)
        if entries and entries[0].position.offset == after.offset:
            known, entries = entries[0].position, entries[1:]
        else:
            # The log is empty, or begins later.
            known = Position(end.epoch, 0, 0) if entries or after.offset == 0 else end
        # Somebody may have removed some of it by hand.
        last = entries[-1].position.offset if entries else end.offset
        return LogSlice(entries, end, known == after and last == after.offset + len(entries))

    async def end(self, topic: str) -> Position:
        """Return where a log stands."""
        return (await self._read(topic, 0))[0]

    async def _newest(self, topic: str, limit: int | None) -> LogSlice:
        """Return the first portion of the newest payloads."""
        kept = self._size - 1
        wanted = kept if limit is None else min(limit, kept)
        end, entries = await self._read(topic, min(wanted, PORTION), -wanted)
        return LogSlice(entries, end, connected=True)

    async def _read(
        self, topic: str, limit: int, first: int = 0
    ) -> tuple[Position, list[LogEntry]]:
        key = self.key(topic)
        args = [new_epoch(), self._meta_ttl, limit, first]
        epoch, offset, tag, found = await self._server.control.run(READ, [key, _meta(key)], args)
        end = Position(epoch.decode(), int(offset), int(tag))
        pairs = zip(found[::2], found[1::2], strict=True)
        return end, [LogEntry(_position(end.epoch, id_), payload) for id_, payload in pairs]


def members_key(key: str) -> str:
    """Return the name of the set of plain channels that are members of a group."""
    return f"{key}:members"


def milliseconds(seconds: float) -> int:
    """Return a time as Redis wants it; never 0, which would be refused."""
    return max(1, round(seconds * 1000))


def _once(key: str, once: str) -> str:
    return f"{key}:once:{once}"


def _meta(key: str) -> str:
    return f"{key}:meta"


def _position(epoch: str, id_: Any) -> Position:
    offset, _, tag = id_.decode().partition("-")
    return Position(epoch, int(offset), int(tag))


def _goes_on(entries: Sequence[LogEntry], end: Position, limit: int | None) -> bool:
    return entries[-1].position.offset < end.offset and (limit is None or len(entries) < limit)
