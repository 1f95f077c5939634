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
from typing import TYPE_CHECKING, Any, TypeAlias

from fast_channels.exceptions import ConsumerStateError
from fast_channels.layers.lanes import Prepared

from .handlers import get_handler_name
from .sender import resumed

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from fast_channels.layers.lanes import Parcel
    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.type_defs import ChannelMessage

    from .connection import WebsocketConnection
    from .sender import Sender

    Finish = Callable[[Any, Awaitable[bool], ChannelMessage], Coroutine[Any, Any, None]]

# A message and the name of its handler, or an event to be forwarded and None.
Step: TypeAlias = tuple["ChannelMessage", str | None]


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


class ConsumerKind:
    """What the fast lanes of one class of consumers have in common; see layers.lanes.LaneKind."""

    def __init__(
        self, consumer: type[WebsocketConnection], routes: Mapping[str, str], finish: Finish
    ) -> None:
        self._consumer = consumer
        # Does what is left of sending an event.
        self.finish = finish
        # Names of the handlers that messages have reached before, by their types.
        self._routes = routes
        # Not looked at before the class was checked.
        self._types: frozenset[str | None] | None = None

    @property
    def types(self) -> frozenset[str | None]:
        if self._types is None:
            self._types = frozenset(self._consumer.forwards)
        return self._types

    def prepare(self, message: ChannelMessage) -> Prepared | None:
        try:
            return prepared(self._consumer, message)
        except Exception:  # noqa: BLE001 - the consumer says what is wrong with it, in its turn
            return None

    def begins(self, parcel: Parcel, *, nested: bool) -> bool:
        return parcel.type in self.types or (not nested and parcel.type in self._routes)

    def take(self, parcels: Sequence[Parcel], lanes: Sequence[FastLane], *, nested: bool) -> None:
        steps = self._steps(parcels, nested=nested)
        loop = asyncio.get_running_loop()
        current = asyncio.current_task(loop)
        if current is not None:
            leave_task(loop, current)
        try:
            for lane in lanes:
                number, task = 0, lane.task
                # Not amidst a step of the same connection, whose `send` or handler has
                # sent what comes back to it, nor before what is left of another message.
                if not lane.stepping and lane.begun is None:
                    enter_task(loop, task)
                    lane.stepping = True
                    try:
                        number = lane.context.run(lane.begin, steps)
                    finally:
                        lane.stepping = False
                        leave_task(loop, task)
                if number < len(parcels):
                    for parcel in parcels[number:]:
                        lane.mailbox.put(parcel.unpacked(lane))
        finally:
            if current is not None:
                enter_task(loop, current)

    def _steps(self, parcels: Sequence[Parcel], *, nested: bool) -> list[Step]:
        """Return what is done with messages, up to one for which readers have to be woken."""
        steps: list[Step] = []
        for parcel in parcels:
            event = parcel.prepared(self)
            handler = None if nested else self._routes.get(parcel.type or "")
            if event is not None:
                steps.append((event, None))
            elif handler is not None:
                steps.append((parcel.message, handler))
            else:
                break
        return steps


class FastLane:
    """
    Forwards messages to one client, or begins to handle them; see layers.lanes.Lane.

    For a connection that is open: made when it is accepted, and gone before it closes.
    """

    __slots__ = (
        "_consumer",
        "_sender",
        "begun",
        "context",
        "kind",
        "mailbox",
        "stepping",
        "task",
    )

    def __init__(
        self,
        kind: ConsumerKind,
        consumer: WebsocketConnection,
        task: asyncio.Task[None],
        context: contextvars.Context,
        mailbox: Mailbox,
        sender: Sender,
    ) -> None:
        self.kind = kind
        self._consumer = consumer
        # Of the connection: whatever the server's `send` is wrapped in may use them.
        self.task = task
        self.context = context
        self._sender = sender
        # What is left of the last message. No frame can be sent before it is.
        self.begun: Unfinished | None = None
        # Whether a delivery takes steps here, perhaps further up the stack.
        self.stepping = False
        self.mailbox = mailbox
        # Whoever accepts may be another task, and the reader wait without a lane.
        mailbox.open_lane(self)

    def begin(self, steps: Sequence[Step]) -> int:
        """Take one step after the other; returns how many. The last may have left something."""
        number = 0
        for message, handler in steps:
            number += 1
            try:
                if handler is None:
                    rest = self._sender.begin(message)
                    if rest is None:
                        continue
                    beginning = self.kind.finish(self._consumer, rest, message)
                else:
                    beginning = _coroutine(getattr(self._consumer, handler)(dict(message)))
                waits_for = beginning.send(None)
            except StopIteration:
                if self.mailbox.lane is None:
                    # The connection has ended.
                    return number
                continue
            except (KeyboardInterrupt, SystemExit):
                # They end the loop, and a task lets them pass as well.
                raise
            except BaseException as exc:  # noqa: BLE001 - see _raising
                raising = _raising(exc)
                beginning = (
                    self.kind.finish(self._consumer, raising, message)
                    if handler is None
                    else raising
                )
                waits_for = beginning.send(None)
            self.begun = Unfinished(message, beginning, waits_for)
            self.mailbox.wake()
            return number
        return number

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
            # One that a handler's first step brought about and took back is none, as
            # in tasks since Python 3.13.
            if self.task.cancelling():
                interruption = exc
        begun, self.begun = self.begun, None
        if begun is not None:
            begun.interruption = interruption
        elif interruption is not None:
            # Nobody would see to what is begun from now on.
            self.mailbox.close_lane()
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
    """Raise what a first step has raised where it belongs: in its connection, in nobody's way."""
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
