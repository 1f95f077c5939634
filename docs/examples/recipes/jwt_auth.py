"""Only who has a valid JSON Web Token takes part, and only while it is valid."""

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

# Seconds that a client has for its first frame.
PATIENCE = 5.0


def token_for(user: str, seconds: int = 300) -> str:
    """Make what a login endpoint would hand out."""
    return jwt.encode({"sub": user, "exp": int(time.time()) + seconds}, KEY, algorithm="HS256")


def claims_of(token: str) -> dict[str, Any]:
    """Return what a token says; raises jwt.InvalidTokenError if it is not to be believed."""
    claims: dict[str, Any] = jwt.decode(
        token, KEY, algorithms=["HS256"], options={"require": ["exp", "sub"]}
    )
    return claims


class MemberConsumer(AsyncJsonWebsocketConsumer):
    """
    A chat of members. In: `{"token": "..."}`, first and before the last one expires, and
    `{"text": "..."}`. Browsers may offer the first token as sub-protocols, `["bearer", token]`.
    """

    channel_layer_alias = "members"

    # Who it is; None until a token has said so.
    user: str | None = None
    # Closes the connection when its time is over.
    timer: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        match self.scope["subprotocols"]:
            case [*_, "bearer", token]:
                await self.accept("bearer")
                await self.admit(token)
            case _:
                await self.accept()
                self.close_in(PATIENCE, "no token came")

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
            await self.close(4401, "the token is somebody else's")
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
