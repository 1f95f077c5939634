"""
The fast lane: messages that go to the client as they are, past the mailbox.

A handler that only sends what it got costs a wake-up of its connection, a copy
of the message and an encoded frame each. Types listed in `forwards` cost one
frame for all members of a group in a process, which the delivery itself hands
to the servers; a connection is woken only if its client reads too slowly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import ConsumerStateError
from fast_channels.layers.mailbox import Prepared

from .handlers import get_handler_name

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable, Sequence

    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.type_defs import ChannelMessage

    from .connection import WebsocketConnection


# For who runs something as a task that is not running, and documented as such:
# https://docs.python.org/3/library/asyncio-extending.html
enter_task = asyncio.tasks._enter_task  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
leave_task = asyncio.tasks._leave_task  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


class Unfinished(Prepared):
    """An event of which the first step is taken; the client reads too slowly for the rest."""

    def __init__(self, event: Prepared, rest: Awaitable[bool]) -> None:
        super().__init__(event)
        self.rest = rest


class FastLane:
    """
    Forwards messages to one client; see layers.mailbox.Lane.

    For a connection that is open: made when it is accepted, and gone before it closes.
    """

    __slots__ = ("_begin", "_context", "_loop", "_task", "key", "mailbox", "types")

    def __init__(
        self,
        consumer: type[WebsocketConnection],
        task: asyncio.Task[None],
        context: contextvars.Context,
        begin: Callable[[ChannelMessage], Awaitable[bool] | None],
        mailbox: Mailbox,
    ) -> None:
        # Consumers of one class make the same frame of a message.
        self.key = consumer
        self.types = frozenset(consumer.forwards)
        # Sends an event as far as that goes without waiting; returns what is left of it.
        self._begin = begin
        # Gets that: its reader must see to it.
        self.mailbox = mailbox
        # Of the connection: whatever the server's `send` is wrapped in may use them.
        self._task = task
        self._context = context
        self._loop = asyncio.get_running_loop()

    def prepare(self, message: ChannelMessage) -> Prepared | None:
        try:
            return prepared(self.key.forwarded_frame(message))
        except Exception:  # noqa: BLE001 - the consumer says what is wrong with it, in its turn
            return None

    def forward(self, event: Prepared, lanes: Sequence[FastLane]) -> None:
        loop = self._loop
        current = asyncio.current_task(loop)
        if current is not None:
            leave_task(loop, current)
        try:
            for lane in lanes:
                rest = lane.sent(event)
                if rest is not None:
                    lane.mailbox.put_back(Unfinished(event, rest))
        finally:
            if current is not None:
                enter_task(loop, current)

    def sent(self, event: Prepared) -> Awaitable[bool] | None:
        """Send an event in the name of the connection; what is left of that, None if nothing is."""
        loop, task = self._loop, self._task
        enter_task(loop, task)
        try:
            return self._context.run(self._begin, event)
        except Exception as exc:  # noqa: BLE001 - it is the connection's, and nobody else's
            return _raising(exc)
        finally:
            leave_task(loop, task)


def prepared(frame: object) -> Prepared:
    """Return the event that sends a frame."""
    return Prepared(
        {"type": "websocket.send", "text" if isinstance(frame, str) else "bytes": frame}
    )


async def _raising(exc: Exception) -> bool:
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
