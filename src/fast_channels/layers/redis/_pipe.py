"""A pipe: commands of many tasks over one connection to one server."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ResponseError

from fast_channels.exceptions import BrokerRefused, LayerUnavailable

from ._connection import FAREWELL, TIMEOUT, Link
from ._wire import Asked, Wire, pack, resolve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from ._scripts import Script
    from ._watch import Watch
    from .type_defs import ChannelDecodedRedisHost

# Seconds, at most, until a pipe that was lost is tried again, should nobody use it.
RETRY_PAUSE = 5.0


class Pipe:
    """
    Commands of many tasks over one connection, in the order they were given.

    What is given in one turn of the loop is written in one go, and none waits
    for the replies to others. After a loss the next command connects again, or
    fails; while there is none, a PING does, so that the watch hears of it when
    the server is back. No command is written twice.
    """

    def __init__(
        self, host: ChannelDecodedRedisHost, watch: Watch, timeout: float = TIMEOUT
    ) -> None:
        self._host = host
        # Shared by all connections to the server.
        self.watch = watch
        # Seconds until a command, and connecting for it, has failed.
        self.timeout = timeout
        # The connection; None until it is needed, and after it was lost.
        self._wire: Wire | None = None
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
        self._waiting: deque[Asked] = deque()
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
        wire.write([Asked(pack(command), None, self._deadline())])
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
            async with asyncio.timeout(FAREWELL):
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

    def lost(self, wire: Wire, exc: Exception, under_way: int) -> None:
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
        self._waiting.append(Asked(pack(command), reply, self._deadline()))
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
        link, wire = Link(self._host, self.timeout), Wire(self)
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
            await asyncio.sleep(RETRY_PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 - nothing secret depends on it
            with contextlib.suppress(LayerUnavailable):
                await self.call("PING")


async def all_of(calls: Iterable[Awaitable[int]]) -> int:
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
