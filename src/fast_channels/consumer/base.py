"""The consumer that users subclass, and the ASGI application that makes one per connection."""

# The attributes with the prefix _fc_ are private to this package, not to a class.
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar, cast

from fast_channels.exceptions import UnhandledMessage
from fast_channels.layers.registry import get_channel_layer
from fast_channels.utils import await_many_dispatch

from .handlers import ConsumerKind, get_handler_name
from .runner import ConnectionState, Runner, check_class

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.work import Work
    from fast_channels.type_defs import (
        ASGIReceiveCallable,
        ASGISendCallable,
        ChannelMessage,
        ChannelScope,
    )

# `await_many_dispatch` and `get_channel_layer` are for code that imports them from here, as in 1.1.
__all__ = [
    "AsyncConsumer",
    "ConsumerApplication",
    "await_many_dispatch",
    "get_channel_layer",
    "get_handler_name",
]

ConsumerT = TypeVar("ConsumerT", bound="AsyncConsumer")


class Offered:
    """
    A value of the library that consumers offer as an attribute.

    A subclass or an instance may use the name for another value.
    """

    def __init__(self, read: Callable[[Runner[Any]], Any], default: Any) -> None:
        self._read = read
        self._default = default

    def __get__(self, consumer: AsyncConsumer | None, owner: type) -> Any:
        if consumer is None:
            return self._default
        return self._read(consumer._fc_runner)


class AsyncConsumer:
    """
    Handles the events of one ASGI connection and the messages of one channel.

    The method named after the type of a message handles it: `chat_message` handles
    `chat.message`. Handlers run one at a time; events and messages each keep their order. A
    message from the layer can only reach handlers of the user's own classes. A handler may
    begin within the call that delivers its message, such as an in-memory `group_send`: do not
    hold a lock of threads across that call if a handler takes it.

    With `channel_layer_alias` the connection has a channel, `channel_name`, on the layer
    registered under that alias.
    """

    channel_layer_alias: ClassVar[str | None] = None
    """The alias of the layer to open a channel on; None for no channel."""
    send_timeout: float | None = 20.0
    """
    How long a send may wait for a slow client, in seconds; None for no limit.

    After that the connection is ended, a WebSocket with 1013.
    """
    on_gap: ClassVar[Literal["event", "close"]] = "event"
    """
    The reaction to an outage of the broker in which messages may have been lost.

    With "event", `layer_gap` handles the message `layer.gap`; "close" closes the connection.
    """

    scope: ChannelScope
    """The connection as the server describes it. Set before the first handler runs."""
    channel_layer: BaseChannelLayer = cast("BaseChannelLayer", None)
    """
    The layer of `channel_layer_alias`; None without an alias.

    Its type leaves the None out, so that consumers with a layer need not check for it.
    """
    channel_name: str
    """The channel name for sending to this connection only. Set if there is a layer."""
    disconnected: bool = cast("bool", Offered(lambda runner: runner.gone, default=False))
    """
    True as soon as the client is gone or the connection is closed, even while a handler runs.

    A handler that takes long can check it. The end is not noticed while more frames wait than
    the mailbox holds.
    """
    deliveries: int = cast("int", Offered(lambda runner: runner.deliveries, default=0))
    """Number of deliveries of a worker's present message: 1 for the first one."""

    # The library's own state of one consumer, made on first use.
    _fc_runner = cast("Runner[Any]", functools.cached_property(Runner))
    # The values that all connections of the class share; see handlers.py.
    _fc_kind: ClassVar[ConsumerKind]
    # The rules of the kind of connection, such as WebsocketState.
    _fc_state: ClassVar[type[ConnectionState[Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._fc_kind = ConsumerKind(cls)

    # -- as an ASGI application ---------------------------------------------

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> ConsumerApplication[Self]:
        """
        Return an ASGI application that makes one consumer per connection.

        Raises TypeError if the class does not accept `initkwargs`, and ConsumerStateError if
        its options are invalid.
        """
        inspect.signature(cls).bind(**initkwargs)
        check_class(cls)
        return ConsumerApplication(cls, initkwargs)

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """
        Serve one connection.

        The same cleanup runs once after any end (of the client, a handler, an error, a
        cancellation); then the channel is closed.
        """
        await self._fc_runner.begin(scope, receive, send)

    @property
    def base_send(self) -> ASGISendCallable:
        """The `send` of the server, without limits and counters. It may be replaced."""
        return cast("ASGISendCallable", self._fc_runner.sender.send)

    @base_send.setter
    def base_send(self, send: ASGISendCallable) -> None:
        self._fc_runner.sender.send = cast("Any", send)

    # -- to call and to override ----------------------------------------------

    async def send(self, message: ChannelMessage) -> None:
        """
        Send an ASGI event to the client.

        If the server does not take the event within `send_timeout`, the consumer ends.
        Cancelling has no side effects.
        """
        await self._fc_runner.send(message)

    async def dispatch(self, message: ChannelMessage) -> None:
        """Call the handler of an event or message. Raises UnhandledMessage if it has none."""
        kind, type_ = self._fc_kind, message.get("type")
        name = kind.known.get(type_) if isinstance(type_, str) else None
        handler = kind.handler(self, message) if name is None else getattr(self, name)
        if handler is None:
            raise UnhandledMessage(self, message["type"])
        await handler(message)

    async def on_error(self, exc: Exception, message: ChannelMessage) -> None:
        """Called when a handler has raised, before the connection is closed for it."""


AsyncConsumer._fc_state = ConnectionState
AsyncConsumer._fc_kind = ConsumerKind(AsyncConsumer)


class ConsumerApplication(Generic[ConsumerT]):
    """
    A consumer class as an ASGI application; made by `as_asgi`.

    It is an object and not a function, because Starlette calls a function with a WebSocket, and
    an object with scope, receive and send.
    """

    def __init__(self, consumer_class: type[ConsumerT], initkwargs: dict[str, Any]) -> None:
        self.consumer_class = consumer_class
        """The class that makes a consumer for each connection."""
        self.consumer_initkwargs = initkwargs
        """The arguments of that call."""
        self.__name__ = consumer_class.__name__
        self.__qualname__ = consumer_class.__qualname__
        self.__doc__ = consumer_class.__doc__
        self.__module__ = consumer_class.__module__
        self.__wrapped__ = consumer_class

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        consumer = self.consumer_class(**self.consumer_initkwargs)
        if type(consumer).__call__ is AsyncConsumer.__call__:
            # The direct call saves a coroutine for the life of the connection.
            await consumer._fc_runner.begin(scope, receive, send)
        else:
            await consumer(scope, receive, send)

    def employ(self, channel: str, layer: BaseChannelLayer) -> Callable[[Work], Awaitable[None]]:
        """
        Make a consumer for a shared channel, and return a function that handles one message.

        Call the function for one message at a time. It returns when the handler has returned,
        raises the handler's exceptions, and rejects messages without a handler.
        """
        consumer = self.consumer_class(**self.consumer_initkwargs)
        return consumer._fc_runner.employ(channel, layer)

    @property
    def scope_type(self) -> str | None:
        """The only type of scope that the consumer can serve; None for any."""
        return self.consumer_class._fc_state.scope_type
