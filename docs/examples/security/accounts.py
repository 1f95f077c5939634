"""Sessions, members of rooms, and tickets. In your application, these are tables."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass

from redis.asyncio import Redis

# Seconds. A page asks for its ticket just before it connects.
TICKET_LIFETIME = 30


@dataclass(frozen=True)
class Session:
    """The session of a user, valid until `ends` (Unix time in seconds)."""

    user: str
    ends: float


# Sessions by the secret that the client has, in a cookie or as a token.
sessions: dict[str, Session] = {}

# Users that may read a room, by room.
members: dict[str, set[str]] = {}


def session_of(secret: str | None) -> Session | None:
    """Return the session of a secret; None without one, or after its end."""
    session = sessions.get(secret or "")
    return session if session is not None and session.ends > time.time() else None


class Tickets:
    """
    Secrets that open one connection, within half a minute.

    Tickets are in Redis because one process may issue a ticket and another
    process may serve the connection.
    """

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, decode_responses=True)

    async def issue(self, secret: str) -> str:
        """Return a ticket for the session of a secret."""
        ticket = secrets.token_urlsafe(24)
        await self._redis.set(f"ticket:{ticket}", secret, ex=TICKET_LIFETIME)
        return ticket

    async def redeem(self, ticket: str) -> Session | None:
        """Return the session of a ticket that was not used yet; None for any other."""
        secret = await self._redis.getdel(f"ticket:{ticket}")
        return session_of(secret if isinstance(secret, str) else None)

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._redis.aclose()


tickets = Tickets(os.environ["REDIS_URL"])
