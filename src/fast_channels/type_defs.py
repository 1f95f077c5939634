"""
Types of ASGI and of channel messages.

The event types follow the ASGI specification's "HTTP & WebSocket ASGI Message
Format", version 2.5.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from re import Pattern
from typing import Any, Literal, NotRequired, Protocol, TypeAlias, TypedDict

# What a server tells of a connection, by the ASGI specification; middleware adds to it.
ChannelScope: TypeAlias = MutableMapping[str, Any]
# A message from a layer or an ASGI event: a mapping with a "type".
ChannelMessage: TypeAlias = Mapping[str, Any]
# Pairs of name and value, names in lower case.
ChannelHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

# Waits for the next event of a connection: a mapping, but frameworks do not agree on which
# kind, and applications of all of them are to be accepted here, and ours by all of them.
ASGIReceiveCallable: TypeAlias = Callable[[], Awaitable[Any]]
# Hands an event to the server, likewise.
ASGISendCallable: TypeAlias = Callable[[Any], Awaitable[None]]

# Names of channels: a glob or a compiled pattern.
ChannelCapacityPattern: TypeAlias = str | Pattern[str]
# Such patterns with their capacities; the first that matches counts.
ChannelCapacityDict: TypeAlias = Mapping[ChannelCapacityPattern, int]
# One of them, compiled.
CompiledChannelCapacity: TypeAlias = tuple[Pattern[str], int]
# All of them, in their order.
CompiledChannelCapacities: TypeAlias = list[CompiledChannelCapacity]

# What a full mailbox does with one message more: it forgets the one that waited longest,
# refuses the new one, or refuses it and closes the connection.
Overflow: TypeAlias = Literal["drop_oldest", "drop_newest", "close"]


class ASGIApplicationProtocol(Protocol):
    """An ASGI application, of version 3."""

    def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Awaitable[None]: ...


# The same as a type of callables.
ASGI3Application: TypeAlias = Callable[
    [ChannelScope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]
]
# The only kind there is: an older version of the specification is not served.
ASGIApplication: TypeAlias = ASGI3Application


class MiddlewareProtocol(Protocol):
    """An ASGI application that is built around another one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any: ...


# What middleware can be put around.
ChannelApplication: TypeAlias = MiddlewareProtocol | ASGI3Application


class WebSocketConnectEvent(TypedDict):
    type: Literal["websocket.connect"]


class WebSocketAcceptEvent(TypedDict):
    type: Literal["websocket.accept"]
    subprotocol: str | None
    headers: ChannelHeaders


class WebSocketReceiveEvent(TypedDict):
    """Carries `text` or `bytes`; some servers send both keys, one of them None."""

    type: Literal["websocket.receive"]
    text: NotRequired[str | None]
    bytes: NotRequired[bytes | None]


class WebSocketSendEvent(TypedDict):
    type: Literal["websocket.send"]
    text: NotRequired[str | None]
    bytes: NotRequired[bytes | None]


class WebSocketCloseEvent(TypedDict):
    type: Literal["websocket.close"]
    code: NotRequired[int]
    reason: NotRequired[str | None]


class WebSocketDisconnectEvent(TypedDict):
    type: Literal["websocket.disconnect"]
    code: NotRequired[int | None]
    reason: NotRequired[str | None]


class HttpRequestEvent(TypedDict):
    type: Literal["http.request"]
    body: NotRequired[bytes]
    more_body: NotRequired[bool]


class HttpResponseStartEvent(TypedDict):
    type: Literal["http.response.start"]
    status: int
    headers: NotRequired[ChannelHeaders]


class HttpResponseBodyEvent(TypedDict):
    type: Literal["http.response.body"]
    body: NotRequired[bytes]
    more_body: NotRequired[bool]


class HttpDisconnectEvent(TypedDict):
    type: Literal["http.disconnect"]
