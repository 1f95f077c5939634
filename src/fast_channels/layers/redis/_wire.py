"""Commands and replies over one connection, without a task of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import hiredis
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from ._connection import FAREWELL, INCOMPLETE, new_parser

if TYPE_CHECKING:
    from collections.abc import Sequence


class Asked(NamedTuple):
    """A command as it is written, and who waits for its reply."""

    packed: bytes
    # None if nobody does.
    reply: asyncio.Future[Any] | None
    # When it has failed, by the clock of the loop.
    deadline: float


class Owner(Protocol):
    """Whom a wire tells what happens."""

    def heard(self) -> None: ...

    def writable(self) -> None: ...

    def lost(self, wire: Wire, exc: Exception, under_way: int) -> None: ...


class Wire(asyncio.Protocol):
    """
    The protocol of a transport that redis-py has connected, see Link.hand_over.

    Replies reach their futures in the callback that brings them: a stream and a
    task that reads it would be two more turns of the loop for each.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        # None before there is a connection, and when it was given up.
        self._transport: asyncio.WriteTransport | None = None
        # Kept: it closes its transport when it is forgotten.
        self._writer: asyncio.StreamWriter | None = None
        self._parser = new_parser()
        # Commands that were written, in the order of their replies.
        self.asked: deque[Asked] = deque()
        # Whether the transport holds as much as it should.
        self.paused = False
        # Done when the transport has let go of its socket.
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Done when nothing is under way, if somebody waits for that.
        self._finished: asyncio.Future[None] | None = None

    def attach(self, writer: asyncio.StreamWriter) -> None:
        """Take over what it writes to; connection_made was for the protocol before this."""
        self._writer, self._transport = writer, writer.transport
        self._transport.set_protocol(self)

    def write(self, asked: Sequence[Asked]) -> None:
        """Send commands in one go; each will be answered, or lost with the connection."""
        self.asked.extend(asked)
        if self._transport is not None:
            self._transport.write(b"".join([one.packed for one in asked]))

    async def finish(self) -> None:
        """Return when nothing is under way any more."""
        if self.asked:
            self._finished = asyncio.get_running_loop().create_future()
            await self._finished

    def give_up(self, exc: Exception) -> None:
        """Cut the connection; everything under way fails with `exc`."""
        if self._transport is None:
            return
        self._transport.abort()
        self._transport = None
        asked, self.asked = self.asked, deque()
        for one in asked:
            resolve(one.reply, exc)
        self._tell_finished()
        self._owner.lost(self, exc, len(asked))

    async def close(self) -> None:
        """Let go; what is under way fails."""
        transport = self._transport
        if transport is None:
            return
        transport.close()
        # An encrypted connection is ended by both sides.
        await asyncio.wait([self._gone], timeout=FAREWELL)
        self.give_up(ConnectionError("it is closed"))

    # -- asyncio.Protocol ---------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
            while self._transport and (reply := self._parser.gets()) is not INCOMPLETE:
                _raise_if_general(reply)
                resolve(self.asked.popleft().reply, reply)
        except (RedisError, hiredis.HiredisError, IndexError) as exc:
            # IndexError: a reply that nobody asked for.
            self.give_up(exc)
        else:
            self._owner.heard()
            self._tell_finished()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        self.give_up(exc or ConnectionError("the server closed the connection"))

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._owner.writable()

    def _tell_finished(self) -> None:
        if self._finished is not None and not self.asked and not self._finished.done():
            self._finished.set_result(None)


def pack(command: tuple[Any, ...]) -> bytes:
    """Return a command as it is written; raises TypeError for a value that none can have."""
    packed: bytes = hiredis.pack_command(command)  # pyright: ignore[reportUnknownMemberType]
    return packed


def _raise_if_general(reply: Any) -> None:
    """Raise an error that does not concern one command: the server is loading, or was demoted."""
    if not isinstance(reply, RedisError):
        return
    if isinstance(reply, ReadOnlyError) or not isinstance(reply, ResponseError):
        raise reply


def resolve(reply: asyncio.Future[Any] | None, value: Any) -> None:
    """Hand over a reply, or the error that came instead, unless nobody waits."""
    if reply is None or reply.done():
        return
    if isinstance(value, Exception):
        reply.set_exception(value)
    else:
        reply.set_result(value)
