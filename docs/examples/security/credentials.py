"""How a credential gets to a WebSocket: each class puts a session, or None, into the scope."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from accounts import Session, session_of, tickets

from fast_channels.middleware import BaseMiddleware

if TYPE_CHECKING:
    from fast_channels.type_defs import ASGIReceiveCallable, ASGISendCallable, ChannelScope


class Credentials(BaseMiddleware):
    """Finds out whose connection it is."""

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Any:
        session = await self.session(scope)
        return await super().__call__({**scope, "session": session}, receive, send)

    async def session(self, scope: ChannelScope) -> Session | None:
        """Return the session that the handshake shows."""
        raise NotImplementedError


class CookieCredentials(Credentials):
    """For browsers. A cookie travels by itself, so this needs an OriginValidator around it."""

    async def session(self, scope: ChannelScope) -> Session | None:
        try:
            morsel = SimpleCookie(header(scope, b"cookie") or "").get("session")
        except CookieError:
            return None
        return session_of(morsel.value if morsel is not None else None)


class TokenCredentials(Credentials):
    """For programs: browsers cannot set this header on a WebSocket."""

    async def session(self, scope: ChannelScope) -> Session | None:
        scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
        return session_of(token) if scheme.lower() == "bearer" else None


class TicketCredentials(Credentials):
    """For browsers of another site: what stands in the address may be used once."""

    async def session(self, scope: ChannelScope) -> Session | None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        (ticket,) = query.get("ticket", [])[:1] or [""]
        return await tickets.redeem(ticket)


def header(scope: ChannelScope, name: bytes) -> str | None:
    """Return a header of the handshake; None unless there is exactly one."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return values[0].decode("latin-1") if len(values) == 1 else None
