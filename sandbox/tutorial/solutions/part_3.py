"""Exercise of part 3: an HTTP endpoint that sends to a room."""

from __future__ import annotations

from fastapi import HTTPException

from fast_channels.exceptions import InvalidName
from fast_channels.layers import channel_layers
from sandbox.apps.room_chat.consumer import room_group
from sandbox.main import app


@app.post("/rooms/{room:path}", status_code=204)
async def announce(room: str, text: str) -> None:
    message = {"type": "room.message", "text": text}
    try:
        await channel_layers["chat"].group_send(room_group(room), message)
    except InvalidName as error:
        raise HTTPException(422, str(error)) from error
