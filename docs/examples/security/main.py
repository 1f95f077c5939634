"""Rooms that only their members can read: `uvicorn main:app`, with REDIS_URL set."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Annotated

from accounts import session_of, tickets
from credentials import CookieCredentials, TicketCredentials, TokenCredentials
from fastapi import Cookie, FastAPI, HTTPException
from sockets import FirstMessageConsumer, RoomConsumer
from starlette.routing import BaseRoute, WebSocketRoute

from fast_channels import OriginValidator, RedisPubSubChannelLayer, channel_layers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

channel_layers.register("rooms", RedisPubSubChannelLayer(hosts=[os.environ["REDIS_URL"]]))

# start of routes
ORIGINS = ["https://chat.example.org"]

rooms = RoomConsumer.as_asgi()
routes: list[BaseRoute] = [
    # Pages of this site. A browser sends the cookie from any page, so check the origin.
    WebSocketRoute("/ws/rooms/{room}", OriginValidator(CookieCredentials(rooms), ORIGINS)),
    # Pages that cannot send the cookie, such as pages of another site or an app.
    WebSocketRoute("/ws/tickets/{room}", TicketCredentials(rooms)),
    # Programs send no Origin. This route ignores cookies.
    WebSocketRoute("/ws/services/{room}", TokenCredentials(rooms)),
    WebSocketRoute("/ws/first-message", FirstMessageConsumer.as_asgi()),
]
# end of routes


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Open the layers at the start, and close them with the tickets at the end."""
    async with channel_layers.lifespan(app):
        yield
    await tickets.close()


app = FastAPI(lifespan=lifespan, routes=routes)


# start of ticket
@app.post("/ticket")
async def ticket(session: Annotated[str, Cookie()] = "") -> dict[str, str]:
    """Issue a ticket for one WebSocket to a signed-in user."""
    if session_of(session) is None:
        raise HTTPException(401)
    return {"ticket": await tickets.issue(session)}


# end of ticket
