"""
Types of ASGI and of channel messages.

The event types follow the ASGI specification's "HTTP & WebSocket ASGI Message
Format", version 2.5.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from re import Pattern
from typing import Any, Literal, NotRequired, Protocol, TypeAlias, TypedDict

ChannelScope: TypeAlias = MutableMapping[str, Any]
"""A connection as the server describes it, by the ASGI specification; middleware adds to it."""

ChannelMessage: TypeAlias = Mapping[str, Any]
"""A message from a layer or an ASGI event: a mapping with a "type"."""

ChannelHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Pairs of name and value, with names in lower case."""

# Frameworks disagree on the kind of mapping that an event is. Any lets applications of all
# frameworks be used here, and applications of this library in all frameworks.
ASGIReceiveCallable: TypeAlias = Callable[[], Awaitable[Any]]
"""Waits for the next event of a connection."""

ASGISendCallable: TypeAlias = Callable[[Any], Awaitable[None]]
"""Passes an event to the server."""

ChannelCapacityPattern: TypeAlias = str | Pattern[str]
"""Pattern for names of channels: a glob or a compiled regular expression."""

ChannelCapacityDict: TypeAlias = Mapping[ChannelCapacityPattern, int]
"""Capacities by pattern; the first pattern that matches counts."""

CompiledChannelCapacity: TypeAlias = tuple[Pattern[str], int]
"""A compiled pattern and its capacity."""

CompiledChannelCapacities: TypeAlias = list[CompiledChannelCapacity]
"""All compiled patterns with their capacities, in order."""

Overflow: TypeAlias = Literal["drop_oldest", "drop_newest", "close"]
"""
Policy of a full mailbox for a new message.

The mailbox drops its oldest message, drops the new one, or drops the new one and closes the
connection.
"""


class ASGIApplicationProtocol(Protocol):
    """An ASGI application of version 3."""

    def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Awaitable[None]: ...


ASGI3Application: TypeAlias = Callable[
    [ChannelScope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]
]
"""An ASGI application of version 3, as a callable."""

ASGIApplication: TypeAlias = ASGI3Application
"""An ASGI application; older versions of the specification are not supported."""


class MiddlewareProtocol(Protocol):
    """An ASGI application that is built around another one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any: ...


ChannelApplication: TypeAlias = MiddlewareProtocol | ASGI3Application
"""An application that middleware can wrap."""


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
