"""Middleware for WebSocket connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from fast_channels.utils import is_same_domain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_channels.type_defs import (
        ASGI3Application,
        ASGIReceiveCallable,
        ASGISendCallable,
        ChannelScope,
    )

DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class WebsocketDenier:
    """Rejects every WebSocket: the client sees HTTP status 403."""

    @classmethod
    def as_asgi(cls) -> WebsocketDenier:
        """Return an application, like `as_asgi` of a consumer."""
        return cls()

    async def __call__(
        self,
        scope: ChannelScope,  # noqa: ARG002
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        event = await receive()
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})


class OriginValidator:
    """
    Allows only WebSockets that were opened by pages of the given origins.

    Browsers send the origin of the page and scripts cannot change it, so the check stops
    other sites from using a visitor's cookies. The check does not stop programs other than
    browsers, because they can send any origin. An allowed origin is `"*"`, a host
    (`example.com`), a host with its subdomains (`.example.com`), or either with scheme and
    port (`https://.example.com:8443`); the default port of a scheme may be left out. Only
    `"*"` allows connections without an Origin header.
    """

    def __init__(self, application: ASGI3Application, allowed_origins: Iterable[str]) -> None:
        if isinstance(allowed_origins, str):
            raise TypeError(
                f"allowed_origins is the string {allowed_origins!r}; pass a list of origins"
            )
        self.application = application
        self.allowed_origins = list(allowed_origins)
        for pattern in self.allowed_origins:
            _parsed(pattern)

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Any:
        if scope["type"] != "websocket":
            raise ValueError(
                f"OriginValidator was asked to serve {scope['type']!r}; "
                "put it around WebSocket routes only"
            )
        if self.valid_origin(_origin(scope)):
            return await self.application(scope, receive, send)
        return await WebsocketDenier()(scope, receive, send)

    def valid_origin(self, parsed_origin: SplitResult | None) -> bool:
        """Return whether a connection from this origin is allowed; None if it sent no origin."""
        if parsed_origin is None:
            return "*" in self.allowed_origins
        return self.validate_origin(parsed_origin)

    def validate_origin(self, parsed_origin: SplitResult) -> bool:
        """Return whether one of the allowed origins matches this origin."""
        return any(
            pattern == "*" or self.match_allowed_origin(parsed_origin, pattern)
            for pattern in self.allowed_origins
        )

    def match_allowed_origin(self, parsed_origin: SplitResult, pattern: str) -> bool:
        """Return whether a pattern allows this origin."""
        host = parsed_origin.hostname
        if host is None:
            return False
        allowed = _parsed(pattern)
        if allowed.scheme and allowed.scheme != parsed_origin.scheme:
            return False
        if not is_same_domain(host, allowed.hostname or ""):
            return False
        if not allowed.scheme and allowed.port is None:
            return True
        return self.get_origin_port(allowed) == self.get_origin_port(parsed_origin)

    def get_origin_port(self, origin: SplitResult) -> int | None:
        """Return the port of an origin; by default, the one of its scheme."""
        return origin.port if origin.port is not None else DEFAULT_PORTS.get(origin.scheme)


def _parsed(pattern: str) -> SplitResult:
    """Split an allowed origin; raises ValueError, naming it, if it is malformed."""
    try:
        # Without slashes, urlsplit would take the host for a scheme or a path.
        allowed = urlsplit(_ascii(pattern.lower() if "//" in pattern else f"//{pattern.lower()}"))
        # Reading the port checks it.
        _ = allowed.port
    except ValueError as exc:
        raise ValueError(
            f"allowed origin {pattern!r} is malformed ({exc}); "
            "use '*', 'example.com', '.example.com' or 'https://example.com:8443'"
        ) from None
    return allowed


def _ascii(origin: str) -> str:
    """Return an origin as browsers send it: letters beyond ASCII in punycode."""
    if origin.isascii():
        return origin
    scheme, slashes, rest = origin.rpartition("//")
    labels = [label.encode("idna").decode() if label else "" for label in rest.split(".")]
    return f"{scheme}{slashes}{'.'.join(labels)}"


def _origin(scope: ChannelScope) -> SplitResult | None:
    """Return the Origin of a connection; None if it is missing, repeated or malformed."""
    headers: list[tuple[bytes, bytes]] = list(scope.get("headers", ()))
    origins = [value for name, value in headers if name.lower() == b"origin"]
    if len(origins) != 1:
        return None
    try:
        origin = urlsplit(origins[0].decode("ascii").lower())
        # Reading the port checks it.
        _ = origin.port
    except ValueError:
        return None
    return origin
