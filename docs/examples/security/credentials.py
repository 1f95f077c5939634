"""Middleware that reads a credential and puts its session, or None, into the scope."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from accounts import Session, session_of, tickets

from fast_channels.middleware import BaseMiddleware

if TYPE_CHECKING:
    from fast_channels.type_defs import ASGIReceiveCallable, ASGISendCallable, ChannelScope


class Credentials(BaseMiddleware):
    """Base class: find the session of a connection."""

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Any:
        session = await self.session(scope)
        return await super().__call__({**scope, "session": session}, receive, send)

    async def session(self, scope: ChannelScope) -> Session | None:
        """Return the session of the credential in the handshake."""
        raise NotImplementedError


class CookieCredentials(Credentials):
    """Cookies, for browsers, which send them from any page: put an OriginValidator around."""

    async def session(self, scope: ChannelScope) -> Session | None:
        try:
            morsel = SimpleCookie(header(scope, b"cookie") or "").get("session")
        except CookieError:
            return None
        return session_of(morsel.value if morsel is not None else None)


class TokenCredentials(Credentials):
    """Tokens in a header, for programs: browsers cannot set this header on a WebSocket."""

    async def session(self, scope: ChannelScope) -> Session | None:
        scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
        return session_of(token) if scheme.lower() == "bearer" else None


class TicketCredentials(Credentials):
    """Tickets in the address, for pages of another site: each opens one connection."""

    async def session(self, scope: ChannelScope) -> Session | None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        (ticket,) = query.get("ticket", [])[:1] or [""]
        return await tickets.redeem(ticket)


def header(scope: ChannelScope, name: bytes) -> str | None:
    """Return a header of the handshake; None unless it occurs exactly once."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return values[0].decode("latin-1") if len(values) == 1 else None
