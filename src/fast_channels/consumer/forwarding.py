"""
The fast lane: what a delivery does itself for a consumer that is idle.

To wake a connection costs more than most handlers do. So the delivery takes the
first step of a handler, in the name of the connection; that is all there is if
the client reads. What is left the connection is woken for.

A handler that only sends what it got costs a copy of the message and an encoded
frame, too. Types listed in `forwards` go to the client as they are: one frame
for all members of a group in a process.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import ConsumerStateError
from fast_channels.layers.mailbox import Prepared

from .handlers import get_handler_name
from .sending import resumed

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable, Container, Coroutine, Sequence

    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.type_defs import ChannelMessage

    from .connection import WebsocketConnection


# For who runs something as a task that is not running, and documented as such:
# https://docs.python.org/3/library/asyncio-extending.html
enter_task = asyncio.tasks._enter_task  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
leave_task = asyncio.tasks._leave_task  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

awaitable = types.coroutine(resumed)


class Unfinished(Prepared):
    """
    A message or event of which the first step is taken.

    The client reads too slowly for the rest, or a handler waits for something else.
    """

    def __init__(
        self, event: ChannelMessage, sending: Coroutine[Any, Any, None], waits_for: Any
    ) -> None:
        super().__init__(event)
        self._sending = sending
        self._waits_for = waits_for
        # What the connection was interrupted with before it came to the rest.
        self.interruption: BaseException | None = None

    def rest(self) -> Awaitable[None]:
        return awaitable(self._sending, self._waits_for, self.interruption)


class FastLane:
    """
    Forwards messages to one client, or begins to handle them; see layers.mailbox.Lane.

    For a connection that is open: made when it is accepted, and gone before it closes.
    """

    __slots__ = (
        "_begin",
        "_begun",
        "_context",
        "_finish",
        "_loop",
        "_route",
        "_task",
        "key",
        "mailbox",
        "routes",
        "types",
    )

    def __init__(
        self,
        consumer: type[WebsocketConnection],
        task: asyncio.Task[None],
        context: contextvars.Context,
        mailbox: Mailbox,
        begin: Callable[[ChannelMessage], Awaitable[bool] | None],
        finish: Callable[[Awaitable[bool], ChannelMessage], Coroutine[Any, Any, None]],
        routes: Container[str],
        route: Callable[[ChannelMessage], Callable[[ChannelMessage], Awaitable[None]] | None],
    ) -> None:
        # Consumers of one class make the same frame of a message.
        self.key = consumer
        self.types = frozenset(consumer.forwards)
        # Sends an event as far as that goes without waiting; returns what is left of
        # it, which `finish` does.
        self._begin = begin
        self._finish = finish
        # Types that have reached a handler before, and how to find that.
        self.routes = routes
        self._route = route
        # What is left of the last event. No frame can be sent before it is.
        self._begun: Unfinished | None = None
        self.mailbox = mailbox
        # Of the connection: whatever the server's `send` is wrapped in may use them.
        self._task = task
        self._context = context
        self._loop = asyncio.get_running_loop()
        mailbox.lane = self
        # Whoever accepts may be another task, and the reader wait without a lane.
        mailbox.wake()

    def prepare(self, message: ChannelMessage) -> Prepared | None:
        try:
            return prepared(self.key, message)
        except Exception:  # noqa: BLE001 - the consumer says what is wrong with it, in its turn
            return None

    def forward(self, event: Prepared, lanes: Sequence[FastLane]) -> None:
        loop = self._loop
        current = asyncio.current_task(loop)
        if current is not None:
            leave_task(loop, current)
        try:
            for lane in lanes:
                lane.send(event, current)
        finally:
            if current is not None:
                enter_task(loop, current)

    def send(self, event: Prepared, current: asyncio.Task[Any] | None) -> None:
        """Take the first step of sending, in the name of the connection's own task."""
        loop, task = self._loop, self._task
        if current is task or self._begun is not None:
            # By a `send` that is wrapped in what sends to groups; its own frame comes first.
            self.mailbox.put(event)
            return
        enter_task(loop, task)
        try:
            rest = self._context.run(self._begin, event)
            if rest is not None:
                self._leave(event, rest)
        except (asyncio.CancelledError, Exception) as exc:  # noqa: BLE001 - see _raising
            self._leave(event, _raising(exc))
        finally:
            leave_task(loop, task)

    def _leave(self, event: Prepared, rest: Awaitable[bool]) -> None:
        """Let the reader see to what is left of an event."""
        try:
            finishing = self._finish(rest, event)
            self._begun = Unfinished(event, finishing, self._context.run(finishing.send, None))
        except StopIteration:
            return
        self.mailbox.wake()

    def handle(self, message: ChannelMessage, lanes: Sequence[FastLane]) -> None:
        loop = self._loop
        current = asyncio.current_task(loop)
        if current is not None:
            leave_task(loop, current)
        try:
            for lane in lanes:
                lane.call(dict(message), current)
        finally:
            if current is not None:
                enter_task(loop, current)

    def call(self, message: ChannelMessage, current: asyncio.Task[Any] | None) -> None:
        """Take the first step of a handler, in the name of the connection's own task."""
        loop, task = self._loop, self._task
        handler = self._route(message)
        if handler is None or current is task or self._begun is not None:
            self.mailbox.put(message)
            return
        enter_task(loop, task)
        try:
            handling = _coroutine(handler(message))
            waits_for = self._context.run(handling.send, None)
        except StopIteration:
            return
        except (asyncio.CancelledError, Exception) as exc:  # noqa: BLE001 - see _raising
            handling, waits_for = _raising(exc), None
            handling.send(None)
        finally:
            leave_task(loop, task)
        self._begun = Unfinished(message, handling, waits_for)
        self.mailbox.wake()

    async def idle(self) -> Unfinished | None:
        """
        Wait, as the reader, for a change; returns what is left of an event, if anything is.

        That comes before all else. A cancellation is for it, too, since it may be
        by a timeout around the server's `send`.
        """
        interruption: asyncio.CancelledError | None = None
        try:
            await self.mailbox.change()
        except asyncio.CancelledError as exc:
            interruption = exc
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.interruption = interruption
        elif interruption is not None:
            # Nobody would see to what is begun from now on.
            self.mailbox.lane = None
            raise interruption
        return begun


