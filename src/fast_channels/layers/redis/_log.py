"""
The logs of topics on one server: for each a stream, and a hash with the end of the log.

All keys of a topic have the same hash tag, which keeps them on one node of a cluster.
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

# Payloads in one reply: the server serves no other client while it makes the reply.
MAX_ENTRIES_PER_REPLY = 250

# How long the end of an unused log is kept, at least, and as a multiple of how long its
# payloads are kept. A client that returns later cannot be told that it has missed nothing.
MIN_END_TTL_SECONDS = 86_400.0
END_TTL_FACTOR = 10

# How long the shared channels in a group are kept after the last one was added.
MEMBERS_TTL_SECONDS = 86_400


class StreamLog:
    """Appends to logs and reads them. Its methods raise LayerUnavailable as Client.call does."""

    def __init__(self, server: Server, prefix: str, options: HistoryOptions) -> None:
        self._server = server
        self._prefix = f"{prefix}__log__{{"
        # One more than the history has: the position of the payload before the oldest can
        # then be checked.
        self._size = options.size + 1
        self._ttl = milliseconds(options.ttl)
        self._end_ttl = milliseconds(max(options.ttl * END_TTL_FACTOR, MIN_END_TTL_SECONDS))
        self._window = milliseconds(options.window)

    def key(self, topic: str) -> str:
        """Return the key of a topic's log, which is also the channel of its notifications."""
        return f"{self._prefix}{topic}}}"

    async def append(
        self, topic: str, payload: bytes, once: str | None
    ) -> tuple[Position, Sequence[bytes]]:
        """Append a payload; return its position, and the shared channels to send it to."""
        key = self.key(topic)
        keys = [key, _end_key(key), members_key(key)]
        if once is not None:
            keys.append(_once(key, once))
        args = [payload, new_epoch(), new_tag(), self._size, self._ttl, self._end_ttl]
        found = await self._server.publishing.run(APPEND, keys, [*args, self._window])
        position, members = found
        return Position.parse(position.decode()), members

    async def sent(self, topic: str, position: Position, once: str) -> None:
        """Note that a payload was sent to the shared channels: repeating it does not send again."""
        # If this fails, the payload was sent all the same.
        with contextlib.suppress(LayerUnavailable):
            await self._server.publishing.call(
                "SET", _once(self.key(topic), once), str(position), "XX", "KEEPTTL"
            )

    async def add_member(self, topic: str, name: str) -> None:
        """Let `append` return a shared channel of the group."""
        key, call = members_key(self.key(topic)), self._server.control.call
        await asyncio.gather(call("SADD", key, name), call("EXPIRE", key, MEMBERS_TTL_SECONDS))

    async def remove_member(self, topic: str, name: str) -> None:
        await self._server.control.call("SREM", members_key(self.key(topic)), name)

    async def read(self, topic: str, after: Position | None, limit: int | None) -> LogSlice:
        """See layers.broker.Log."""
        if after is None:
            part = await self._newest(topic, limit)
        else:
            part = await self.read_some(topic, after)
        entries = list(part.entries)
        while entries and _continues(entries, part.end, limit):
            more = await self.read_some(topic, entries[-1].position)
            if not more.connected:
                # The rest was trimmed meanwhile, so this is not everything.
                return part._replace(entries=entries[:limit], connected=False)
            # Without payloads that are appended meanwhile, or this might never end.
            entries += [e for e in more.entries if e.position.offset <= part.end.offset]
        return part._replace(entries=entries[:limit])

    async def read_some(self, topic: str, after: Position) -> LogSlice:
        """Return the payloads after a position, at most MAX_ENTRIES_PER_REPLY."""
        # Together with the payload at that position, if the log still has it.
        end, entries = await self._read(topic, MAX_ENTRIES_PER_REPLY + 1, after.offset)
        if after.epoch != end.epoch:
            # The caller knows nothing of this log.
            return (await self._newest(topic, None))._replace(connected=False)
        if entries and entries[0].position.offset == after.offset:
            known, entries = entries[0].position, entries[1:]
        else:
            # The log is empty, or begins later.
            known = Position(end.epoch, 0, 0) if entries or after.offset == 0 else end
        # An administrator may have deleted single payloads.
        last = entries[-1].position.offset if entries else end.offset
        return LogSlice(entries, end, known == after and last == after.offset + len(entries))

    async def end(self, topic: str) -> Position:
        """Return the position of the last payload in a log."""
        return (await self._read(topic, 0))[0]

    async def _newest(self, topic: str, limit: int | None) -> LogSlice:
        """Return the newest payloads, or the first MAX_ENTRIES_PER_REPLY of them."""
        kept = self._size - 1
        wanted = kept if limit is None else min(limit, kept)
        end, entries = await self._read(topic, min(wanted, MAX_ENTRIES_PER_REPLY), -wanted)
        return LogSlice(entries, end, connected=True)

    async def _read(
        self, topic: str, limit: int, first: int = 0
    ) -> tuple[Position, list[LogEntry]]:
        key = self.key(topic)
        args = [new_epoch(), self._end_ttl, limit, first]
        epoch, offset, tag, found = await self._server.control.run(READ, [key, _end_key(key)], args)
        end = Position(epoch.decode(), int(offset), int(tag))
        pairs = zip(found[::2], found[1::2], strict=True)
        return end, [LogEntry(_position(end.epoch, id_), payload) for id_, payload in pairs]


def members_key(key: str) -> str:
    """Return the key of the shared channels in a group."""
    return f"{key}:members"


def milliseconds(seconds: float) -> int:
    """Return a time in milliseconds, at least 1: Redis refuses 0."""
    return max(1, round(seconds * 1000))


def _once(key: str, once: str) -> str:
    return f"{key}:once:{once}"


def _end_key(key: str) -> str:
    return f"{key}:meta"


def _position(epoch: str, id_: Any) -> Position:
    offset, _, tag = id_.decode().partition("-")
    return Position(epoch, int(offset), int(tag))


def _continues(entries: Sequence[LogEntry], end: Position, limit: int | None) -> bool:
    return entries[-1].position.offset < end.offset and (limit is None or len(entries) < limit)
