"""The way out: one event at a time, and an end to waiting for who does not read."""

from __future__ import annotations

import asyncio
import types
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from fast_channels.type_defs import ASGISendCallable, ChannelMessage

# Seconds after which a server that has been interrupted is interrupted again.
INSISTENCE = 0.5


class Sender:
    """
    Hands events to the server's `send`, one after the other.

    Handlers, the heartbeat and tasks of the user's own may all send. Servers
    write a frame as a whole, but not every one survives a second `send` while
    the first waits for the client to read (uvicorn's `websockets` does not).

    A send that waits for more than `timeout` seconds is interrupted. Nearly all
    never wait, since there is room in the server's buffer: those cost no clock,
    no timer and no task. The first that waits sets the one timer of the
    connection, which looks, when it fires, at the send that is under way then.

    Cancelling a send leaves nothing behind: the next one gets its turn.
    """

    __slots__ = (
        "_busy",
        "_cancelling",
        "_interrupted",
        "_last",
        "_loop",
        "_send",
        "_since",
        "_task",
        "_timeout",
        "_timer",
        "_turns",
        "stuck",
    )

    def __init__(self, send: ASGISendCallable, timeout: float | None) -> None:
        # True once a send took longer than the timeout.
        self.stuck = False
        # Usually a coroutine function; what else it may return is awaited in one.
        self._send = cast("Callable[[ChannelMessage], Coroutine[Any, Any, None]]", send)
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        # Whether it is somebody's turn; those who wait for theirs, in order.
        self._busy = False
        self._turns: list[asyncio.Future[None]] | None = None
        # Who is in the server's `send`, since when, and how often that task had
        # been cancelled before.
        self._task: asyncio.Task[object] | None = None
        self._since = 0.0
        self._cancelling = 0
        # Whether we have interrupted that task.
        self._interrupted = False
        self._timer: asyncio.TimerHandle | None = None
        # The last event is on its way, or was: nothing else may follow.
        self._last = False

    async def __call__(self, event: ChannelMessage) -> bool:
        """Whether the server took the event: not if it took too long, nor if the end has begun."""
        pending = self.begin(event)
        return True if pending is None else await pending

    def begin(self, event: ChannelMessage) -> Awaitable[bool] | None:
        """
        Send an event as far as that goes without waiting: None if the server took it.

        Otherwise returns what is to be awaited, at once, for the answer.
        """
        if self._busy or self._last:
            return self._in_turn(event)
        sending = self._send(event)
        if not isinstance(sending, CoroutineType):
            sending = _awaited(sending)
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return None
        self._busy = True
        return self._rest(resumed(sending, waits_for))

    @types.coroutine
    def _in_turn(self, event: ChannelMessage, *, last: bool = False) -> Generator[Any, Any, bool]:
        if self._busy:
            yield from self._turn()
        if self._last and not last:
            self._next()
            return False
        self._busy = True
        return (yield from self._wait(_steps(self._send, event)))

    async def last(self, event: ChannelMessage, within: float) -> bool:
        """
        Send an event that nothing follows; False if it is not taken in `within` seconds,
        or half a second more.

        Afterwards nobody sends or waits here any more, whatever became of it.
        """
        self._last = True
        insist = None
        try:
            # The outer one is for servers that keep a cancellation to themselves:
            # uvicorn's `websockets` goes on waiting for the client's answer. It
            # counts from the inner one: both in one turn, after the loop has stood
            # still, would be one cancellation.
            async with asyncio.timeout(None) as again, asyncio.timeout(within):
                insist = self._loop.call_at(
                    self._loop.time() + within,
                    lambda: again.reschedule(self._loop.time() + INSISTENCE),
                )
                return await self._in_turn(event, last=True)
        except TimeoutError:
            return False
        finally:
            if insist is not None:
                insist.cancel()
            self.close()

    def close(self) -> None:
        """Let nobody send, or wait to send, any longer."""
        self._last = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._interrupt()

    def _wait(self, sending: Generator[Any, Any, None]) -> Generator[Any, Any, bool]:
        """Take the steps of the server's `send`, as long as they may take."""
        self._task = task = asyncio.current_task()
        self._since = self._loop.time()
        if task is not None:
            self._cancelling = task.cancelling()
        if self._timeout is not None and self._timer is None:
            self._timer = self._loop.call_at(self._since + self._timeout, self._look)
        try:
            yield from sending
        except (asyncio.CancelledError, Exception):
            # Servers may make an error of a cancellation. If somebody else cancelled
            # the task as well, that must not be lost.
            if task is None or not self._interrupted or task.uncancel() > self._cancelling:
                raise
            return False
        else:
            if task is not None and self._interrupted:
                # The server kept our cancellation to itself.
                task.uncancel()
            return not self._interrupted
        finally:
            self._task = None
            self._interrupted = False
            self._next()

    _rest = types.coroutine(_wait)

    def _look(self) -> None:
        """A send that was under way when the timer was set would have taken too long by now."""
        self._timer = None
        if self._task is None or self._timeout is None:
            return
        due = self._since + self._timeout
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
        else:
            self.stuck = True
            self._interrupt()

    def _interrupt(self) -> None:
        if self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel()

    def _turn(self) -> Generator[Any, Any, None]:
        """Wait until what came before is sent. It is then the caller's turn, and nobody else's."""
        turn = self._loop.create_future()
        # Most connections never need it.
        self._turns = self._turns or []
        self._turns.append(turn)
        try:
            yield from turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It became ours at the very moment of the cancellation.
                self._next()
            raise

    def _next(self) -> None:
        """End a turn: the next one is given away at once, so that nobody comes between."""
        while self._turns:
            turn = self._turns.pop(0)
            # Those who were cancelled while they waited are still listed.
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False


async def a_turn() -> bool:
    """Send nothing; so that a handler that never looks does not hold up the loop."""
    await asyncio.sleep(0)
    return True


async def _awaited(sending: Awaitable[None]) -> None:
    await sending


def _steps(send: ASGISendCallable, event: ChannelMessage) -> Generator[Any, Any, None]:
    yield from send(event).__await__()


def resumed(
    sending: Coroutine[Any, Any, None],
    waits_for: Any,
    interruption: BaseException | None = None,
) -> Generator[Any, Any, None]:
    """
    Do what `await` does, for a coroutine whose first step has been taken.

    It is interrupted as a task is: what it waits for is cancelled, if that is
    possible, and tells it. Otherwise a task that it waits for would never hear.
    """
    if interruption is not None and waits_for is not None and waits_for.cancel(*interruption.args):
        interruption = None
    try:
        while True:
            try:
                if interruption is not None:
                    raise interruption  # noqa: TRY301 - as if it came while we wait
                answer = yield waits_for
            except GeneratorExit:
                sending.close()
                raise
            except BaseException as exc:  # noqa: BLE001 - the coroutine decides what to make of it
                interruption = None
                waits_for = sending.throw(exc)
            else:
                waits_for = sending.send(answer)
    except StopIteration:
        return
