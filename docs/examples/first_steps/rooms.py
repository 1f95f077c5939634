"""Chat rooms: every client in a room reads every message."""

from typing import Any

from fast_channels import AsyncWebsocketConsumer


class RoomConsumer(AsyncWebsocketConsumer):
    channel_layer_alias = "rooms"

    async def connect(self) -> None:
        self.room = f"room.{self.scope['path_params']['room']}"
        await self.join_group(self.room)
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        message = {"type": "room.message", "text": text_data or ""}
        await self.channel_layer.group_send(self.room, message)

    async def room_message(self, message: dict[str, Any]) -> None:
        await self.send(message["text"])
