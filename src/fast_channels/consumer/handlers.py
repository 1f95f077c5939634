"""Handlers of messages, and the values that all connections of a class share."""

from __future__ import annotations

import functools
import inspect
import logging
import types
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeAlias

from fast_channels.exceptions import ConsumerStateError, UnhandledMessage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.type_defs import ChannelMessage

    from .base import AsyncConsumer

    Handler: TypeAlias = Callable[[ChannelMessage], Awaitable[None]]

logger = logging.getLogger("fast_channels.consumer")

# Every name that the library needs on a consumer for itself begins with this.
INTERNAL_PREFIX = "_fc_"

# Handlers of messages that only the layer may write.
NOTICE_HANDLERS = frozenset({"layer_gap", "layer_overflow"})

# Public names that a class may use for its own handlers: the library offers them, but neither
# reads nor calls them itself.
OFFERED = frozenset({"body", "deliveries", "disconnected", "join_group", "leave_group"})

# Methods that the library calls on a consumer. It calls no others.
HOOKS = frozenset(
    {
        *("connect", "receive", "receive_json", "disconnect", "handle", "dispatch", "on_error"),
        *("websocket_connect", "websocket_receive", "websocket_disconnect"),
        *("http_request", "http_disconnect", "not_recovered", "forwarded_frame"),
        *("decode_json", "encode_json", "on_invalid_json", "on_binary_frame"),
        *("accept", "close"),
    }
)

# Message types remembered per consumer class. Senders choose types, and one handler may
# have several: `a.b` and `a_b`.
MAX_ROUTES = 1000

# Message types without a handler that are logged per consumer class.
MAX_LOGGED_TYPES = 100

# Class attributes that are not methods: reading one runs code.
COMPUTED = (
    property,
    functools.cached_property,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
)


def get_handler_name(message: ChannelMessage) -> str:
    """
    Return the name of the method that handles a message: its type, with dots as underscores.

    Raises ValueError for a type that is missing, or that would name a private method.
    """
    type_ = message.get("type")
    if not isinstance(type_, str) or not type_:
        raise ValueError(f"message type is {type_!r}; every message needs a string as its type")
    name = type_.replace(".", "_")
    if name.startswith("_"):
        raise ValueError(f"message type {type_!r} begins with an underscore; use another")
    return name


class ForwardedFrame(dict[str, Any]):
    """The event that a message in `forwards` becomes. All members share it: do not change it."""


class ConsumerKind:
    """
    Values that all connections of one consumer class share.

    A message from a layer reaches only handlers of the user's own classes. The class looks up
    each message type once.
    """

    def __init__(self, consumer_class: type[AsyncConsumer]) -> None:
        self.consumer_class = consumer_class
        library = [base for base in consumer_class.__mro__ if is_library(base)]
        # Names that the library itself defines: messages from a layer never reach them.
        self.reserved = frozenset(
            name for base in library for name in (*dir(base), *inspect.get_annotations(base))
        ) - {name for name in OFFERED if self.has_own(name)}
        # Handlers that events and messages have reached: message type -> name of the method.
        self.known: dict[str, str] = {}
        # The handlers in `known` that messages from a layer may reach.
        self.routes: dict[str, str] = {}
        # True once the class has been checked.
        self.checked = False
        # The connections that count for max_connections, by id().
        self.connections: set[int] = set()
        self._logged_types: set[str] = set()
        self._forwards: frozenset[str] | None = None

    # -- handlers -----------------------------------------------------------

    def handler(self, consumer: AsyncConsumer, message: ChannelMessage) -> Handler | None:
        """
        Return the handler of an event or message; None if the consumer has none.

        Raises ValueError for a message without a usable type.
        """
        name = get_handler_name(message)
        found = find_class_attribute(type(consumer), name)
        if isinstance(found, COMPUTED):
            return None
        method: Any = getattr(consumer, name, None)
        if not _takes_a_message(method):
            return None
        if not inspect.iscoroutinefunction(inspect.unwrap(method)):
            return functools.partial(_call, consumer, method)
        if found is not None and name not in vars(consumer) and len(self.known) < MAX_ROUTES:
            self.known[message["type"]] = name
        handler: Handler = method
        return handler

    def handler_for_layer(self, consumer: AsyncConsumer, message: ChannelMessage) -> Handler | str:
        """Return the handler of a message from a layer, or the reason why none may handle it."""
        try:
            name = get_handler_name(message)
        except ValueError:
            return "skipped the unusable"
        if name in self.reserved or name in NOTICE_HANDLERS:
            return "keeps for itself the"
        if self.has_own("dispatch"):
            # The custom dispatch may handle types for which the consumer has no method.
            return consumer.dispatch
        handler = self.handler(consumer, message)
        if handler is None:
            return "has no handler for"
        if message["type"] in self.known:
            self.routes[message["type"]] = name
        return handler

    def has_own(self, name: str) -> bool:
        """Return whether the user's classes define an attribute, and not the library's."""
        mro = self.consumer_class.__mro__
        owner = next((base for base in mro if name in vars(base)), object)
        return owner is not object and not is_library(owner)

    def skip(self, layer: BaseChannelLayer, unhandled: UnhandledMessage) -> None:
        """Count a message that is not handled, and log the first of each type."""
        layer.count_unknown_type()
        logged, key = self._logged_types, repr(unhandled.type)[:100]
        if len(logged) < MAX_LOGGED_TYPES and key not in logged:
            logged.add(key)
            logger.warning("%s; it is skipped", unhandled)

    # -- frames made of messages --------------------------------------------

    @property
    def forwards(self) -> frozenset[str]:
        """The message types in `forwards`. Not to be read before the class is checked."""
        if self._forwards is None:
            self._forwards = frozenset(getattr(self.consumer_class, "forwards", ()))
        return self._forwards

    def is_forwarded(self, message: ChannelMessage) -> bool:
        type_ = message.get("type")
        return isinstance(type_, str) and type_ in self.forwards

    def frame(self, message: ChannelMessage) -> ForwardedFrame:
        """
        Return the frame of a message in `forwards`. Raises an error if it cannot become a
        frame.
        """
        make: Any = self.consumer_class
        frame: object = make.forwarded_frame(message)
        if isinstance(frame, str):
            return ForwardedFrame(type="websocket.send", text=frame)
        if isinstance(frame, bytes):
            return ForwardedFrame(type="websocket.send", bytes=frame)
        raise TypeError(f"its frame is a {type(frame).__name__}, neither text nor bytes")

    def prepare(self, message: ChannelMessage) -> ForwardedFrame | None:
        """
        Return the event that all members of this class share; None for a copy each.

        A message that cannot become a frame is copied, and the consumer reports the error when
        it handles the message.
        """
        if not self.is_forwarded(message):
            return None
        try:
            return self.frame(message)
        except Exception:  # noqa: BLE001 - any error of a user's forwarded_frame
            return None


