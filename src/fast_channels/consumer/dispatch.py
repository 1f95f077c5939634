"""Which handler a message reaches, and what becomes of an error in it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from fast_channels.exceptions import StopConsumer, UnhandledMessage
from fast_channels.layers.lanes import Prepared
from fast_channels.layers.mailbox import Notice

from .handlers import get_handler_name, is_handler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.work import Work
    from fast_channels.type_defs import ChannelMessage

logger = logging.getLogger("fast_channels.consumer")

# Handlers of what only the layer itself may say.
NOTICES = frozenset({"layer_gap", "layer_overflow"})

# Different message types that are remembered per consumer class. Senders choose
# them, and one handler has several: `a.b` and `a_b`.
ROUTES = 1000

# Different message types without a handler that are logged per consumer class.
LOGGED_TYPES = 100


class Dispatcher:
    """The half of AsyncConsumer that knows handlers and nothing of connections."""

    # What to do when messages may have been lost, since the broker was away:
    # hand `layer.gap` to the method layer_gap, or close the connection.
    on_gap: ClassVar[Literal["event", "close"]] = "event"

    # Set before the first handler runs, if there is a channel_layer_alias; else None, which
    # its type does not say: those who have one need not ask each time.
    channel_layer: BaseChannelLayer = cast("BaseChannelLayer", None)
    # Set before each handler that a worker calls: how often the message has been
    # handed out, 1 the first time.
    deliveries: int

    # What the library itself defines on this class. A message must not reach it.
    _reserved: ClassVar[frozenset[str]] = frozenset()
    # Methods that were found to be handlers, by name.
    _handlers: ClassVar[dict[str, bool]] = {}
    # Those that messages from the layer reach without further questions, by type.
    _routes: ClassVar[dict[str, str]] = {}
    # Types without a handler that were logged already.
    _logged_types: ClassVar[set[str]] = set()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = [base for base in cls.__mro__ if base.__module__.startswith("fast_channels.")]
        cls._reserved = frozenset(
            name for base in own for name in (*dir(base), *inspect.get_annotations(base))
        )
        cls._handlers = {}
        cls._routes = {}
        cls._logged_types = set()

    async def dispatch(self, message: ChannelMessage) -> None:
        """Call the handler of an event or message; raises UnhandledMessage if there is none."""
        name = get_handler_name(message)
        if not self._handles(name):
            raise UnhandledMessage(self, message["type"])
        await getattr(self, name)(message)

    def _route(self, message: ChannelMessage) -> Callable[[ChannelMessage], Awaitable[None]] | None:
        """Return the handler of a message if messages of its type have reached it before."""
        if isinstance(message, Prepared):
            # Its type is that of an ASGI event, which a message may have, too.
            return None
        try:
            name = self._routes.get(message.get("type", ""))
        except TypeError:
            # No string, but something that cannot be looked for.
            return None
        return getattr(self, name) if name is not None else None

    async def _dispatch_message(self, message: ChannelMessage) -> None:
        if isinstance(message, Prepared):
            try:
                await self._forward(message)
            except StopConsumer:
                raise
            except (asyncio.CancelledError, Exception) as exc:  # noqa: BLE001 - judged there
                await self._raised(exc, message, from_layer=True)
        elif isinstance(message, Notice):
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
        reason = self._refusal(message)
        if reason is None:
            return True
        self._skip(message.get("type"), reason)
        return False

    def _refusal(self, message: ChannelMessage) -> str | None:
        """Return why a message from the layer reaches no handler; None if it does."""
        try:
            name = get_handler_name(message)
        except ValueError:
            return "skipped the unusable"
        # A dispatch of your own may handle types for which there is no method.
        own_dispatch = type(self).dispatch is not Dispatcher.dispatch
        if name in self._reserved or name in NOTICES:
            return "keeps for itself the"
        if not own_dispatch and not self._handles(name):
            return "has no handler for"
        if not own_dispatch and len(self._routes) < ROUTES:
            self._routes[message["type"]] = name
        return None

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

    async def _forward(self, event: Prepared) -> None:
        """Send what the fast lane has prepared; only some kinds of connection have one."""
        raise NotImplementedError

    async def _interrupted(self) -> None:
        """Messages may have been lost, and `on_gap` is to close."""
        raise NotImplementedError

    # -- work ---------------------------------------------------------------

    async def _do(self, work: Work) -> None:
        """
        Let the handler do the work; it is done when this returns. Raises what it raised.

        What no handler is there for is rejected.
        """
        message, self.deliveries = work.message, work.deliveries
        reason = self._refusal(message)
        if reason is not None:
            work.reject(str(UnhandledMessage(self, message.get("type"), reason)))
            return
        try:
            await self.dispatch(message)
        except StopConsumer:
            # It wanted to end, and has with this message.
            return
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            failure = RuntimeError("a handler awaited a task that was cancelled")
            await self._tell_of(failure, message)
            raise failure from exc
        except Exception as exc:
            if isinstance(exc, UnhandledMessage) and exc.type == message["type"]:
                work.reject(str(exc))
                return
            await self._tell_of(exc, message)
            raise

    # -- errors -------------------------------------------------------------

    async def on_error(self, exc: Exception, message: ChannelMessage) -> None:
        """Called when a handler has raised, before the connection is closed for it."""

    async def _guarded(self, message: ChannelMessage, *, from_layer: bool = False) -> None:
        """Dispatch, and let an error end this connection and nothing else."""
        try:
            await self.dispatch(message)
        except StopConsumer:
            raise
        except (asyncio.CancelledError, Exception) as exc:  # noqa: BLE001 - judged there
            await self._raised(exc, message, from_layer=from_layer)

    async def _raised(
        self, exc: BaseException, message: ChannelMessage, *, from_layer: bool
    ) -> None:
        """Judge what a handler has raised; returns if the connection goes on nevertheless."""
        if isinstance(exc, Exception):
            if from_layer and isinstance(exc, UnhandledMessage) and exc.type == message["type"]:
                self._skip(exc.type, "has no handler for")
                return
            await self._failed(exc, message)
        else:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise exc
            # Not this connection was cancelled, but something its handler awaited.
            failure = RuntimeError("a handler awaited a task that was cancelled")
            await self._failed(failure, message)
        raise StopConsumer from exc

    async def _failed(self, exc: Exception, message: ChannelMessage) -> None:
        await self._tell_of(exc, message)
        self._log_failure(exc, message)

    async def _tell_of(self, exc: Exception, message: ChannelMessage) -> None:
        try:
            await self.on_error(exc, message)
        except Exception:
            logger.exception("%s.on_error failed", type(self).__name__)

    def _log_failure(self, exc: Exception, message: ChannelMessage) -> None:
        logger.error(
            "%s failed at %r and its connection is closed",
            type(self).__name__,
            message.get("type"),
            exc_info=exc,
        )
