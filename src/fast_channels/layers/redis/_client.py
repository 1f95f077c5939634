"""
Commands for one server: many tasks share a connection, and their commands are pipelined.

Brokers use `Client`, and `CommandProtocol` is its end of the connection.
`RedisConnection` opens connections by way of redis-py: for clients, and for readers
(see _reader.py), which keep it for a conversation of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from fast_channels.exceptions import BrokerRefused, LayerUnavailable

from ._hosts import create_pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Sequence

    from ._scripts import Script
    from ._server import ServerState
    from .type_defs import ChannelDecodedRedisHost

T = TypeVar("T")

# Errors of a lost or unusable connection, whichever library notices first.
# ReadOnlyError: the server was demoted in a failover; its successor is elsewhere.
CONNECTION_ERRORS = (RedisError, hiredis.HiredisError, OSError, asyncio.TimeoutError)

# How long connecting and each command may take, unless a layer has another `send_timeout`.
SEND_TIMEOUT_SECONDS = 5.0

# How long a closing layer waits for a server. A process that is to end must not be
# held up by a server that hangs.
CLOSE_TIMEOUT_SECONDS = 1.0

# How long a lost and unused client waits before it tries the server again, at most.
RETRY_DELAY_SECONDS = 5.0

# The parser returns this while a reply has not arrived completely.
INCOMPLETE_REPLY = object()

# Larger than the buffer of asyncio.StreamReader, so that one read empties it.
MAX_READ_BYTES = 131_072


class Client:
    """
    Sends commands of many tasks over one connection, in the order of the calls.

    All commands of one loop iteration are written together, and no command waits for the
    reply to another. After a connection is lost, the next command connects again or
    fails. Meanwhile the client sends a PING from time to time, so that `state` also
    recovers if nothing else is sent. No command is ever written twice.
    """

    def __init__(
        self,
        host: ChannelDecodedRedisHost,
        state: ServerState,
        timeout: float = SEND_TIMEOUT_SECONDS,
    ) -> None:
        self._host = host
        self.state = state
        """The state of the server, shared by all connections to it."""
        self.timeout = timeout
        """How long connecting and each command may take, in seconds."""
        # The connection; None until a command needs it, and after it was lost.
        self._protocol: CommandProtocol | None = None
        # True once the present connection has answered, and once any connection ever
        # did: a server that was never reached is not an outage.
        self._answered = self._ever_answered = False
        # Opens the connection.
        self._connecting: asyncio.Task[None] | None = None
        # Sends PING after a loss, until the server answers.
        self._retrying: asyncio.Task[None] | None = None
        self._closed = False
        # Commands that were not written yet.
        self._waiting: deque[Command] = deque()
        # True if the loop will call _flush in its next iteration.
        self._flush_scheduled = False
        # One timer for all commands, set for the deadline of the oldest. An answered
        # command leaves the timer alone.
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_connected(self) -> bool:
        return self._protocol is not None

    async def call(self, *command: Any) -> Any:
        """
        Send a command and return its reply. Raises LayerUnavailable within the timeout.

        If this is cancelled, the command may or may not have been executed.
        """
        if self._closed:
            # A late call must not open a connection that nothing closes.
            raise LayerUnavailable(self, "it is closed")
        try:
            return await self._enqueue(command)
        except ResponseError as exc:
            raise BrokerRefused(self, exc) from exc
        except Exception as exc:
            # Connecting may run code of the application, such as a credential
            # provider, which can raise anything.
            raise LayerUnavailable(self, str(exc) or "no answer in time") from exc

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script. Its text is sent only if the server does not know it."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args)
        except BrokerRefused as exc:
            if not isinstance(exc.__cause__, NoScriptError):
                raise
            return await self.call("EVAL", script.text, len(keys), *keys, *args)

    def write(self, *command: Any) -> bool:
        """
        Write a command at once, after all earlier ones, and ignore its reply.

        Return False, and write nothing, if no connection can take it now.
        """
        protocol = self._protocol
        if protocol is None or protocol.paused:
            return False
        self._flush()
        protocol.write([Command(pack(command), None, self._deadline())])
        return True

    async def reset(self) -> None:
        """Drop the connection. All commands that wait for a reply fail."""
        await self._stop_connecting()
        if self._protocol is not None:
            self._protocol.abort(ConnectionError("it was given up"))
        self._flush()

    async def close(self) -> None:
        """Wait shortly for the replies to earlier commands, then close for good."""
        self._stop_retrying()
        self._flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._drain()
        self._closed = True
        self._stop_retrying()
        await self._stop_connecting()
        self._fail_waiting(ConnectionError("it is closed"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            await protocol.close()

    def __str__(self) -> str:
        return self.state.name

    # -- called by the protocol -----------------------------------------------

    def replies_received(self) -> None:
        """Note that the server answers. Called once for all replies that arrive together."""
        if not self._answered:
            self._answered = self._ever_answered = True
            self.state.connected(self)
            self._stop_retrying()

    def writable(self) -> None:
        """Write the waiting commands: the connection takes data again."""
        self._flush()

    def lost(self, protocol: CommandProtocol, exc: Exception, unanswered: int) -> None:
        """Note that the connection is lost, with the number of commands that were unanswered."""
        if protocol is not self._protocol:
            return
        self._protocol, self._answered = None, False
        if unanswered:
            # An unused connection is different: servers close connections that were idle for long.
            self._report_outage(exc)
        self._flush()

    # -- writing ----------------------------------------------------------------

    def _enqueue(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(Command(pack(command), reply, self._deadline()))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            # In the next iteration, so that commands of other tasks go along.
            loop.call_soon(self._flush)
        return reply

    def _flush(self) -> None:
        """Write the waiting commands, or connect so that they can be written."""
        self._flush_scheduled = False
        # Skip commands that were cancelled before they were written.
        commands = [c for c in self._waiting if c.reply is not None and not c.reply.done()]
        self._waiting.clear()
        if commands and self._protocol is not None and not self._protocol.paused:
            self._protocol.write(commands)
            return
        # Without the cancelled ones, which may be many and large.
        self._waiting.extend(commands)
        if commands and self._protocol is None:
            self._connect()

    def _fail_waiting(self, exc: Exception) -> None:
        while self._waiting:
            resolve(self._waiting.popleft().reply, exc)

    async def _drain(self) -> None:
        """Return when every command was answered, or has failed."""
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        if self._protocol is not None:
            await self._protocol.drain()

    # -- deadlines --------------------------------------------------------------

    def _deadline(self) -> float:
        """Return the deadline of a command that is sent now, and set the timer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._check_deadlines)
        return deadline

    def _check_deadlines(self) -> None:
        """Fail late commands. A connection with a late reply is dropped."""
        loop = asyncio.get_running_loop()
        now, self._timer = loop.time(), None
        while self._waiting and self._waiting[0].deadline <= now:
            resolve(self._waiting.popleft().reply, TimeoutError())
        protocol = self._protocol
        if protocol is not None and protocol.unanswered and protocol.unanswered[0].deadline <= now:
            protocol.abort(TimeoutError())
        queues = (self._waiting, protocol and protocol.unanswered)
        deadlines = [queue[0].deadline for queue in queues if queue]
        if deadlines:
            self._timer = loop.call_at(min(deadlines), self._check_deadlines)

    # -- connecting -------------------------------------------------------------

    def _connect(self) -> None:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(
                self._open_connection(), name=f"fast_channels {self}"
            )

    async def _open_connection(self) -> None:
        connection, protocol = RedisConnection(self._host, self.timeout), CommandProtocol(self)
        try:
            await connection.open()
            connection.hand_over(protocol)
        except Exception as exc:  # noqa: BLE001 - any error must reach the callers
            await connection.close()
            self._fail_waiting(exc)
            self._report_outage(exc)
        except BaseException:
            await connection.close()
            raise
        else:
            self._protocol = protocol
            self._flush()

    async def _stop_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])

    def _report_outage(self, exc: Exception) -> None:
        """Report an outage and begin to look for its end."""
        if self._ever_answered:
            self.state.lost(self, exc)
            if self._retrying is None:
                self._retrying = asyncio.create_task(
                    self._retry(), name=f"fast_channels retry {self}"
                )

    def _stop_retrying(self) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None

    async def _retry(self) -> None:
        """Send PING until the first answer, which cancels this task."""
        while True:
            # With jitter, so that many processes do not come back at the same time.
            await asyncio.sleep(RETRY_DELAY_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - not for security
            with contextlib.suppress(LayerUnavailable):
                await self.call("PING")


class Command(NamedTuple):
    """A command in its wire format, and the future of its reply."""

    packed: bytes
    reply: asyncio.Future[Any] | None
    """None if no caller waits for the reply."""
    deadline: float
    """The loop time at which the command has failed."""


class CommandProtocol(asyncio.Protocol):
    """
    Writes commands and hands replies to their callers.

    It takes over the transport of a connection that redis-py has opened, see
    RedisConnection.hand_over. Replies reach their futures in the callback that brings
    the data; a stream with a reading task would cost two more loop iterations each.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        # None before attach(), and after the connection was dropped.
        self._transport: asyncio.WriteTransport | None = None
        # Kept, because a StreamWriter closes its transport when it is collected.
        self._writer: asyncio.StreamWriter | None = None
        self._parser = new_parser()
        self.unanswered: deque[Command] = deque()
        """Commands that were written, in the order in which their replies come."""
        self.paused = False
        """True while the transport has buffered as much as it should."""
        # Done when the transport has released its socket.
        self._released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Done when every command was answered; exists if drain() waits for that.
        self._drained: asyncio.Future[None] | None = None

    def attach(self, writer: asyncio.StreamWriter) -> None:
        """Take over an open connection. asyncio does not call connection_made again."""
        self._writer, self._transport = writer, writer.transport
        self._transport.set_protocol(self)

    def write(self, commands: Sequence[Command]) -> None:
        """Write commands together. Each gets a reply, or fails with the connection."""
        self.unanswered.extend(commands)
        if self._transport is not None:
            self._transport.write(b"".join([command.packed for command in commands]))

    async def drain(self) -> None:
        """Return when every command was answered, or has failed."""
        if self.unanswered:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def abort(self, exc: Exception) -> None:
        """Drop the connection. Every unanswered command fails with `exc`."""
        if self._transport is None:
            return
        self._transport.abort()
        self._transport = None
        commands, self.unanswered = self.unanswered, deque()
        for command in commands:
            resolve(command.reply, exc)
        self._tell_drained()
        self._client.lost(self, exc, len(commands))

    async def close(self) -> None:
        """Close the connection. Unanswered commands fail."""
        transport = self._transport
        if transport is None:
            return
        transport.close()
        # Both sides have to end an encrypted connection.
        await asyncio.wait([self._released], timeout=CLOSE_TIMEOUT_SECONDS)
        self.abort(ConnectionError("it is closed"))

    # -- asyncio.Protocol -------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
            while self._transport and (reply := self._parser.gets()) is not INCOMPLETE_REPLY:
                _raise_if_fatal(reply)
                resolve(self.unanswered.popleft().reply, reply)
        except (RedisError, hiredis.HiredisError, IndexError) as exc:
            # IndexError: a reply without a command.
            self.abort(exc)
        else:
            self._client.replies_received()
            self._tell_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._released.done():
            self._released.set_result(None)
        self.abort(exc or ConnectionError("the server closed the connection"))

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._client.writable()

    def _tell_drained(self) -> None:
        if self._drained is not None and not self.unanswered and not self._drained.done():
            self._drained.set_result(None)


class RedisConnection:
    """
    A connection for a single conversation. After the first error it stays closed.

    redis-py alone would reconnect silently, and messages that were published in between
    would be missing without notice.
    """

    def __init__(
        self, host: ChannelDecodedRedisHost, timeout: float = SEND_TIMEOUT_SECONDS
    ) -> None:
        pool = create_pool(host)
        pool.connection_kwargs.update(
            decode_responses=False,
            # Push messages of RESP 3 would mix with replies.
            protocol=2,
            # A read may wait forever; callers that expect a reply set a timeout.
            socket_timeout=None,
        )
        # Kept, because a Sentinel's connection references its pool weakly.
        self._pool = pool
        # Some versions of redis-py have no types here.
        self._connection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._timeout = timeout
        # For read_available.
        self._parser = new_parser()

    async def open(self) -> None:
        async with asyncio.timeout(self._timeout):
            await self._connection.connect()

    async def send(self, *commands: Sequence[Any]) -> None:
        """Write commands together; each will be answered."""
        if not self._connection.is_connected:
            # redis-py would reconnect here.
            raise ConnectionError("the connection is closed")
        packed = self._connection.pack_commands(commands)
        await self._connection.send_packed_command(packed, check_health=False)

    def write(self, commands: Iterable[Sequence[Any]]) -> None:
        """Like `send`, but do not wait until the server reads: for short, rare commands."""
        # redis-py has no public way to write without waiting.
        writer = self._connection._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        # For a closing transport uvloop raises RuntimeError, and asyncio says nothing.
        if writer is None or writer.is_closing():
            raise ConnectionError("the connection is closed")
        writer.write(b"".join([pack(tuple(command)) for command in commands]))

    async def read(self) -> Any:
        """Return the next reply. Raises ResponseError if the reply is an error."""
        return cast("Any", await self._connection.read_response())

    async def read_available(self) -> list[Any]:
        """
        Wait for replies and return all that have arrived, errors included.

        A conversation that uses this must not use `read`.
        """
        # redis-py has no public way to read more than one.
        reader = cast("asyncio.StreamReader", self._connection._reader)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        replies: list[Any] = []
        while not replies:
            if not (data := await reader.read(MAX_READ_BYTES)):
                raise ConnectionError("the server closed the connection")
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not INCOMPLETE_REPLY:
                replies.append(reply)
        return replies

    async def call(self, *command: Any) -> Any:
        """Send a command and return its reply, without a timeout."""
        await self.send(command)
        return await self.read()

    def hand_over(self, protocol: CommandProtocol) -> None:
        """Give the open connection to `protocol`; this object is finished with it."""
        connection = self._connection
        # redis-py has no public way to release them, and would close them with itself.
        reader = cast("asyncio.StreamReader", connection._reader)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        writer = cast("asyncio.StreamWriter", connection._writer)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if reader.at_eof() or writer.is_closing():
            # asyncio has told the old protocol already, and would not tell the new one.
            raise ConnectionError("the server closed the connection")
        connection._reader = connection._writer = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        protocol.attach(writer)

    async def close(self) -> None:
        with contextlib.suppress(*CONNECTION_ERRORS):
            await self._connection.disconnect()


def new_parser() -> hiredis.Reader:
    """Return a parser that turns error replies into the exceptions of redis-py."""
    return hiredis.Reader(
        replyError=DefaultParser.parse_error,  # pyright: ignore[reportUnknownMemberType]
        notEnoughData=INCOMPLETE_REPLY,
    )


def pack(command: tuple[Any, ...]) -> bytes:
    """Return the wire format of a command. Raises TypeError for an unusable value."""
    packed: bytes = hiredis.pack_command(command)  # pyright: ignore[reportUnknownMemberType]
    return packed


def _raise_if_fatal(reply: Any) -> None:
    """Raise an error that concerns the whole connection: the server is loading, or was demoted."""
    if not isinstance(reply, RedisError):
        return
    if isinstance(reply, ReadOnlyError) or not isinstance(reply, ResponseError):
        raise reply


def resolve(reply: asyncio.Future[Any] | None, value: Any) -> None:
    """Set the result of a reply, or its error, unless the caller has gone."""
    if reply is None or reply.done():
        return
    if isinstance(value, Exception):
        reply.set_exception(value)
    else:
        reply.set_result(value)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the present items in lists of `size`."""
    remaining = iter(list(items))
    while batch := list(itertools.islice(remaining, size)):
        yield batch


async def sum_of(calls: Iterable[Awaitable[int]]) -> int:
    """
    Run calls at the same time and return the sum, or raise the first error.

    The calls begin in this order within one loop iteration, so their commands are
    written together. When this raises, every call has ended.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))
