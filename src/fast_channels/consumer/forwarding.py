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
    from collections.abc import Awaitable, Callable

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
    """Forwards messages to one client; see layers.mailbox.Lane."""

    __slots__ = ("_begin", "_context", "_loop", "_mailbox", "_task", "key", "types")

    def __init__(
        self,
        consumer: type[WebsocketConnection],
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
        self._mailbox = mailbox
        # Of the connection: whatever the server's `send` is wrapped in may use them.
        self._context = context
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()

    def prepare(self, message: ChannelMessage) -> Prepared | None:
        try:
            frame = self.key.forwarded_frame(message)
        except Exception:  # noqa: BLE001 - the consumer says what is wrong with it, in its turn
            return None
        return Prepared(type="websocket.send", **{_kind(frame): frame})

    def forward(self, event: Prepared) -> None:
        rest = self._as_the_connection(event)
        if rest is not None:
            self._mailbox.put_back(Unfinished(event, rest))

    def _as_the_connection(self, event: Prepared) -> Awaitable[bool] | None:
        """Take the first step of sending, in the name of the connection's own task."""
        loop, own = self._loop, self._task
        current = asyncio.current_task(loop)
        if current is not None:
            leave_task(loop, current)
        if own is not None:
            enter_task(loop, own)
        try:
            return self._context.run(self._begin, event)
        except Exception as exc:  # noqa: BLE001 - it is the connection's, and nobody else's
            return _raising(exc)
        finally:
            if own is not None:
                leave_task(loop, own)
            if current is not None:
                enter_task(loop, current)


def _kind(frame: object) -> str:
    return "text" if isinstance(frame, str) else "bytes"


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
