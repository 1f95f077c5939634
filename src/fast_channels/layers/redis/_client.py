"""
Commands for one server: many tasks share a connection, and their commands are pipelined.

`Client` is what the brokers use. `CommandProtocol` is its side of the wire: it writes
commands and hands replies to their callers. `RedisConnection` is a single connection for a
single conversation; a reader (see _reader.py) has one, and a client begins with one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from fast_channels.exceptions import BrokerRefused, LayerUnavailable

from ._hosts import create_pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from ._scripts import Script
    from ._server import ServerState
    from .type_defs import ChannelDecodedRedisHost

# What a lost or unusable connection raises, whichever layer notices first.
# ReadOnlyError: the server was demoted in a failover; its successor is elsewhere.
CONNECTION_ERRORS = (RedisError, hiredis.HiredisError, OSError, asyncio.TimeoutError)

# Seconds to connect, and for a command to be answered, unless a layer says otherwise.
SEND_TIMEOUT_SECONDS = 5.0

# What a parser returns while a reply has not arrived as a whole.
INCOMPLETE_REPLY = object()

# Bytes to read at once; more have not been buffered by then.
READ_BYTES = 131_072

# Seconds for what is to be finished with a server when a layer closes: a process
# that is to end must not be held up by one that hangs.
CLOSE_TIMEOUT_SECONDS = 1.0

# Seconds, at most, until a pipe that was lost is tried again, should nobody use it.
RETRY_DELAY_SECONDS = 5.0


class Client:
    """
    Commands of many tasks over one connection, in the order they were given.

    What is given in one turn of the loop is written in one go, and none waits
    for the replies to others. After a loss the next command connects again, or
    fails; while there is none, a PING does, so that the watch hears of it when
    the server is back. No command is written twice.
    """

    def __init__(
        self,
        host: ChannelDecodedRedisHost,
        watch: ServerState,
        timeout: float = SEND_TIMEOUT_SECONDS,
    ) -> None:
        self._host = host
        # Shared by all connections to the server.
        self.watch = watch
        # Seconds until a command, and connecting for it, has failed.
        self.timeout = timeout
        # The connection; None until it is needed, and after it was lost.
        self._wire: CommandProtocol | None = None
        # Whether it has answered, and whether any ever did: what was never
        # there cannot be lost.
        self._well = self._worked = False
        # Connects, while that is needed.
        self._worker: asyncio.Task[None] | None = None
        # Tries again after a loss, until something has worked.
        self._retrying: asyncio.Task[None] | None = None
        # Whether it is closed for good.
        self._closed = False
        # Commands that were not written yet, and whether the loop was asked to
        # write them in its next turn.
        self._waiting: deque[Command] = deque()
        self._flushing = False
        # Looks for what has taken too long. One for all: it is set for the oldest
        # command, and nothing has to be done about it when that is answered.
        self._timer: asyncio.TimerHandle | None = None

    async def call(self, *command: Any) -> Any:
        """
        Return the reply. Raises LayerUnavailable, within the timeout.

        If this is cancelled the command may or may not have been executed.
        """
        if self._closed:
            # Who comes too late must not open a connection that nobody closes.
            raise LayerUnavailable(self, "it is closed")
        try:
            return await self._ask(command)
        except ResponseError as exc:
            raise BrokerRefused(self, exc) from exc
        except Exception as exc:
            # Whoever connects may call code of the application, such as a
            # provider of passwords, and that raises what it likes.
            raise LayerUnavailable(self, str(exc) or "no answer in time") from exc

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script, sending its text if the server has not seen it."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args)
        except BrokerRefused as exc:
            if not isinstance(exc.__cause__, NoScriptError):
                raise
            return await self.call("EVAL", script.text, len(keys), *keys, *args)

    def tell(self, *command: Any) -> bool:
        """
        Write a command now, whose reply is of no interest.

        What was given before goes before it. False, and it is not written, if
        there is no connection that takes it.
        """
        wire = self._wire
        if wire is None or wire.paused:
            return False
        self._flush()
        wire.write([Command(pack(command), None, self._deadline())])
        return True

    async def reset(self) -> None:
        """Give up the connection, and with it the commands that are under way."""
        await self._stop_connecting()
        if self._wire is not None:
            self._wire.give_up(ConnectionError("it was given up"))
        self._flush()

    async def close(self) -> None:
        """Finish what is under way, then let go for good."""
        self._stop_retrying()
        self._flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._finish()
        self._closed = True
        self._stop_retrying()
        await self._stop_connecting()
        self._fail_waiting(ConnectionError("it is closed"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    def __str__(self) -> str:
        return self.watch.name

    # -- what the wire tells --------------------------------------------------

    def heard(self) -> None:
        """It has answered; called once for whatever came together."""
        if not self._well:
            self._well = self._worked = True
            self.watch.back(self)
            self._stop_retrying()

    def writable(self) -> None:
        """It takes commands again."""
        self._flush()

    def lost(self, wire: CommandProtocol, exc: Exception, under_way: int) -> None:
        """It is gone, and so are so many commands."""
        if wire is not self._wire:
            return
        self._wire, self._well = None, False
        if under_way:
            # Otherwise nobody used it; a server may close what was idle for long.
            self._missed(exc)
        self._flush()

    # -- writing ------------------------------------------------------------

    def _ask(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(Command(pack(command), reply, self._deadline()))
        if not self._flushing:
            self._flushing = True
            # Others may have something to say in this turn.
            loop.call_soon(self._flush)
        return reply

    def _flush(self) -> None:
        """Write what waits, or see to it that it can be."""
        self._flushing = False
        # Who gave up before the command was sent has not sent it.
        asked = [one for one in self._waiting if one.reply is not None and not one.reply.done()]
        self._waiting.clear()
        if asked and self._wire is not None and not self._wire.paused:
            self._wire.write(asked)
            return
        # Without those who gave up: they may be many, and what they hold large.
        self._waiting.extend(asked)
        if asked and self._wire is None:
            self._connect()

    def _fail_waiting(self, exc: Exception) -> None:
        while self._waiting:
            resolve(self._waiting.popleft().reply, exc)

    async def _finish(self) -> None:
        """Return when everything was answered, or lost."""
        if self._worker is not None:
            await asyncio.wait([self._worker])
        if self._wire is not None:
            await self._wire.finish()

    # -- the clock ----------------------------------------------------------

    def _deadline(self) -> float:
        """Return when a command that is given now has failed, and see to it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._look_at_clock)
        return deadline

    def _look_at_clock(self) -> None:
        """Fail what has taken too long, and with it a connection that does not answer."""
        loop = asyncio.get_running_loop()
        now, self._timer = loop.time(), None
        while self._waiting and self._waiting[0].deadline <= now:
            resolve(self._waiting.popleft().reply, TimeoutError())
        wire = self._wire
        if wire is not None and wire.asked and wire.asked[0].deadline <= now:
            wire.give_up(TimeoutError())
        ahead = [queue[0].deadline for queue in (self._waiting, wire and wire.asked) if queue]
        if ahead:
            self._timer = loop.call_at(min(ahead), self._look_at_clock)

    # -- connecting -----------------------------------------------------------

    def _connect(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name=f"fast_channels {self}")

    async def _work(self) -> None:
        link, wire = RedisConnection(self._host, self.timeout), CommandProtocol(self)
        try:
            await link.open()
            link.hand_over(wire)
        except Exception as exc:  # noqa: BLE001 - whatever it is, nobody may be left waiting
            await link.close()
            self._fail_waiting(exc)
            self._missed(exc)
        except BaseException:
            await link.close()
            raise
        else:
            self._wire = wire
            self._flush()

    async def _stop_connecting(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])

    def _missed(self, exc: Exception) -> None:
        """Tell of an outage, and look for its end."""
        if self._worked:
            self.watch.lost(self, exc)
            if self._retrying is None:
                self._retrying = asyncio.create_task(
                    self._retry(), name=f"fast_channels retry {self}"
                )

    def _stop_retrying(self) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None

    async def _retry(self) -> None:
        """Ask until there is an answer, which ends this."""
        while True:
            # With jitter, so that many processes do not come back at once.
            await asyncio.sleep(RETRY_DELAY_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - nothing secret depends on it
            with contextlib.suppress(LayerUnavailable):
                await self.call("PING")


async def sum_of(calls: Iterable[Awaitable[int]]) -> int:
    """
    Return the sum of what they return, or raise what the first to fail raised.

    They begin in this order, in one turn, so that their commands travel
    together. None is under way any more when this raises.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))


class Command(NamedTuple):
    """A command as it is written, and who waits for its reply."""

    packed: bytes
    # None if nobody does.
    reply: asyncio.Future[Any] | None
    # When it has failed, by the clock of the loop.
    deadline: float


class CommandProtocol(asyncio.Protocol):
    """
    The protocol of a transport that redis-py has connected, see RedisConnection.hand_over.

    Replies reach their futures in the callback that brings them: a stream and a
    task that reads it would be two more turns of the loop for each.
    """

    def __init__(self, owner: Client) -> None:
        self._owner = owner
        # None before there is a connection, and when it was given up.
        self._transport: asyncio.WriteTransport | None = None
        # Kept: it closes its transport when it is forgotten.
        self._writer: asyncio.StreamWriter | None = None
        self._parser = new_parser()
        # Commands that were written, in the order of their replies.
        self.asked: deque[Command] = deque()
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

    def write(self, asked: Sequence[Command]) -> None:
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
        await asyncio.wait([self._gone], timeout=CLOSE_TIMEOUT_SECONDS)
        self.give_up(ConnectionError("it is closed"))

    # -- asyncio.Protocol ---------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
            while self._transport and (reply := self._parser.gets()) is not INCOMPLETE_REPLY:
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


class RedisConnection:
    """
    One connection for one conversation. After the first error it is closed for good.

    redis-py would connect again by itself, and nobody would learn that what
    came between is missing.
    """

    def __init__(
        self, host: ChannelDecodedRedisHost, timeout: float = SEND_TIMEOUT_SECONDS
    ) -> None:
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
            if not (data := await reader.read(READ_BYTES)):
                raise ConnectionError("the server closed the connection")
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not INCOMPLETE_REPLY:
                replies.append(reply)
        return replies

    async def call(self, *command: Any) -> Any:
        """Send a command and return its reply, however long it takes."""
        await self.send(command)
        return await self.read()

    def hand_over(self, wire: CommandProtocol) -> None:
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
        notEnoughData=INCOMPLETE_REPLY,
    )
