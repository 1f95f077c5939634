"""Routes shared channels, and the paths of WebSockets, to consumers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fast_channels.consumer.base import ConsumerApplication
from fast_channels.exceptions import InvalidRouter, UnknownChannel
from fast_channels.layers import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_channels.consumer.base import AsyncConsumer
    from fast_channels.type_defs import (
        ASGIApplication,
        ASGIReceiveCallable,
        ASGISendCallable,
        ChannelScope,
    )

# A parameter in the path of a route: "{room_name}", or "{rest:path}".
_PARAMETER = re.compile(r"\{(.*?)\}")
_NAME = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)(:path)?")


class ChannelNameRouter:
    """
    Maps names of channels to consumers: `{"mails": MailConsumer.as_asgi()}`.

    Raises InvalidRouter for an application that cannot handle messages of channels, such as
    a WebSocket consumer, and InvalidName for a name that is not allowed.
    """

    def __init__(self, application_mapping: Mapping[str, ConsumerApplication[Any]]) -> None:
        for channel, application in application_mapping.items():
            names.check("channel", channel)
            if not isinstance(application, ConsumerApplication) or application.scope_type:
                raise InvalidRouter(channel, application)
        self.application_mapping = dict(application_mapping)

    def find(self, channel: str) -> ConsumerApplication[AsyncConsumer]:
        """Return the application for a channel. Raises UnknownChannel."""
        application = self.application_mapping.get(channel)
        if application is None:
            raise UnknownChannel(channel, list(self.application_mapping))
        return application

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve a scope `{"type": "channel", "channel": ...}` as an ASGI application."""
        await self.find(scope["channel"])(scope, receive, send)


@dataclass(frozen=True)
class WebSocketRoute:
    """A path of a `WebSocketRouter`, and its application."""

    path: str
    """The path as it was added, with the names of its parameters."""

    app: ASGIApplication
    """The application that serves connections at this path."""

    pattern: re.Pattern[str]
    """Matches the paths of connections, and finds their parameters."""


class WebSocketRouter:
    """
    Maps paths to applications for WebSockets, usually consumers.

        router = WebSocketRouter()
        router.add_websocket_route("/chat", ChatConsumer.as_asgi())
        router.add_websocket_route("/room/{room_name}", RoomConsumer.as_asgi())
        app.mount("/ws", router)

    `{name}` takes one segment of the path and `{name:path}` all that remain. The consumer finds
    them in `self.scope["path_params"]`. The first route that matches is used. If no route
    matches, the handshake is refused.

    Depends on no framework: mount the router into any application that calls ASGI applications.
    """

    def __init__(self) -> None:
        self.routes: list[WebSocketRoute] = []
        """The routes, in the order in which they are tried."""

    def add_websocket_route(self, path: str, application: ASGIApplication) -> None:
        """Add a route. Raises ValueError for a path that makes no sense."""
        self.routes.append(WebSocketRoute(path, application, _compiled(path)))

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve a connection as an ASGI application."""
        if scope["type"] == "websocket":
            await self._serve(scope, receive, send)
        elif scope["type"] == "http":
            await _refuse_request(send)
        else:
            raise ValueError(
                f"a WebSocketRouter serves WebSockets, not {scope['type']!r}; mount it into an "
                "application"
            )

    async def _serve(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        path = _path_below_mount(scope)
        for route in self.routes:
            if found := route.pattern.fullmatch(path):
                parameters = {**scope.get("path_params", {}), **found.groupdict()}
                await route.app({**scope, "path_params": parameters}, receive, send)
                return
        # Before accept(), this ends the handshake with status 403.
        await send({"type": "websocket.close", "code": 1000, "reason": ""})


def _compiled(path: str) -> re.Pattern[str]:
    """Return the pattern of a path. Raises ValueError if the path makes no sense."""
    if not path.startswith("/"):
        raise ValueError(f"path is {path!r}; begin it with a slash")
    pattern, names, end = "", set[str](), 0
    for parameter in _PARAMETER.finditer(path):
        found = _NAME.fullmatch(parameter[1])
        if found is None:
            raise ValueError(
                f"{parameter[0]!r} in {path!r} is not a parameter; use {{name}} or {{name:path}}"
            )
        name, rest = found.groups()
        if name in names:
            raise ValueError(f"{path!r} has the parameter {name!r} twice")
        names.add(name)
        pattern += re.escape(path[end : parameter.start()])
        pattern += f"(?P<{name}>{'.*' if rest else '[^/]+'})"
        end = parameter.end()
    return re.compile(pattern + re.escape(path[end:]), re.DOTALL)


def _path_below_mount(scope: ChannelScope) -> str:
    """Return the path without the one at which the application is mounted."""
    path: str = scope["path"]
    mounted_at: str = scope.get("root_path", "")
    # Some servers leave out the path at which a proxy has mounted the whole application.
    if path == mounted_at or path.startswith(f"{mounted_at.rstrip('/')}/"):
        return path[len(mounted_at.rstrip("/")) :]
    return path


async def _refuse_request(send: ASGISendCallable) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": b"this address takes WebSockets only"})
