"""Clients take part while they have a valid JSON Web Token."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import jwt
from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from fast_channels import AsyncJsonWebsocketConsumer, InMemoryChannelLayer, channel_layers

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

channel_layers.register("members", InMemoryChannelLayer())

KEY = os.environ.get("JWT_KEY", "only for this example, and of at least 32 bytes")

# A client must send its token within this time.
TOKEN_TIMEOUT_SECONDS = 5.0


def token_for(user: str, seconds: int = 300) -> str:
    """Return a token, as a login endpoint would."""
    return jwt.encode({"sub": user, "exp": int(time.time()) + seconds}, KEY, algorithm="HS256")


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token. Raises jwt.InvalidTokenError if it is not valid."""
    claims: dict[str, Any] = jwt.decode(
        token, KEY, algorithms=["HS256"], options={"require": ["exp", "sub"]}
    )
    return claims


class MemberConsumer(AsyncJsonWebsocketConsumer):
    """
    A chat of members.

    Clients send `{"token": "..."}` first, and again before that token expires, and
    `{"text": "..."}`. Browsers may offer the first token as sub-protocols, `["bearer", token]`.
    """

    channel_layer_alias = "members"

    user: str | None = None
    """The subject of the token; None before the first token."""

    timer: asyncio.Task[None] | None = None
    """Closes the connection when the token expires."""

    async def connect(self) -> None:
        match self.scope["subprotocols"]:
            case [*_, "bearer", token]:
                await self.accept("bearer")
                await self.admit(token)
            case _:
                await self.accept()
                self.close_in(TOKEN_TIMEOUT_SECONDS, "no token came")

    async def receive_json(self, content: Any, **_: Any) -> None:
        match content:
            case {"token": str(token)}:
                await self.admit(token)
            case {"text": str(text)} if self.user is not None:
                message = {"type": "member.said", "user": self.user, "text": text}
                await self.channel_layer.group_send("members", message)
            case _:
                await self.close(4400, "send a token, then texts")

    async def admit(self, token: str) -> None:
        try:
            claims = claims_of(token)
        except jwt.InvalidTokenError as error:
            await self.close(4401, str(error))
            return
        if self.user not in (None, claims["sub"]):
            await self.close(4401, "the token belongs to another user")
            return
        self.user = claims["sub"]
        self.close_in(claims["exp"] - time.time(), "the token has expired")
        await self.join_group("members")

    async def member_said(self, message: ChannelMessage) -> None:
        await self.send_json({"user": message["user"], "text": message["text"]})

    async def disconnect(self, code: int) -> None:
        self.stop_timer()

    # -- time ---------------------------------------------------------------

    def close_in(self, seconds: float, reason: str) -> None:
        self.stop_timer()
        self.timer = asyncio.create_task(self.close_after(seconds, reason))

    async def close_after(self, seconds: float, reason: str) -> None:
        await asyncio.sleep(seconds)
        await self.close(4401, reason)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


app = FastAPI(
    routes=[WebSocketRoute("/ws/members", MemberConsumer.as_asgi())],
    lifespan=channel_layers.lifespan,
)
