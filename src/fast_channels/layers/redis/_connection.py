"""Connections to one server: a link for one conversation, a pipe for commands from many tasks."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from fast_channels.exceptions import BrokerRefused, LayerUnavailable

from ._hosts import create_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._scripts import Script
    from ._watch import Watch
    from .type_defs import ChannelDecodedRedisHost

# What a lost or unusable connection raises, whichever layer notices first.
# ReadOnlyError: the server was demoted in a failover; its successor is elsewhere.
CONNECTION_ERRORS = (RedisError, OSError, asyncio.TimeoutError)

# Seconds to connect, and for a command to be answered, unless a layer says otherwise.
TIMEOUT = 5.0

# Seconds for what is to be finished with a server when a layer closes: a process
# that is to end must not be held up by one that hangs.
FAREWELL = 1.0

# Seconds, at most, until a pipe that was lost is tried again, should nobody use it.
RETRY_PAUSE = 5.0


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

    async def read(self) -> Any:
        """Return the next reply. Raises ResponseError for a reply that is an error."""
        return cast("Any", await self._connection.read_response())

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection, as far as can be seen without waiting."""
        # redis-py has no public way to ask.
        reader = self._connection._reader  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        # An end that came as an error, such as a reset, is not the end of a file.
        return reader is None or bool(reader.at_eof()) or reader.exception() is not None

    async def call(self, *command: Any) -> Any:
        """Send a command and return its reply, however long it takes."""
        await self.send(command)
        return await self.read()

    async def close(self) -> None:
        with contextlib.suppress(*CONNECTION_ERRORS):
            await self._connection.disconnect()


class Pipe:
    """
    Commands of many tasks over one connection, in the order they were given.

    What is given while a batch is under way becomes the next batch. After a
    loss the next command connects again, or fails; while there is none, a PING
    does, so that the watch hears of it when the server is back.
    """

    def __init__(
        self, host: ChannelDecodedRedisHost, watch: Watch, timeout: float = TIMEOUT
    ) -> None:
        self._host = host
        # Shared by all connections to the server.
        self.watch = watch
        # Seconds until a command, and connecting for it, has failed.
        self.timeout = timeout
        self._link: Link | None = None
        # Whether it ever worked: what was never there cannot be lost.
        self._worked = False
        # Tries again after a loss, until something has worked.
        self._retrying: asyncio.Task[None] | None = None
        # Whether it is closed for good.
        self._closed = False
        # Commands that no batch has taken yet, each with whoever waits for it.
        self._waiting: list[tuple[Sequence[Any], asyncio.Future[Any]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def call(self, *command: Any) -> Any:
        """
        Return the reply. Raises LayerUnavailable, within the timeout.

        If this is cancelled the command may or may not have been executed.
        """
        if self._closed:
            # Who comes too late must not open a connection that nobody closes.
            raise LayerUnavailable(self, "it is closed")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        self._work_on()
        try:
            async with asyncio.timeout(self.timeout):
                return await reply
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

    async def reset(self) -> None:
        """Give up the connection, and with it the commands that are under way."""
        if self._worker is not None and not self._worker.done():
            self._worker.cancel()
            await asyncio.wait([self._worker])
        await self._drop()
        if self._waiting:
            self._work_on()

    async def close(self) -> None:
        """Finish the batch that is under way, then let go for good."""
        self._stop_retrying()
        if self._worker is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                async with asyncio.timeout(FAREWELL):
                    await asyncio.wait([self._worker])
            self._worker.cancel()
            await asyncio.wait([self._worker])
        self._closed = True
        for _, reply in self._waiting:
            _resolve(reply, ConnectionError("it is closed"))
        await self._drop()

    def __str__(self) -> str:
        return self.watch.name

    def _work_on(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name=f"fast_channels {self}")

    async def _work(self) -> None:
        """Send batches until nothing waits."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                # Who gave up before the command was sent has not sent it.
                batch = [(command, reply) for command, reply in batch if not reply.done()]
                await self._send(batch)
        except asyncio.CancelledError:
            await self._drop()
            raise

    async def _send(self, batch: list[tuple[Sequence[Any], asyncio.Future[Any]]]) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                link = await self._connected()
                await link.send(*(command for command, _ in batch))
                for _, reply in batch:
                    _resolve(reply, await _answer(link))
        except BaseException as exc:
            # Whatever it is, nobody may be left waiting for this batch.
            reason = exc if isinstance(exc, Exception) else ConnectionError("it was given up")
            for _, reply in batch:
                _resolve(reply, reason)
            await self._drop()
            if not isinstance(exc, Exception):
                raise
            if self._worked:
                self.watch.lost(self, exc)
                self._retry_later()
        else:
            self._worked = True
            self.watch.back(self)
            self._stop_retrying()

    def _retry_later(self) -> None:
        if self._retrying is None:
            self._retrying = asyncio.create_task(self._retry(), name=f"fast_channels retry {self}")

    def _stop_retrying(self) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None

    async def _retry(self) -> None:
        """Ask until there is an answer, which ends this."""
        while True:
            # With jitter, so that many processes do not come back at once.
            await asyncio.sleep(RETRY_PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 - nothing secret depends on it
            with contextlib.suppress(LayerUnavailable):
                await self.call("PING")

    async def _connected(self) -> Link:
        if self._link is not None and self._link.closed:
            # Lost while nobody used it; no command was lost with it.
            await self._drop()
        if self._link is None:
            link = Link(self._host, self.timeout)
            try:
                await link.open()
            except BaseException:
                await link.close()
                raise
            self._link = link
        return self._link

    async def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()


async def _answer(link: Link) -> Any:
    """Return a reply, errors that concern one command included."""
    try:
        return await link.read()
    except ReadOnlyError:
        raise
    except ResponseError as exc:
        return exc


def _resolve(reply: asyncio.Future[Any], value: Any) -> None:
    if reply.done():
        return
    if isinstance(value, Exception):
        reply.set_exception(value)
    else:
        reply.set_result(value)
