"""A user has a group, and every tab of theirs is in it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute

from fast_channels import AsyncJsonWebsocketConsumer, InMemoryChannelLayer, channel_layers
from fast_channels.middleware import OriginValidator

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

channel_layers.register("users", InMemoryChannelLayer())

# Stands in for the sessions of a login: the value of a cookie, and whose it is.
SESSIONS = {"3f1c": "ada@example.org", "77ab": "bob@example.org"}

# Whose pages may connect: browsers send cookies whatever page opens the connection.
ORIGINS = ["localhost", "127.0.0.1"]


def user_group(user: str) -> str:
    """Return the group of a user. Names of groups have no `@`, so the id is hashed."""
    return f"user.{hashlib.sha256(user.encode()).hexdigest()}"


class NoteConsumer(AsyncJsonWebsocketConsumer):
    """What there is to tell a user, in each of their tabs."""

    channel_layer_alias = "users"

    async def connect(self) -> None:
        session = HTTPConnection(self.scope).cookies.get("session", "")
        user = SESSIONS.get(session)
        if user is not None:
            await self.join_group(user_group(user))
        # In any case: a handshake that is rejected shows a browser no code.
        await self.accept()
        # Looked up again after joining: who logged out before that was told without us.
        if session not in SESSIONS:
            await self.close(4401, "log in first")

    async def note_added(self, message: ChannelMessage) -> None:
        await self.send_json({"note": message["text"]})

    async def user_logged_out(self, message: ChannelMessage) -> None:
        await self.close(4401, "logged out")


app = FastAPI(
    routes=[WebSocketRoute("/ws/notes", OriginValidator(NoteConsumer.as_asgi(), ORIGINS))],
    lifespan=channel_layers.lifespan,
)


@app.post("/users/{user}/notes")
async def add_note(user: str, text: str) -> None:
    await channel_layers["users"].group_send(user_group(user), {"type": "note.added", "text": text})


@app.post("/users/{user}/log-out")
async def log_out_everywhere(user: str) -> None:
    for session in [key for key, owner in SESSIONS.items() if owner == user]:
        del SESSIONS[session]
    await channel_layers["users"].group_send(user_group(user), {"type": "user.logged.out"})
