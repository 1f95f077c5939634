"""Sends events to the server, one at a time, and gives up on clients that stop reading."""

from __future__ import annotations

import asyncio
import types
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from fast_channels.type_defs import ASGISendCallable, ChannelMessage

# A server that ignores an interruption is interrupted again after this time.
INTERRUPT_AGAIN_SECONDS = 0.5


class Sender:
    """
    Sends ASGI events one at a time and gives up on clients that stop reading.

    Handlers, the heartbeat and tasks of the user's own may all send. Servers write a frame
    as a whole, but some do not survive a second `send` while the first waits for the client
    to read (uvicorn's `websockets` protocol does not).

    A send that waits for more than `timeout` seconds is interrupted. Nearly every send finds
    room in the server's buffer and never waits: it costs no clock, no timer and no task. The
    first send that waits sets the one timer of the connection. When the timer fires, it looks
    at the send that is under way at that moment.

    Cancelling a send leaves nothing behind: the next send gets its turn.
    """

    __slots__ = (
        "_busy",
        "_cancelling",
        "_ending",
        "_interrupted",
        "_loop",
        "_since",
        "_task",
        "_waiting",
        "send",
        "stuck",
        "timeout",
        "timer",
    )

    def __init__(self, send: ASGISendCallable, timeout: float | None) -> None:
        # The server's `send`, or the user's wrapper around it. Most are coroutine functions;
        # any other awaitable is awaited in a coroutine.
        self.send = cast("Callable[[ChannelMessage], Coroutine[Any, Any, None]]", send)
        self.timeout = timeout
        # True once a send took longer than the timeout.
        self.stuck = False
        # True while a send is under way; and the sends that wait for their turn, in order.
        self._busy = False
        self._waiting: list[asyncio.Future[None]] | None = None
        # The task that runs the server's `send`, the begin of the send, and the number of
        # cancellations of the task before it.
        self._task: asyncio.Task[object] | None = None
        self._since = 0.0
        self._cancelling = 0
        # True if the sender has interrupted that task.
        self._interrupted = False
        # Set while a send waits, and until it fires after the last one that did.
        self.timer: asyncio.TimerHandle | None = None
        # The loop of the first send that waited.
        self._loop: asyncio.AbstractEventLoop
        # The last event is under way, or was: no other event may follow.
        self._ending = False

    async def __call__(self, event: ChannelMessage) -> bool:
        """Send an event; False if the server took too long, or if the connection is ending."""
        pending = self.begin(event)
        return True if pending is None else await pending

    def begin(self, event: ChannelMessage) -> Awaitable[bool] | None:
        """
        Send an event as far as that is possible without waiting; None if the server took it.

        Otherwise return an awaitable, to be awaited at once, that does the rest.
        """
        if self._busy or self._ending:
            return self._in_turn(event)
        sending = self.send(event)
        if not isinstance(sending, CoroutineType):
            sending = _awaited(sending)
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return None
        self._busy = True
        return self._rest(_rest_of(sending, waits_for))

    @types.coroutine
    def _in_turn(self, event: ChannelMessage, *, last: bool = False) -> Generator[Any, Any, bool]:
        if self._busy:
            yield from self._wait_for_turn()
        if self._ending and not last:
            self._end_turn()
            return False
        self._busy = True
        return (yield from self._wait(_steps(self.send, event)))

    async def last(self, event: ChannelMessage, within: float) -> bool:
        """
        Send the last event; return False if the server does not take it in time.

        The time is `within` seconds, or half a second more. Afterwards no event is sent and no
        send waits, even if this one failed.
        """
        self._ending = True
        loop = asyncio.get_running_loop()
        again_at = None
        try:
            # The outer timeout is for servers that ignore a cancellation: uvicorn's
            # `websockets` protocol goes on waiting for the client's answer. It counts
            # from the end of the inner one, because both in one turn of a loop that was
            # blocked would be one cancellation.
            async with asyncio.timeout(None) as again, asyncio.timeout(within):
                again_at = loop.call_at(
                    loop.time() + within,
                    lambda: again.reschedule(loop.time() + INTERRUPT_AGAIN_SECONDS),
                )
                return await self._in_turn(event, last=True)
        except TimeoutError:
            return False
        finally:
            if again_at is not None:
                again_at.cancel()
            self.close()

    def close(self) -> None:
        """Interrupt the send that is under way, and send nothing more."""
        self._ending = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._interrupt()

    def _wait(self, sending: Generator[Any, Any, None]) -> Generator[Any, Any, bool]:
        """Run the server's `send` for as long as it may take."""
        self._loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task()
        self._since = self._loop.time()
        if task is not None:
            self._cancelling = task.cancelling()
        if self.timeout is not None and self.timer is None:
            self.timer = self._loop.call_at(self._since + self.timeout, self._look)
        try:
            yield from sending
        except (asyncio.CancelledError, Exception):
            # Servers may turn a cancellation into an error. A cancellation by another task must
            # not be lost.
            if task is None or not self._interrupted or task.uncancel() > self._cancelling:
                raise
            return False
        else:
            if task is not None and self._interrupted:
                # The server has swallowed the interruption.
                task.uncancel()
            return not self._interrupted
        finally:
            self._task = None
            self._interrupted = False
            self._end_turn()

    _rest = types.coroutine(_wait)

    def _look(self) -> None:
        """Called when a send that was under way when the timer was set has taken too long."""
        self.timer = None
        if self._task is None or self.timeout is None:
            return
        due = self._since + self.timeout
        if self._loop.time() < due:
            self.timer = self._loop.call_at(due, self._look)
        else:
            self.stuck = True
            self._interrupt()

    def _interrupt(self) -> None:
        if self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel()

    def _wait_for_turn(self) -> Generator[Any, Any, None]:
        """Wait until every earlier event is sent. The turn then belongs to the caller."""
        turn = self._loop.create_future()
        # Most connections never need it.
        self._waiting = self._waiting or []
        self._waiting.append(turn)
        try:
            yield from turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # The caller got the turn at the moment of the cancellation.
                self._end_turn()
            raise

    def _end_turn(self) -> None:
        """End a turn and give it to the next in line at once, so that no other send overtakes."""
        while self._waiting:
            turn = self._waiting.pop(0)
            # Sends that were cancelled while they waited are still listed.
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False


async def yield_turn() -> bool:
    """Let other tasks run instead of sending: a handler in a loop must not block the others."""
    await asyncio.sleep(0)
    return True


async def _awaited(sending: Awaitable[None]) -> None:
    await sending


def _steps(
    send: Callable[[ChannelMessage], Awaitable[None]], event: ChannelMessage
) -> Generator[Any, Any, None]:
    yield from send(event).__await__()


def _rest_of(sending: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Await the rest of a coroutine after its first step, like `await`."""
    try:
        while True:
            try:
                answer = yield waits_for
            except GeneratorExit:
                sending.close()
                raise
            except BaseException as exc:  # noqa: BLE001 - the coroutine handles it
                waits_for = sending.throw(exc)
            else:
                waits_for = sending.send(answer)
    except StopIteration:
        return
