"""
One connection: a pump, a mailbox and a loop that runs handlers one at a time.

The pump moves events from ASGI `receive` into the mailbox, where they meet
messages from the layer. The loop takes from both in turn and calls handlers.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

from fast_channels.exceptions import ConsumerStateError, StopConsumer
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.registry import channel_layers

from .abort import abort
from .close_codes import Ending, log_ending
from .dispatch import Dispatcher
from .handlers import get_handler_name
from .limits import check_option
from .sender import Sender

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

logger = logging.getLogger("fast_channels.consumer")

ConsumerT = TypeVar("ConsumerT", bound="AsyncConsumer")

# Seconds that a server may take to notice that a connection was broken off.
NOTICE_TIMEOUT = 1.0


class AsyncConsumer(Dispatcher):
    """
    Handles the events of one ASGI connection and the messages of one channel.

    A message is handled by the method named after its type, `chat.message` by
    `chat_message`. Handlers run one at a time, events and messages each in the
    order they came. A message from the layer can only reach handlers of your
    own classes, whatever its type. A handler may begin within the call that
    delivers its message, an in-memory `group_send` for one: whoever holds a lock of
    threads across that, and takes it in a handler, waits for itself.

    With `channel_layer_alias` the connection has a channel, `channel_name`, on
    the layer registered under that alias.
    """

    # The alias of the layer to open a channel on; None for no channel.
    channel_layer_alias: ClassVar[str | None] = None
    # Seconds that the server may take to accept what is sent, which it does not
    # while the client reads nothing. Beyond that the connection is ended, a
    # WebSocket with 1013. None to wait for ever.
    send_timeout: float | None = 20.0

    # What the server tells of the connection. Set before the first handler runs.
    scope: ChannelScope
    # The `send` of the server, without limits and accounts; set likewise.
    base_send: ASGISendCallable
    # What sends to this connection alone use. Set likewise, if there is a channel_layer_alias.
    channel_name: str
    # True as soon as the client is gone or we have closed, also while a handler
    # runs: one that goes on for long can look. It is not noticed while more
    # frames wait than the mailbox has room for.
    disconnected: bool = False

    # True once the process is about to end.
    _restarting: bool = False
    # Where events and messages meet, and the pump that moves events there.
    _mailbox: Mailbox
    _receiving: asyncio.Task[None]
    # The way to the client.
    _sender: Sender
    # What runs the handlers, and what their context variables are set in.
    _task: asyncio.Task[None]
    _context: contextvars.Context
    # Who or what ended the connection; whoever does so first says it.
    _ending: Ending | None = None
    # Level of the one line in the log when nothing is wrong. What is answered
    # within a request is in the server's own log.
    _log_level: ClassVar[int] = logging.DEBUG
    # Whether this class has been found to be in order.
    _checked: ClassVar[bool]
    # The only type of scope that this class can serve; None for any.
    _scope_type: ClassVar[str | None] = None

    # -- as an ASGI application ---------------------------------------------

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> ConsumerApplication[Self]:
        """
        Return an ASGI application that makes one consumer per connection.

        Raises TypeError now if the class does not take `initkwargs`, and
        ConsumerStateError if it cannot work as it is configured.
        """
        inspect.signature(cls).bind(**initkwargs)
        cls._check_once()
        return ConsumerApplication(cls, initkwargs)

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """
        Serve one connection.

        Whatever ends it (the client, a handler, an error, a cancellation), the
        same cleanup runs, once, and then the channel is closed.
        """
        await self._begin_serving(scope, receive, send)

    def _begin_serving(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> asyncio.Task[None]:
        """Return the task of the connection. Whoever awaits it and is cancelled cancels it."""
        if self._scope_type not in (None, scope.get("type", self._scope_type)):
            raise ConsumerStateError(
                f"{type(self).__name__} serves {self._scope_type} connections and was asked to "
                f"serve {scope['type']!r}; mount it on a {self._scope_type} route"
            )
        if hasattr(self, "scope"):
            raise ConsumerStateError(
                f"this {type(self).__name__} has had its connection; a consumer serves one, so "
                f"mount {type(self).__name__}.as_asgi(), which makes one for each"
            )
        self.scope = scope
        self.base_send = send
        self._sender = Sender(send, self.send_timeout)
        self._context = contextvars.copy_context()
        # In a task of its own: a wake-up then takes two steps, and not one for each
        # middleware, route and server function that the application is wrapped in.
        return asyncio.create_task(self._serve(receive), context=self._context)

    async def _serve(self, receive: ASGIReceiveCallable) -> None:
        # Here and not where it is made: an eager task may come far before that returns.
        self._task = cast("asyncio.Task[None]", asyncio.current_task())
        with channel_layers.connections.track(type(self).__name__, self._restart):
            started = time.monotonic()
            layer, mailbox = await self._open()
            self._mailbox = mailbox
            self._receiving = asyncio.create_task(self._pump(receive, mailbox))
            failure: BaseException | None = None
            try:
                await self._run(mailbox)
            except StopConsumer:
                self._ends(Ending(None, "", "consumer"))
            except BaseException as exc:
                self._ends(Ending(None, "", "server"))
                failure = exc
                raise
            finally:
                # One after the other, also if each is cancelled in turn.
                try:
                    await self._stop_receiving()
                finally:
                    try:
                        await self._ended(failure)
                    finally:
                        self._finish(time.monotonic() - started)
                        if layer is not None:
                            await layer.close_channel(mailbox.name)

    async def _open(self) -> tuple[BaseChannelLayer | None, Mailbox]:
        # For those without a layer. The lane for messages stays empty.
        alone = None, Mailbox("", capacity=1)
        if self.channel_layer_alias is None or self._restarting:
            return alone
        layer = channel_layers.require(self.channel_layer_alias, type(self).__name__)
        try:
            mailbox = await layer.open_channel()
        except asyncio.CancelledError:
            if not self._restarting:
                raise
            # The broker is away for longer than a drain may take, and the client
            # is turned away like those who come during it.
            return alone
        self.channel_layer, self.channel_name = layer, mailbox.name
        return layer, mailbox

    async def _pump(self, receive: ASGIReceiveCallable, mailbox: Mailbox) -> None:
        event: ChannelMessage = {"type": ""}
        while not event["type"].endswith(".disconnect"):
            try:
                event = await receive()
            except Exception:
                # Nothing more will come, and the loop must not wait for it.
                logger.exception("%s cannot receive any more", type(self).__name__)
                kind: str = self.scope["type"]
                event = {"type": f"{kind}.disconnect", "code": 1006}
            if event["type"].endswith(".disconnect"):
                self.disconnected = True
            admitted = self._admitted(event)
            if admitted is not None:
                await mailbox.put_frame(admitted)

    async def _run(self, mailbox: Mailbox) -> None:
        while True:
            if mailbox.closed or mailbox.overflowed or self._restarting:
                await self._end_early(mailbox)
            # One of each in turn, so that neither side can starve the other.
            event = mailbox.take_frame()
            if event is not None:
                await self._handle_event(event)
            message = mailbox.take()
            if message is not None:
                handler = self._route(message)
                if handler is None:
                    await self._dispatch_message(message)
                    continue
                # The hot path: what `_guarded` and `dispatch` do, without the way there.
                try:
                    await handler(message)
                except StopConsumer:
                    raise
                except (asyncio.CancelledError, Exception) as exc:  # noqa: BLE001 - judged there
                    await self._raised(exc, message, from_layer=True)
            elif event is None:
                lane = mailbox.lane
                begun = await (mailbox.change() if lane is None else lane.idle())
                if begun is not None:
                    await self._dispatch_message(begun)

    async def _end_early(self, mailbox: Mailbox) -> None:
        if mailbox.closed or self._restarting:
            # By another task of this connection, with its layer, or by a drain.
            await self._interrupted()
        await self._overflowed(mailbox)

    async def _stop_receiving(self) -> None:
        self._receiving.cancel()
        await asyncio.wait([self._receiving])

    async def _handle_event(self, event: ChannelMessage) -> None:
        leaves = event["type"].endswith(".disconnect")
        # Nobody has to have a handler for the end.
        if not leaves or self._handles(get_handler_name(event)):
            await self._guarded(event)
        if leaves:
            # Nothing more will come, whatever the handler did.
            self._ends(Ending(None, "", "client"))
            raise StopConsumer

    def _begin_working(
        self, channel: str, layer: BaseChannelLayer
    ) -> Callable[[Work], Awaitable[None]]:
        """Return what does the work of a shared channel; there is no connection."""
        self.scope = {"type": "channel", "channel": channel}
        self.base_send = _no_client
        self._sender = Sender(_no_client, None)
        self.channel_layer, self.channel_name = layer, channel
        return self._do

    # -- what kinds of connection fill in -----------------------------------

    @classmethod
    def _check_once(cls) -> None:
        # Of the class itself: what its base has passed says nothing of it.
        if "_checked" not in vars(cls):
            cls._check()
            cls._checked = True

    @classmethod
    def _check(cls) -> None:
        """Raise ConsumerStateError for a class that cannot work."""
        check_option(cls, "send_timeout", "seconds")

    async def send(self, message: ChannelMessage) -> None:
        """
        Send an ASGI event to the client.

        If the server does not take it within `send_timeout`, the consumer ends.
        Cancelling leaves nothing behind.
        """
        if not await self._sender(message):
            await self._given_up()

    async def _given_up(self) -> None:
        """The client reads nothing, or somebody else has ended the connection."""
        await self._break_off_slow()
        raise StopConsumer

    async def _break_off_slow(self) -> None:
        self.disconnected = True
        if self._sender.stuck:
            self._ends(Ending(None, "slow", "send_timeout"))
            await self._abort_and_let_notice()

    async def _abort_and_let_notice(self) -> None:
        if await self._abort():
            # A server that has noticed has nothing to complain about.
            await asyncio.wait([self._receiving], timeout=NOTICE_TIMEOUT)

    async def _abort(self) -> bool:
        """End the connection under the server, which may hold it for ever; whether it is over."""
        return await asyncio.get_running_loop().run_in_executor(None, abort, self.scope)

    async def _failed(self, exc: Exception, message: ChannelMessage) -> None:
        await super()._failed(exc, message)
        self._ends(Ending(None, "", "error"))

    async def _overflowed(self, mailbox: Mailbox) -> None:
        """The mailbox overflowed and its policy is to close."""
        self._ends(Ending(None, f"{mailbox.dropped} messages too many", "overflow"))
        raise StopConsumer

    def _restart(self) -> None:
        """The process is about to end: close, as soon as no handler runs."""
        self._restarting = True
        if hasattr(self, "_mailbox"):
            self._mailbox.close()

    async def _interrupted(self) -> None:
        """Messages may have been lost, and `on_gap` is to close; or the process is to end."""
        self._ends(self._interruption(None))
        raise StopConsumer

    def _interruption(self, code: int | None) -> Ending:
        if self._restarting:
            return Ending(code, "restarting", "server")
        return Ending(code, "messages may have been lost", "layer")

    def _admitted(self, event: ChannelMessage) -> ChannelMessage | None:
        """Return what to keep of an event until its turn comes; None for nothing."""
        return event

    async def _ended(self, failure: BaseException | None) -> None:
        """The connection is over; `failure` is what ended it, None if that was in order."""

    def _ends(self, ending: Ending) -> None:
        """Note what ended the connection, if that is not known already."""
        if self._ending is None:
            self._ending = ending

    def _finish(self, seconds: float) -> None:
        self._sender.close()
        ending = self._ending or Ending(None, "", "server")
        log_ending(type(self).__name__, self.scope, ending, seconds, self._log_level)


class ConsumerApplication(Generic[ConsumerT]):
    """
    What `as_asgi` returns: a consumer class as an ASGI application.

    An object and not a function, because Starlette calls a function with a
    WebSocket and an object with scope, receive and send.
    """

    def __init__(self, consumer_class: type[ConsumerT], initkwargs: dict[str, Any]) -> None:
        # What makes a consumer for each connection.
        self.consumer_class = consumer_class
        # The arguments that it is made with.
        self.consumer_initkwargs = initkwargs
        self.__name__ = consumer_class.__name__
        self.__qualname__ = consumer_class.__qualname__
        self.__doc__ = consumer_class.__doc__
        self.__module__ = consumer_class.__module__

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        consumer = self.consumer_class(**self.consumer_initkwargs)
        if type(consumer).__call__ is AsyncConsumer.__call__:
            # Not by way of it: a coroutine less for as long as the connection lives.
            await consumer._begin_serving(scope, receive, send)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        else:
            await consumer(scope, receive, send)

    def employ(self, channel: str, layer: BaseChannelLayer) -> Callable[[Work], Awaitable[None]]:
        """
        Make a consumer for work from a shared channel, and return what does a piece of it.

        To be called for one piece at a time. Returns when the handler has, raises
        what it raised, and rejects work that no handler is there for.
        """
        consumer = self.consumer_class(**self.consumer_initkwargs)
        return consumer._begin_working(channel, layer)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    @property
    def scope_type(self) -> str | None:
        """The only type of scope that the consumer can serve; None for any."""
        return self.consumer_class._scope_type  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


async def _no_client(event: ChannelMessage) -> None:
    raise ConsumerStateError(
        f"cannot send {event['type']!r}: a consumer that a worker runs has no client; send to a "
        "channel or a group with self.channel_layer"
    )
