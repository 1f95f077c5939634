"""python-socketio, with a Socket.IO room instead of a group."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import socketio

from .settings import GROUP, LAYER, REDIS_URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EVENT = "message"

manager = None if LAYER == "memory" else socketio.AsyncRedisManager(REDIS_URL)
server = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=manager,
    transports=["websocket"],
    cors_allowed_origins="*",
)


@server.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    if "purpose=room" in environ["QUERY_STRING"]:
        await server.enter_room(sid, GROUP)


@server.on("echo")
async def echo(sid: str, text: str) -> None:
    await server.emit(EVENT, text, to=sid)


@server.on("publish")
async def publish(sid: str, text: str) -> None:  # noqa: ARG001
    await server.emit(EVENT, text, room=GROUP)


app = socketio.ASGIApp(server)


class Publisher:
    def __init__(self, sending: Any) -> None:
        self._sending = sending

    async def group_send(self, group: str, message: dict[str, str]) -> None:
        await self._sending.emit(EVENT, message["text"], room=group)


@contextlib.asynccontextmanager
async def open_layer() -> AsyncIterator[Publisher]:
    yield Publisher(socketio.AsyncRedisManager(REDIS_URL, write_only=True))
