"""The history of the reliable chat over HTTP: lines with their positions and times."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers import channel_layers
from sandbox.apps.showcase.consumer import RELIABLE_GROUP

# Lines for a client that is new, or was away for longer than the history reaches back.
LATEST_LINES = 20

# As many as the layer "queue" keeps.
MAX_LINES = 200

router = APIRouter()


class Line(BaseModel):
    """
    A line of the chat.

    By its position, a client recognises a line that it has received over its socket.
    """

    position: str
    text: str
    sent_at: float | None


@router.get("/reliable/lines")
async def lines(limit: Annotated[int, Query(ge=1, le=MAX_LINES)] = LATEST_LINES) -> list[Line]:
    """Return the latest lines, oldest first."""
    try:
        history = await channel_layers["queue"].history(RELIABLE_GROUP, limit=limit)
    except LayerUnavailable as error:
        raise HTTPException(503, str(error)) from error
    return [
        Line(position=str(position), text=message["message"], sent_at=message.get("sent_at"))
        for position, message in history.messages
    ]
