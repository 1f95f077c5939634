"""Every tab of a user is in the group of that user."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute

from fast_channels import (
    AsyncJsonWebsocketConsumer,
    InMemoryChannelLayer,
    OriginValidator,
    channel_layers,
)

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

channel_layers.register("users", InMemoryChannelLayer())

# Stands in for the sessions of a login: values of a cookie, and their users.
SESSIONS = {"3f1c": "ada@example.org", "77ab": "bob@example.org"}

# Pages of these hosts may connect. Browsers also send cookies for pages of other hosts.
ORIGINS = ["localhost", "127.0.0.1"]


def user_group(user: str) -> str:
    """Return the group of a user. The id is hashed, because group names must not contain `@`."""
    return f"user.{hashlib.sha256(user.encode()).hexdigest()}"


class NoteConsumer(AsyncJsonWebsocketConsumer):
    """Sends the notes for a user to each of their tabs."""

    channel_layer_alias = "users"

    async def connect(self) -> None:
        session = HTTPConnection(self.scope).cookies.get("session", "")
        user = SESSIONS.get(session)
        if user is not None:
            await self.join_group(user_group(user))
        # Accept in any case: after a rejected handshake, a browser does not show the code.
        await self.accept()
        # Check again after joining: a log-out before that did not reach this connection.
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
