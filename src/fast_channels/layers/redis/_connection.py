"""A link: one connection to one server, for one conversation."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import RedisError

from ._hosts import create_pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._wire import Wire
    from .type_defs import ChannelDecodedRedisHost

# What a lost or unusable connection raises, whichever layer notices first.
# ReadOnlyError: the server was demoted in a failover; its successor is elsewhere.
CONNECTION_ERRORS = (RedisError, hiredis.HiredisError, OSError, asyncio.TimeoutError)

# Seconds to connect, and for a command to be answered, unless a layer says otherwise.
TIMEOUT = 5.0

# What a parser returns while a reply has not arrived as a whole.
INCOMPLETE = object()

# Bytes to read at once; more have not been buffered by then.
CHUNK = 131_072

# Seconds for what is to be finished with a server when a layer closes: a process
# that is to end must not be held up by one that hangs.
FAREWELL = 1.0


class Link:
    """
    One connection for one conversation. After the first error it is closed for good.

    redis-py would connect again by itself, and nobody would learn that what
    came between is missing.
    """

    def __init__(self, host: ChannelDecodedRedisHost, timeout: float = TIMEOUT) -> None:
        pool = create_pool(host)
        pool.connection_kwargs.update(
            decode_responses=False,
            # Push messages of RESP 3 would mix with replies.
            protocol=2,
            # Reading may take for ever; who expects an answer sets a timeout.
            socket_timeout=None,
        )
        # Kept: a Sentinel's connection holds its pool weakly.
        self._pool = pool
        # Some versions of redis-py have no types here.
        self._connection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._timeout = timeout
        # Of read_all.
        self._parser = new_parser()

    async def open(self) -> None:
        async with asyncio.timeout(self._timeout):
            await self._connection.connect()

    async def send(self, *commands: Sequence[Any]) -> None:
        """Write commands in one go; each will be answered."""
        if not self._connection.is_connected:
            # redis-py would connect anew here.
            raise ConnectionError("the connection is closed")
        packed = self._connection.pack_commands(commands)
        await self._connection.send_packed_command(packed, check_health=False)

    def write(self, commands: Iterable[Sequence[Any]]) -> None:
        """Do the same without waiting for the server to read: for what is short and rare."""
        # redis-py has no public way to write without waiting.
        writer = self._connection._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        # uvloop raises a RuntimeError for a transport that is closing, asyncio says nothing.
        if writer is None or writer.is_closing():
            raise ConnectionError("the connection is closed")
        writer.write(b"".join([hiredis.pack_command(tuple(command)) for command in commands]))  # pyright: ignore[reportUnknownMemberType]

    async def read(self) -> Any:
        """Return the next reply. Raises ResponseError for a reply that is an error."""
        return cast("Any", await self._connection.read_response())

    async def read_all(self) -> list[Any]:
        """
        Wait for replies and return all that have arrived, errors among them.

        Not for a conversation that also uses `read`.
        """
        # redis-py has no public way to read more than one.
        reader = cast("asyncio.StreamReader", self._connection._reader)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        replies: list[Any] = []
        while not replies:
            if not (data := await reader.read(CHUNK)):
                raise ConnectionError("the server closed the connection")
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not INCOMPLETE:
                replies.append(reply)
        return replies

    async def call(self, *command: Any) -> Any:
        """Send a command and return its reply, however long it takes."""
        await self.send(command)
        return await self.read()

    def hand_over(self, wire: Wire) -> None:
        """Let `wire` read and write from now on; this link has had its purpose."""
        connection = self._connection
        # redis-py has no public way to part with them, and would close them with itself.
        reader = cast("asyncio.StreamReader", connection._reader)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        writer = cast("asyncio.StreamWriter", connection._writer)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if reader.at_eof() or writer.is_closing():
            # That was told already, and a wire would never hear of it.
            raise ConnectionError("the server closed the connection")
        connection._reader = connection._writer = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        wire.attach(writer)

    async def close(self) -> None:
        with contextlib.suppress(*CONNECTION_ERRORS):
            await self._connection.disconnect()


def new_parser() -> hiredis.Reader:
    """Return a parser that makes of an error reply what redis-py raises for it."""
    return hiredis.Reader(
        replyError=DefaultParser.parse_error,  # pyright: ignore[reportUnknownMemberType]
        notEnoughData=INCOMPLETE,
    )
