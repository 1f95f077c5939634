"""Base class of middleware."""

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

    Override `__call__` and call `super().__call__({**scope, "user": ...}, receive, send)`. A
    new dict keeps the change from leaking to the outside; the inner application gets a copy
    of it in any case.
    """

    def __init__(self, inner: ASGI3Application) -> None:
        self.inner = inner
        """The inner application."""

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Any:
        """Let the inner application serve the connection, with a copy of the scope."""
        return await self.inner(dict(scope), receive, send)
