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

    async def connect(self) -> None:
        await self.accept()
        room = self.scope["path_params"]["room_name"]
        try:
            await self.enter(room)
        except InvalidName:
            # After accept(): a browser hides the reason of a handshake that was refused.
            await self.close(ROOM_NAME_NOT_ALLOWED, refusal(room))

    async def enter(self, room: str) -> None:
        group = f"room-{room}"
        await self.channel_layer.group_add(group, self.channel_name)
        self.group = group
        self.guest = f"guest-{self.channel_name[-4:].lower()}"
        await self.tell_room(f"{self.guest} joined {room}")

    async def receive_line(self, line: str) -> None:
        await self.tell_room(f"{self.guest}: {line}")

    async def disconnect(self, code: int) -> None:
        # Without a broker nobody can be told.
        with contextlib.suppress(LayerUnavailable):
            await self.tell_room(f"{self.guest} left")

    async def tell_room(self, text: str) -> None:
        if self.group is not None:
            message = {"type": "room.message", "text": text}
            await self.channel_layer.group_send(self.group, message)

    async def room_message(self, message: ChannelMessage) -> None:
        await self.send(message["text"])


def refusal(room: str) -> str:
    """Why `room` was refused, in the 123 bytes that a close frame has for it."""
    shown = ascii(room) if len(ascii(room)) <= 30 else ascii(room)[:26] + "...'"
    return f"room name {shown} is not allowed: use up to 94 ASCII letters, digits, -, _ or ."