def check_forwards(owner: type, kind: ConsumerKind) -> None:
    """Raise ConsumerStateError unless a consumer class can forward the types in `forwards`."""
    forwards: object = getattr(owner, "forwards", ())
    what = f"{owner.__name__}.forwards is {forwards!r}"
    if isinstance(forwards, str) or not isinstance(forwards, Collection):
        raise ConsumerStateError(f"{what}; give a tuple of message types")
    if forwards and getattr(owner, "channel_layer_alias", None) is None:
        raise ConsumerStateError(f"{what}, but there is no layer; set channel_layer_alias")
    listed: Collection[Any] = forwards
    for type_ in listed:
        try:
            handler = get_handler_name({"type": type_})
        except ValueError as exc:
            raise ConsumerStateError(f"{what}; {exc}") from None
        if handler in kind.reserved or handler in NOTICE_HANDLERS:
            raise ConsumerStateError(f"{what}; {type_!r} is the library's own, use another type")
        if hasattr(owner, handler):
            raise ConsumerStateError(
                f"{what}, so that {handler}() is never called; remove one of the two"
            )


def check_names(owner: type) -> None:
    """Raise ConsumerStateError if a class uses a name of the library for another kind of value."""
    for base in owner.__mro__:
        if is_library(base):
            continue
        for name, value in vars(base).items():
            if name.startswith(INTERNAL_PREFIX) and name != "_fc_kind":
                raise ConsumerStateError(
                    f"{base.__name__}.{name} is {value!r}; the prefix {INTERNAL_PREFIX} is the "
                    "library's own, use another name"
                )
            if name in HOOKS and hasattr(owner, name) and not callable(getattr(owner, name)):
                raise ConsumerStateError(
                    f"{base.__name__}.{name} is {value!r}; the library calls this method, use "
                    "another name for a value of your own"
                )


def is_library(base: type) -> bool:
    return base.__module__.startswith("fast_channels.")


def find_class_attribute(owner: type, name: str) -> Any:
    """Return an attribute of a class as it was defined; None if the class has none."""
    return next((vars(base)[name] for base in owner.__mro__ if name in vars(base)), None)


def _takes_a_message(method: Any) -> bool:
    if not callable(method) or isinstance(method, type):
        return False
    try:
        inspect.signature(method).bind("message")
    except TypeError:
        return False
    except ValueError:
        # Callables written in C may have no signature.
        return True
    return True


async def _call(consumer: AsyncConsumer, method: Callable[[Any], Any], message: Any) -> None:
    """Call a handler that is not a coroutine function, and await its result."""
    result = method(message)
    if not inspect.isawaitable(result):
        raise UnhandledMessage(consumer, message["type"])
    await result
