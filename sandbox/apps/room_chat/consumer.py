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

    async def connect(self) -> None:
        await self.accept()
        room = self.scope["path_params"]["room_name"].strip()
        try:
            await self.enter(room)
        except InvalidName:
            # After accept(), because a browser hides the reason of a refused handshake.
            await self.close(ROOM_NAME_NOT_ALLOWED, refusal(room))

    async def enter(self, room: str) -> None:
        group = room_group(room)
        await self.channel_layer.group_add(group, self.channel_name)
        self.group = group
        self.author = author_name(self)
        await self.tell_room(f"{self.author} joined {room}")

    async def receive_line(self, line: str) -> None:
        await self.tell_room(f"{self.author}: {line}")

    async def disconnect(self, code: int) -> None:
        # Without a broker there is no way to tell the room.
        with contextlib.suppress(LayerUnavailable):
            await self.tell_room(f"{self.author} left")

    async def tell_room(self, text: str) -> None:
        if self.group is not None:
            message = {"type": "room.message", "text": text}
            await self.channel_layer.group_send(self.group, message)

    async def room_message(self, message: ChannelMessage) -> None:
        await self.send(message["text"])


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
