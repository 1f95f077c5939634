"""Room chat: the path of the address names the group."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from fast_channels.exceptions import InvalidName, LayerUnavailable
from sandbox.apps.lines import LineConsumer, author_name

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

# Codes from 4000 on belong to the application. The page does not reconnect after one.
ROOM_NAME_NOT_ALLOWED = 4400


class RoomChatConsumer(LineConsumer):
    """Every client in a room reads all lines, and the names of clients that join and leave."""

    channel_layer_alias = "chat"

    # The group of the room, or None until this connection is in one.
    group: str | None = None
    # The name that others in the room see.
    author = ""

    # TODO 3.2: enter the room in the address, or close with a reason

    # TODO 3.3: join the group of the room

    # TODO 3.7: send a line to the room

    # TODO 3.8: tell the room that this guest left

    # TODO 3.4: send a message to the group

    # TODO 3.5: handle messages of the type room.message


def room_group(room: str) -> str:
    """
    Return the group of a room.

    Rooms have any name, groups only some ASCII characters: the others are written as their
    number between periods, "tea room" as "tea.20.room".
    """
    return "room-" + re.sub(r"[^a-zA-Z0-9_-]", lambda found: f".{ord(found[0]):x}.", room)


def refusal(room: str) -> str:
    """Return why `room` was refused, in the 123 bytes that a close frame has for it."""
    shown = ascii(room) if len(ascii(room)) <= 30 else ascii(room)[:26] + "...'"
    return f"room name {shown} is too long: 94 letters or digits fit, fewer of other characters"
