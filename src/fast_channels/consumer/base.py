"""
One connection: a pump, a mailbox and a loop that runs handlers one at a time.

The pump moves events from ASGI `receive` into the mailbox, where they meet
messages from the layer. The loop takes from both in turn and calls handlers.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

from fast_channels.exceptions import ConsumerStateError, StopConsumer, UnhandledMessage
from fast_channels.layers.mailbox import Mailbox, Notice
from fast_channels.layers.registry import channel_layers

from .endings import Ending, log_ending
from .handlers import get_handler_name, is_handler
from .limits import check_option
from .sending import Sender
from .sockets import abort

if TYPE_CHECKING:
    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.type_defs import (
        ASGIReceiveCallable,
        ASGISendCallable,
        ChannelMessage,
        ChannelScope,
    )

logger = logging.getLogger("fast_channels.consumer")

ConsumerT = TypeVar("ConsumerT", bound="AsyncConsumer")

# Handlers of what only the layer itself may say.
NOTICES = frozenset({"layer_gap", "layer_overflow"})

# Seconds that a server may take to notice that a connection was broken off.
NOTICE_TIMEOUT = 1.0

# Different message types without a handler that are logged per consumer class.
LOGGED_TYPES = 100


class AsyncConsumer:
    """
    Handles the events of one ASGI connection and the messages of one channel.

    A message is handled by the method named after its type, `chat.message` by
    `chat_message`. Handlers run one at a time, events and messages each in the
    order they came. A message from the layer can only reach handlers of your
    own classes, whatever its type.

    With `channel_layer_alias` the connection has a channel, `channel_name`, on
    the layer registered under that alias.
    """

    channel_layer_alias: ClassVar[str | None] = None
    # What to do when messages may have been lost, since the broker was away:
    # hand `layer.gap` to the method layer_gap, or close the connection.
    on_gap: ClassVar[Literal["event", "close"]] = "event"
    # Seconds that the server may take to accept what is sent, which it does not
    # while the client reads nothing. Beyond that the connection is ended, a
    # WebSocket with 1013. None to wait for ever.
    send_timeout: float | None = 20.0

    # Set before the first handler runs.
    scope: ChannelScope
    base_send: ASGISendCallable
    # Set likewise, if there is a channel_layer_alias.
    channel_layer: BaseChannelLayer
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
    # Who or what ended the connection; whoever does so first says it.
    _ending: Ending | None = None
    # Level of the one line in the log when nothing is wrong. What is answered
    # within a request is in the server's own log.
    _log_level: ClassVar[int] = logging.DEBUG
    # The only type of scope that this class can serve; None for any.
    _scope_type: ClassVar[str | None] = None
    # What the library itself defines on this class. A message must not reach it.
    _reserved: ClassVar[frozenset[str]] = frozenset()
    # Methods that were found to be handlers, by name.
    _handlers: ClassVar[dict[str, bool]] = {}
    # Types without a handler that were logged already.
    _logged_types: ClassVar[set[str]] = set()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = [base for base in cls.__mro__ if base.__module__.startswith("fast_channels.")]
        cls._reserved = frozenset(
            name for base in own for name in (*dir(base), *inspect.get_annotations(base))
        )
        cls._handlers = {}
        cls._logged_types = set()

    # -- as an ASGI application ---------------------------------------------

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> ConsumerApplication[Self]:
        """
        Return an ASGI application that makes one consumer per connection.

        Raises TypeError now if the class does not take `initkwargs`, and
        ConsumerStateError if it cannot work as it is configured.
        """
        inspect.signature(cls).bind(**initkwargs)
        cls._check()
        return ConsumerApplication(cls, initkwargs)

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """
        Serve one connection.

        Whatever ends it (the client, a handler, an error, a cancellation), the
        same cleanup runs, once: `_ended`, then leaving the layer.
        """
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
        with channel_layers.connections.entered(type(self).__name__, self._restart):
            await self._serve(receive)

    async def _serve(self, receive: ASGIReceiveCallable) -> None:
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
            if mailbox.closed or self._restarting:
                # By another task of this connection, with its layer, or by a drain.
                await self._interrupted()
            if mailbox.overflowed:
                await self._overflowed(mailbox)
            # One of each in turn, so that neither side can starve the other.
            event = mailbox.take_frame()
            if event is not None:
                await self._handle_event(event)
            message = mailbox.take()
            if message is not None:
                await self._dispatch_message(message)
            elif event is None:
                await mailbox.wait()

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

    # -- dispatch -----------------------------------------------------------

    async def dispatch(self, message: ChannelMessage) -> None:
        """Call the handler of an event or message; raises UnhandledMessage if there is none."""
        name = get_handler_name(message)
        if not self._handles(name):
            raise UnhandledMessage(self, message["type"])
        await getattr(self, name)(message)

    async def _dispatch_message(self, message: ChannelMessage) -> None:
        if isinstance(message, Notice):
            await self._dispatch_notice(message)
        elif self._may_handle(message):
            await self._guarded(message, from_layer=True)

    async def _dispatch_notice(self, notice: Notice) -> None:
        if notice["type"] == "layer.gap" and self.on_gap == "close":
            await self._interrupted()
            return
        # The type may be one that a layer was configured with.
        name = get_handler_name(notice)
        if name not in self._reserved and self._handles(name):
            await self._guarded(notice)

    def _may_handle(self, message: ChannelMessage) -> bool:
        """Whether a message from the layer reaches a handler; if not, count it and say why."""
        try:
            name = get_handler_name(message)
        except ValueError:
            reason = "skipped the unusable"
        else:
            # A dispatch of your own may handle types for which there is no method.
            own_dispatch = type(self).dispatch is not AsyncConsumer.dispatch
            if name in self._reserved or name in NOTICES:
                reason = "keeps for itself the"
            elif own_dispatch or self._handles(name):
                return True
            else:
                reason = "has no handler for"
        self._skip(message.get("type"), reason)
        return False

    def _handles(self, name: str) -> bool:
        """Whether there is a handler: a coroutine method that takes one message."""
        known = self._handlers.get(name)
        if known is None and (known := is_handler(getattr(type(self), name, None))):
            # Only what exists is remembered, so that messages cannot fill this.
            self._handlers[name] = known
        return bool(known)

    def _skip(self, type_: object, reason: str) -> None:
        self.channel_layer.count_unknown_type()
        logged = self._logged_types
        if len(logged) < LOGGED_TYPES and (key := repr(type_)[:100]) not in logged:
            logged.add(key)
            logger.warning("%s; it is skipped", UnhandledMessage(self, type_, reason))

    # -- what kinds of connection fill in -----------------------------------

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

    async def on_error(self, exc: Exception, message: ChannelMessage) -> None:
        """Called when a handler has raised, before the connection is closed for it."""

    async def _guarded(self, message: ChannelMessage, *, from_layer: bool = False) -> None:
        """Dispatch, and let an error end this connection and nothing else."""
        try:
            await self.dispatch(message)
        except StopConsumer:
            raise
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not this connection was cancelled, but something its handler awaited.
            failure = RuntimeError("a handler awaited a task that was cancelled")
            await self._failed(failure, message)
            raise StopConsumer from exc
        except Exception as exc:
            if from_layer and isinstance(exc, UnhandledMessage) and exc.type == message["type"]:
                self._skip(exc.type, "has no handler for")
                return
            await self._failed(exc, message)
            raise StopConsumer from exc

    async def _failed(self, exc: Exception, message: ChannelMessage) -> None:
        try:
            await self.on_error(exc, message)
        except Exception:
            logger.exception("%s.on_error failed", type(self).__name__)
        self._log_failure(exc, message)
        self._ends(Ending(None, "", "error"))

    def _log_failure(self, exc: Exception, message: ChannelMessage) -> None:
        logger.error(
            "%s failed at %r and its connection is closed",
            type(self).__name__,
            message.get("type"),
            exc_info=exc,
        )

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
        self.consumer_class = consumer_class
        self.consumer_initkwargs = initkwargs
        self.__name__ = consumer_class.__name__
        self.__qualname__ = consumer_class.__qualname__
        self.__doc__ = consumer_class.__doc__
        self.__module__ = consumer_class.__module__

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        consumer = self.consumer_class(**self.consumer_initkwargs)
        await consumer(scope, receive, send)
