"""
Runs one consumer: the pump, the mailbox, and the loop that runs handlers one at a time.

The pump moves events from ASGI `receive` into the mailbox, where they meet messages from the
layer. The loop takes from both in turn and calls handlers.
"""

# The attributes with the prefix _fc_ are private to this package, not to a class.
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast

from fast_channels.exceptions import ConsumerStateError, StopConsumer, UnhandledMessage
from fast_channels.layers.mailbox import Mailbox, Notice
from fast_channels.layers.registry import channel_layers

from .abort import abort
from .close_codes import Ending, log_ending
from .eager import EagerCoroutine, until_woken
from .handlers import ForwardedFrame, check_names, get_handler_name
from .limits import OPTIONS, Refused, check_option
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

    from .base import AsyncConsumer
    from .handlers import ConsumerKind

logger = logging.getLogger("fast_channels.consumer")

ServedConsumerT = TypeVar("ServedConsumerT", bound="AsyncConsumer")
StateT = TypeVar("StateT", bound="ConnectionState[Any]")

# How long a server may take to notice that a connection was broken off.
NOTICE_TIMEOUT_SECONDS = 1.0


class LossRecovery(Protocol):
    """The part of the resume protocol that the loop calls, if the connection has it."""

    async def place(self, message: ChannelMessage) -> None:
        """Handle a live message in order with the missed ones."""
        ...

    async def next(self, *, idle: bool) -> bool:
        """Do one step that must come before live messages; return False if there is none."""
        ...


class ConnectionState(Generic[ServedConsumerT]):
    """
    The rules of one kind of connection: the events that it accepts, and its end.

    This class is for connections of any scope; WebSockets and HTTP have subclasses.
    """

    # The only type of scope that consumers of this kind can serve; None for any.
    scope_type: ClassVar[str | None] = None
    # Level of the log line about a clean end. The server's own log has a line per request.
    log_level: ClassVar[int] = logging.DEBUG

    # True when no more can be sent: the consumer ends after the present handler.
    over: bool = False

    def __init__(self, runner: Runner[Any]) -> None:
        self.runner = runner
        self.consumer: ServedConsumerT = cast("ServedConsumerT", runner.consumer)

    @classmethod
    def check(cls, consumer_class: type[AsyncConsumer], kind: ConsumerKind) -> None:
        """Raise ConsumerStateError for a class with invalid options."""

    def opened(self) -> None:
        """Called when the channel is open, before any event is received."""

    def admit(self, event: ChannelMessage) -> ChannelMessage | None:
        """Return an event to keep until its turn, or None to drop it."""
        return event

    async def refuse(self, ending: Ending) -> None:
        """End the connection in the turn of an event that was refused."""
        self.runner.ends(ending)

    def left(self, event: ChannelMessage) -> None:
        """Note that the client is gone, before the handler of that event runs."""

    async def failed(self, exc: Exception, message: ChannelMessage) -> None:
        """End the connection because a handler has raised."""
        self.runner.log_failure(exc, message)
        self.runner.ends(Ending(None, "", "error"))

    async def overflowed(self) -> None:
        """End the connection because its mailbox is full and the policy is to close."""
        reason = f"{self.runner.mailbox.dropped} messages too many"
        self.runner.ends(Ending(None, reason, "overflow"))

    async def interrupted(self) -> None:
        """End the connection because of a gap or a flush, or because the process ends."""
        self.runner.ends(self.runner.interruption(None))

    def begin(self, event: ChannelMessage) -> Awaitable[Any] | None:
        """Send a frame as far as possible without waiting; only WebSockets have frames."""
        raise NotImplementedError

    async def not_taken(self) -> None:
        """
        Note that an event was not sent, because the client does not read or the connection
        ends.
        """
        await self.runner.break_off()
        raise StopConsumer

    async def cancelled(self) -> None:
        """Called when the task of the connection was cancelled, before the pump is stopped."""

    async def ended(self, failure: BaseException | None) -> None:
        """Clean up after the last handler; `failure` is the error that ended it, if any."""


