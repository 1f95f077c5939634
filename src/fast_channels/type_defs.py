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
# A message from a layer or an ASGI event: a mapping with a "type".
ChannelMessage: TypeAlias = Mapping[str, Any]
ChannelHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

ASGIReceiveCallable: TypeAlias = Callable[[], Awaitable[ChannelMessage]]
ASGISendCallable: TypeAlias = Callable[[ChannelMessage], Awaitable[None]]

# A capacity for every channel whose name matches: a glob or a compiled pattern.
ChannelCapacityPattern: TypeAlias = str | Pattern[str]
ChannelCapacityDict: TypeAlias = Mapping[ChannelCapacityPattern, int]
CompiledChannelCapacity: TypeAlias = tuple[Pattern[str], int]
CompiledChannelCapacities: TypeAlias = list[CompiledChannelCapacity]

# What a full mailbox does with one message more. See layers/mailbox.py.
Overflow: TypeAlias = Literal["drop_oldest", "drop_newest", "close"]


class ASGIApplicationProtocol(Protocol):
    def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Awaitable[None]: ...


ASGI3Application: TypeAlias = Callable[
    [ChannelScope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]
]
ASGIApplication: TypeAlias = ASGI3Application


class MiddlewareProtocol(Protocol):
    """An ASGI application that is built around another one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any: ...


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