def prepared(consumer: type[WebsocketConnection], message: ChannelMessage) -> Prepared:
    """Return the event that a message becomes; raises whatever keeps it from becoming one."""
    frame: object = consumer.forwarded_frame(message)
    if isinstance(frame, str):
        return Prepared(type="websocket.send", text=frame)
    if isinstance(frame, bytes):
        return Prepared(type="websocket.send", bytes=frame)
    raise TypeError(f"its frame is a {type(frame).__name__}, neither text nor bytes")


def _coroutine(handling: Awaitable[None]) -> Coroutine[Any, Any, None]:
    return handling if isinstance(handling, types.CoroutineType) else _awaited(handling)


async def _awaited(handling: Awaitable[None]) -> None:
    await handling


async def _raising(exc: BaseException) -> Any:
    """Raise what a send has raised where it belongs: in the connection, and nobody else's way."""
    await asyncio.sleep(0)
    raise exc


def check_forwards(owner: type[WebsocketConnection], reserved: Collection[str]) -> None:
    """Raise ConsumerStateError unless a consumer class can forward what it says it does."""
    forwards: object = owner.forwards
    what = f"{owner.__name__}.forwards is {forwards!r}"
    if isinstance(forwards, str) or not isinstance(forwards, Collection):
        raise ConsumerStateError(f"{what}; give a tuple of message types")
    if forwards and owner.channel_layer_alias is None:
        raise ConsumerStateError(f"{what}, but there is no layer; set channel_layer_alias")
    types: Collection[Any] = forwards
    for type_ in types:
        try:
            handler = get_handler_name({"type": type_})
        except ValueError as exc:
            raise ConsumerStateError(f"{what}; {exc}") from None
        if handler in reserved:
            raise ConsumerStateError(f"{what}; {type_!r} is the library's own, use another type")
        if hasattr(owner, handler):
            raise ConsumerStateError(
                f"{what}, so that {handler}() is never called; remove one of the two"
            )