class Runner(Generic[StateT]):
    """Runs one consumer: its pump, its mailbox and its loop. All internal state belongs to it."""

    def __init__(self, consumer: AsyncConsumer) -> None:
        self.consumer = consumer
        self.name = type(consumer).__name__
        self.kind = consumer._fc_kind
        self.scope: ChannelScope = {}
        # True once the consumer has a connection. Without one, as in a unit test that calls its
        # methods, no call waits and no limit applies.
        self.started = False
        # True once the client is gone or the connection is closed.
        self.gone: bool = False
        # True once the process is about to end.
        self.restarting = False
        # Number of deliveries of a worker's present message.
        self.deliveries: int = 0
        # The end of the connection, by its first cause.
        self.ending: Ending | None = None
        self.layer: BaseChannelLayer | None = None
        # Events and messages meet here. Without a layer, it gets only events.
        self.mailbox = Mailbox("", capacity=1)
        self.recovery: LossRecovery | None = None
        self.sender = Sender(_no_connection, None)
        self.state = cast("StateT", consumer._fc_state(self))
        self._coroutine: EagerCoroutine
        self._pump: asyncio.Task[None] | None = None

    def begin(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> asyncio.Task[None]:
        """Return the task of the connection. Cancelling a task that awaits it cancels it."""
        consumer, wanted = self.consumer, self.state.scope_type
        if wanted not in (None, scope.get("type", wanted)):
            raise ConsumerStateError(
                f"{self.name} serves {wanted} connections and was asked to "
                f"serve {scope['type']!r}; mount it on a {wanted} route"
            )
        if self.started:
            raise ConsumerStateError(
                f"this {self.name} has had its connection; a consumer serves one, so "
                f"mount {self.name}.as_asgi(), which makes one for each"
            )
        self.started = True
        check_class(type(consumer))
        for option in OPTIONS:
            if option in vars(consumer):
                check_option(consumer, option)
        self.scope = consumer.scope = scope
        self.sender.send, self.sender.timeout = cast("Any", send), consumer.send_timeout
        context = contextvars.copy_context()
        self._coroutine = EagerCoroutine(self._serve(receive), context)
        # A separate task, so that a wake-up does not pass through every middleware, route and
        # server function around the application.
        return asyncio.create_task(self._coroutine, context=context)

    async def _serve(self, receive: ASGIReceiveCallable) -> None:
        with channel_layers.connections.track(self.name, self._restart):
            started = time.monotonic()
            await self._open()
            failure: BaseException | None = None
            try:
                self._pump = asyncio.create_task(self._receive(receive))
                await self._run()
            except StopConsumer:
                self.ends(Ending(None, "", "consumer"))
            except BaseException as exc:
                self.ends(Ending(None, "", "server"))
                failure = exc
                if isinstance(exc, asyncio.CancelledError):
                    await self.state.cancelled()
                raise
            finally:
                # Each step runs even if the one before is cancelled.
                try:
                    await self.stop_receiving()
                finally:
                    try:
                        await self.state.ended(failure)
                    finally:
                        self._finish(time.monotonic() - started)
                        if self.layer is not None:
                            await self.layer.close_channel(self.mailbox.name)

    async def _open(self) -> None:
        consumer, alias = self.consumer, self.consumer.channel_layer_alias
        if alias is not None and not self.restarting:
            layer = channel_layers.require(alias, self.name)
            try:
                self.mailbox = await layer.open_channel()
            except asyncio.CancelledError:
                if not self.restarting:
                    raise
                # The broker is away for longer than a drain may take: the client is turned away
                # like any client during a drain.
            else:
                self.layer = consumer.channel_layer = layer
                consumer.channel_name = self.mailbox.name
        self.mailbox.listen(self._coroutine, self.kind.prepare if self.kind.forwards else None)
        try:
            self.state.opened()
        except BaseException:
            if self.layer is not None:
                await self.layer.close_channel(self.mailbox.name)
            raise

    async def _receive(self, receive: ASGIReceiveCallable) -> None:
        """The pump: move events into the mailbox until the client leaves."""
        event: ChannelMessage = {"type": ""}
        while not event["type"].endswith(".disconnect"):
            try:
                event = await receive()
            except Exception:
                # The loop must not wait for events that will not come.
                logger.exception("%s cannot receive any more", self.name)
                event = {"type": f"{self.scope['type']}.disconnect", "code": 1006}
            if event["type"].endswith(".disconnect"):
                self.gone = True
            admitted = self.state.admit(event)
            if admitted is not None:
                await self.mailbox.put_frame(admitted)

    async def _run(self) -> None:  # noqa: C901 - each coroutine more would slow down deliveries
        """The loop: one event and one message in turn, so that neither starves the other."""
        mailbox, recovery, state = self.mailbox, self.recovery, self.state
        handle = self.handle_message if recovery is None else recovery.place
        begin = self._begin if recovery is None else recovery.place
        while True:
            mailbox.changed = False
            if mailbox.closed or mailbox.overflowed or self.restarting:
                await self._end_early()
            event = mailbox.take_frame()
            if event is not None:
                await self._handle_event(event)
            message = mailbox.take()
            if message is not None:
                await handle(message)
            idle = event is None and message is None
            if recovery is not None and await recovery.next(idle=idle):
                continue
            while idle and not mailbox.changed:
                for message in await until_woken():
                    # As handle_message does, without one more coroutine for each message.
                    try:
                        handling = begin(message)
                        if handling is not None:
                            await handling
                    except StopConsumer:
                        raise
                    except (asyncio.CancelledError, Exception) as exc:  # noqa: BLE001 - see there
                        await self._raised(exc, message, from_layer=True)
                    if state.over:
                        raise StopConsumer
                # An idle connection keeps no message alive.
                message = None
                idle = recovery is None

    async def _end_early(self) -> None:
        if self.mailbox.closed or self.restarting:
            # Another task of this connection, its layer or a drain has ended it.
            await self.state.interrupted()
        else:
            await self.state.overflowed()
        raise StopConsumer

    async def _handle_event(self, event: ChannelMessage) -> None:
        if isinstance(event, Refused):
            await self.state.refuse(event.ending)
            raise StopConsumer
        leaves = event["type"].endswith(".disconnect")
        if leaves:
            self.state.left(event)
        # A consumer needs no handler for the end.
        if not leaves or self.kind.handler(self.consumer, event) is not None:
            await self.guard(self.consumer.dispatch(event), event)
        if leaves:
            # No more events come, so the consumer ends even if its handler did not.
            self.ends(Ending(None, "", "client"))
        if leaves or self.state.over:
            raise StopConsumer

    async def handle_message(self, message: ChannelMessage) -> None:
        """Call the handler of a message from the layer; an error ends this connection only."""
        try:
            handling = self._begin(message)
            if handling is not None:
                await handling
        except StopConsumer:
            raise
        except (asyncio.CancelledError, Exception) as exc:  # noqa: BLE001 - judged there
            await self._raised(exc, message, from_layer=True)
        if self.state.over:
            raise StopConsumer

    def _begin(self, message: ChannelMessage) -> Awaitable[None] | None:
        """Return what handles a message, to be awaited; None if it is handled already."""
        if isinstance(message, ForwardedFrame):
            begun: Awaitable[None] | None = self.state.begin(message)
            return begun
        type_ = message.get("type")
        # The type may be unhashable.
        name = self.kind.routes.get(type_) if isinstance(type_, str) else None
        if name is None:
            return self._handle_first(message)
        handling: Awaitable[None] = getattr(self.consumer, name)(message)
        return handling

    async def _handle_first(self, message: ChannelMessage) -> None:
        """Handle a message of a type for which no route is known yet, if it may be handled."""
        kind = self.kind
        if isinstance(message, Notice):
            await self._handle_notice(message)
        elif kind.is_forwarded(message):
            await self._forward(message)
        else:
            handler = kind.handler_for_layer(self.consumer, message)
            if isinstance(handler, str):
                self._skip(message, handler)
            else:
                await handler(message)

    async def _handle_notice(self, notice: Notice) -> None:
        if notice["type"] == "layer.gap" and self.consumer.on_gap == "close":
            await self.state.interrupted()
            raise StopConsumer
        # The type may be one that a layer was configured with.
        if get_handler_name(notice) not in self.kind.reserved:
            handler = self.kind.handler(self.consumer, notice)
            if handler is not None:
                await self.consumer.dispatch(notice)

    async def _forward(self, message: ChannelMessage) -> None:
        """Forward a message that was not prepared when it was delivered."""
        try:
            frame = self.kind.frame(message)
        except Exception as exc:  # noqa: BLE001 - a message closes no connection
            self._skip(message, f"cannot forward, for {exc!r}, the")
        else:
            pending = self.state.begin(frame)
            if pending is not None:
                await pending

    def _skip(self, message: ChannelMessage, reason: str) -> None:
        layer = self.layer or self.consumer.channel_layer
        self.kind.skip(layer, UnhandledMessage(self.consumer, message.get("type"), reason))

    # -- errors -------------------------------------------------------------

    async def guard(self, handling: Awaitable[None], message: ChannelMessage) -> None:
        """Await a handler; an error in it ends this connection only."""
        try:
            await handling
        except StopConsumer:
            raise
        except (asyncio.CancelledError, Exception) as exc:  # noqa: BLE001 - judged there
            await self._raised(exc, message)

    async def _raised(
        self, exc: BaseException, message: ChannelMessage, *, from_layer: bool = False
    ) -> None:
        """Handle an exception of a handler; return if the connection continues."""
        if isinstance(exc, Exception):
            if from_layer and isinstance(exc, UnhandledMessage) and exc.type == message["type"]:
                self.kind.skip(self.layer or self.consumer.channel_layer, exc)
                return
            failure = exc
        elif _is_cancelled():
            raise exc
        else:
            # The connection was not cancelled, but an awaitable of its handler was.
            failure = RuntimeError("a handler awaited a task that was cancelled")
        await self.fail(failure, message)
        raise StopConsumer from exc

    async def fail(self, exc: Exception, message: ChannelMessage) -> None:
        """End the connection because of an error of the user's code."""
        await self._tell(exc, message)
        await self.state.failed(exc, message)

    async def _tell(self, exc: Exception, message: ChannelMessage) -> None:
        try:
            await self.consumer.on_error(exc, message)
        except Exception:
            logger.exception("%s.on_error failed", self.name)

    def log_failure(self, exc: Exception, message: ChannelMessage) -> None:
        logger.error(
            "%s failed at %r and its connection is closed",
            *(self.name, message.get("type")),
            exc_info=exc,
        )

    # -- sending -------------------------------------------------------------

    async def send(self, event: ChannelMessage) -> None:
        if not await self.sender(event):
            await self.state.not_taken()

    # -- endings ------------------------------------------------------------

    def ends(self, ending: Ending) -> None:
        """Record the cause of the end, unless one is known already."""
        if self.ending is None:
            self.ending = ending

    def interruption(self, code: int | None) -> Ending:
        if self.restarting:
            return Ending(code, "restarting", "server")
        return Ending(code, "messages may have been lost", "layer")

    def _restart(self) -> None:
        """Close as soon as no handler runs, because the process is about to end."""
        self.restarting = True
        self.mailbox.close()

    async def stop_receiving(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])

    async def break_off(self) -> None:
        """Break the connection of a client that does not read, if a send failed for that reason."""
        self.gone = True
        if self.sender.stuck:
            self.ends(Ending(None, "slow", "send_timeout"))
            await self.abort_and_let_notice()

    async def abort_and_let_notice(self) -> None:
        if await self.abort() and self._pump is not None:
            # A server that has noticed logs no complaint.
            await asyncio.wait([self._pump], timeout=NOTICE_TIMEOUT_SECONDS)

    async def abort(self) -> bool:
        """End the TCP connection, which the server may keep without limit; return True if found."""
        return await asyncio.get_running_loop().run_in_executor(None, abort, self.scope)

    def _finish(self, seconds: float) -> None:
        self.sender.close()
        ending = self.ending or Ending(None, "", "server")
        log_ending(self.name, self.scope, ending, seconds, self.state.log_level)

    # -- work ---------------------------------------------------------------

    def employ(self, channel: str, layer: BaseChannelLayer) -> Callable[[Work], Awaitable[None]]:
        """Return the function that handles messages of a shared channel, without a connection."""
        consumer = self.consumer
        self.scope = consumer.scope = {"type": "channel", "channel": channel}
        self.sender.send = cast("Any", _no_client)
        self.layer = consumer.channel_layer = layer
        consumer.channel_name = channel
        return self._do

    async def _do(self, work: Work) -> None:
        """
        Handle one message, and return when the handler has returned.

        Raises the handler's exceptions. A message without a handler is rejected.
        """
        message, self.deliveries = work.message, work.deliveries
        handler = self.kind.handler_for_layer(self.consumer, message)
        if isinstance(handler, str):
            work.reject(str(UnhandledMessage(self.consumer, message.get("type"), handler)))
            return
        try:
            await handler(message)
        except StopConsumer:
            # The handler has ended the consumer with this message.
            return
        except asyncio.CancelledError as exc:
            if _is_cancelled():
                raise
            failure = RuntimeError("a handler awaited a task that was cancelled")
            await self._tell(failure, message)
            raise failure from exc
        except Exception as exc:
            if isinstance(exc, UnhandledMessage) and exc.type == message["type"]:
                work.reject(str(exc))
                return
            await self._tell(exc, message)
            raise


def check_class(consumer_class: type[AsyncConsumer]) -> None:
    """Raise ConsumerStateError for a class with invalid options."""
    kind = consumer_class._fc_kind
    if kind.checked:
        return
    check_names(consumer_class)
    for option in OPTIONS:
        if hasattr(consumer_class, option):
            check_option(consumer_class, option)
    consumer_class._fc_state.check(consumer_class, kind)
    kind.checked = True


def _is_cancelled() -> bool:
    """Return whether the running task itself was cancelled, and not an awaitable of it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _no_connection(event: ChannelMessage) -> None:
    raise ConsumerStateError(
        f"cannot send {event['type']!r}: the consumer has no connection; mount as_asgi(), or set "
        "base_send in a unit test"
    )


async def _no_client(event: ChannelMessage) -> None:
    raise ConsumerStateError(
        f"cannot send {event['type']!r}: a consumer that a worker runs has no client; send to a "
        "channel or a group with self.channel_layer"
    )
