"""Room chat: the group comes from the path."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fast_channels.exceptions import InvalidName, LayerUnavailable
from sandbox.apps.lines import LineConsumer

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

# Close codes from 4000 on are an application's own. The page does not try again after one.
ROOM_NAME_NOT_ALLOWED = 4400


class RoomChatConsumer(LineConsumer):
    """Everybody in a room reads what anybody types there, and who comes and goes."""

    channel_layer_alias = "chat"

    # Group of the room, or None as long as none was entered.
    group: str | None = None
    # What others in the room call this connection.
    guest = ""

    # TODO 3.2: enter the room that the path names, or close with a reason

    # TODO 3.3: join the group of the room

    # TODO 3.8: send a line to the room

    # TODO 3.9: tell the room that this guest left

    # TODO 3.4: send a message to the group

    # TODO 3.5: handle messages of the type room.message


def refusal(room: str) -> str:
    """Why `room` was refused, in the 123 bytes that a close frame has for it."""
    shown = ascii(room) if len(ascii(room)) <= 30 else ascii(room)[:26] + "...'"
    return f"room name {shown} is not allowed: use up to 94 ASCII letters, digits, -, _ or ."
