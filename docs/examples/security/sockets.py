"""Consumers that check the user, the rooms and the end of a session."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from accounts import Session, members, session_of

from fast_channels import AsyncJsonWebsocketConsumer, RateLimit, channel_layers

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

# Close codes of this application. The clients of this library do not reconnect after
# one by themselves: the page has to act first.
SIGN_IN = 4401
NOT_A_MEMBER = 4403


# start of session
class SessionConsumer(AsyncJsonWebsocketConsumer):
    """A connection that ends with its session."""

    channel_layer_alias = "rooms"
    max_frame_size = 4_000
    rate_limit = RateLimit(per_second=5, burst=20)

    session: Session | None = None
    # The task that closes the connection when the session ends.
    watch: asyncio.Task[None] | None = None

    def begin(self, session: Session) -> None:
        """Serve a session until its end."""
        self.session = session
        self.close_after(session.ends - time.time(), "the session is over")

    def close_after(self, seconds: float, reason: str) -> None:
        """Close with SIGN_IN after this time; replaces an earlier call."""
        self.cancel_watch()
        self.watch = asyncio.create_task(self._close_after(seconds, reason))

    async def _close_after(self, seconds: float, reason: str) -> None:
        await asyncio.sleep(seconds)
        await self.close(SIGN_IN, reason)

    def cancel_watch(self) -> None:
        if self.watch is not None:
            self.watch.cancel()

    async def disconnect(self, code: int) -> None:
        self.cancel_watch()


# end of session
# start of room
class RoomConsumer(SessionConsumer):
    """A room in which all members read every message."""

    group = ""

    async def connect(self) -> None:
        session: Session | None = self.scope["session"]
        if session is None:
            await self.refuse(SIGN_IN, "sign in first")
        elif not await self.enters(self.scope["path_params"]["room"], session.user):
            await self.refuse(NOT_A_MEMBER, "this room is not yours")
        else:
            self.begin(session)
            await self.accept()

    async def refuse(self, code: int, reason: str) -> None:
        """Accept, then close: a browser does not tell scripts why a handshake was refused."""
        await self.accept()
        await self.close(code, reason)

    async def enters(self, room: str, user: str) -> bool:
        """Join the room and return True if the user may read it."""
        # Join first: this group is told about a removal that happens during the check.
        await self.channel_layer.group_add(f"user.{user}", self.channel_name)
        if user not in members.get(room, ()):
            return False
        self.group = f"room.{room}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        return True

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        text = content.get("text") if isinstance(content, dict) else None
        if isinstance(text, str) and self.session is not None:
            # The server sets type and author. A client that chose them could call any
            # handler of every connection in the room, under any name.
            message = {"type": "room.message", "user": self.session.user, "text": text}
            await self.channel_layer.group_send(self.group, message)

    async def room_message(self, message: ChannelMessage) -> None:
        await self.send_json({"user": message["user"], "text": message["text"]})

    async def membership_ended(self, message: ChannelMessage) -> None:
        if self.group == f"room.{message['room']}":
            await self.close(NOT_A_MEMBER, "you have been removed")


async def remove_member(room: str, user: str) -> None:
    """Remove a user from a room, and from its open connections."""
    members[room].discard(user)
    message = {"type": "membership.ended", "room": room}
    await channel_layers["rooms"].group_send(f"user.{user}", message)


# end of room
# start of first message
class FirstMessageConsumer(SessionConsumer):
    """
    A client that signs in with its first frame, `{"token": "..."}`.

    The class has no `groups`, because they would be joined before the client signs in.
    """

    # Frames of clients that have not signed in are small.
    max_frame_size = 1_000
    # Seconds to sign in.
    patience = 5.0

    async def connect(self) -> None:
        await self.accept()
        self.close_after(self.patience, "sign in first")

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if self.session is None:
            await self.sign_in(content)
        else:
            await self.send_json({"user": self.session.user, "echo": content})

    async def sign_in(self, content: Any) -> None:
        """Begin the session of the token in the first frame, or close."""
        token = content.get("token") if isinstance(content, dict) else None
        session = session_of(token if isinstance(token, str) else None)
        if session is None:
            await self.close(SIGN_IN, "no such token")
            return
        self.begin(session)
        await self.channel_layer.group_add(f"user.{session.user}", self.channel_name)
        await self.send_json({"signed_in": session.user})

    async def notice(self, message: ChannelMessage) -> None:
        await self.send_json({"notice": message["text"]})


# end of first message
