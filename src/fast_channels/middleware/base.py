"""The shape of a middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_channels.type_defs import (
        ASGI3Application,
        ASGIReceiveCallable,
        ASGISendCallable,
        ChannelScope,
    )


class BaseMiddleware:
    """
    Base of middleware that adds to the scope.

    Override `__call__` and call `super().__call__({**scope, "user": ...}, receive,
    send)`: with a scope of its own, so that nothing leaks to the outside. The
    application inside gets a copy in any case.
    """

    def __init__(self, inner: ASGI3Application) -> None:
        # The application inside.
        self.inner = inner

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Any:
        """Let the application inside serve the connection, with a copy of the scope."""
        return await self.inner(dict(scope), receive, send)
