"""Who is who, and who may read what: stands in for the tables of your application."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass

from redis.asyncio import Redis

# Seconds within which a ticket is used: the page asks for it just before it connects.
TICKET_LIFETIME = 30


@dataclass(frozen=True)
class Session:
    """That somebody is signed in, and until when (Unix time in seconds)."""

    user: str
    ends: float


# By the secret that the client has, in a cookie or as a token.
sessions: dict[str, Session] = {}

# Users by the rooms that they may read.
members: dict[str, set[str]] = {}


def session_of(secret: str | None) -> Session | None:
    """Return the session of a secret; None if there is none, or it is over."""
    session = sessions.get(secret or "")
    return session if session is not None and session.ends > time.time() else None


class Tickets:
    """
    Secrets that are good for one connection, and for half a minute.

    They are in Redis, since the process that serves the connection need not be
    the one that gave the ticket.
    """

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, decode_responses=True)

    async def issue(self, secret: str) -> str:
        """Return a ticket for the session of a secret."""
        ticket = secrets.token_urlsafe(24)
        await self._redis.set(f"ticket:{ticket}", secret, ex=TICKET_LIFETIME)
        return ticket

    async def redeem(self, ticket: str) -> Session | None:
        """Return the session, the first time; None for any other ticket."""
        secret = await self._redis.getdel(f"ticket:{ticket}")
        return session_of(secret if isinstance(secret, str) else None)

    async def close(self) -> None:
        """Let go of the server."""
        await self._redis.aclose()


tickets = Tickets(os.environ["REDIS_URL"])
