"""Consumers that know whom they serve, what those may read, and for how long."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from accounts import Session, members, session_of

from fast_channels import AsyncJsonWebsocketConsumer, channel_layers
from fast_channels.consumer import RateLimit

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

# Close codes of the application's own. The clients of this library do not come
# back after one by themselves: the page first has to do something.
SIGN_IN = 4401
NOT_A_MEMBER = 4403


# start of session
class SessionConsumer(AsyncJsonWebsocketConsumer):
    """A connection that ends when its session does."""

    channel_layer_alias = "rooms"
    max_frame_size = 4_000
    rate_limit = RateLimit(per_second=5, burst=20)

    session: Session | None = None
    # Closes the connection in time.
    watch: asyncio.Task[None] | None = None

    def begin(self, session: Session) -> None:
        """Serve a session, until it is over."""
        self.session = session
        self.close_after(session.ends - time.time(), "the session is over")

    def close_after(self, seconds: float, reason: str) -> None:
        """Close with SIGN_IN, instead of what was planned before."""
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
    """What members of a room write, members read."""

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
        """Accept and close: a browser tells no script why a handshake was refused."""
        await self.accept()
        await self.close(code, reason)

    async def enters(self, room: str, user: str) -> bool:
        """Join the room, if the user may."""
        # First: who is removed between the question and the answer hears of it here.
        await self.channel_layer.group_add(f"user.{user}", self.channel_name)
        if user not in members.get(room, ()):
            return False
        self.group = f"room.{room}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        return True

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        text = content.get("text") if isinstance(content, dict) else None
        if isinstance(text, str) and self.session is not None:
            # The type and the author are ours: a client that chose them could call
            # any handler of everybody in the room, in anybody's name.
            message = {"type": "room.message", "user": self.session.user, "text": text}
            await self.channel_layer.group_send(self.group, message)

    async def room_message(self, message: ChannelMessage) -> None:
        await self.send_json({"user": message["user"], "text": message["text"]})

    async def membership_ended(self, message: ChannelMessage) -> None:
        if self.group == f"room.{message['room']}":
            await self.close(NOT_A_MEMBER, "you have been removed")


async def remove_member(room: str, user: str) -> None:
    """Let a user read a room no longer, also on connections that are open."""
    members[room].discard(user)
    message = {"type": "membership.ended", "room": room}
    await channel_layers["rooms"].group_send(f"user.{user}", message)


# end of room
# start of first message
class FirstMessageConsumer(SessionConsumer):
    """
    The first frame is `{"token": "..."}`; until then the client is nobody.

    It has no `groups`: those of the class are joined before anybody has signed in.
    """

    # Frames of those who are nobody yet are few and small.
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
        """Take the first frame for a token."""
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
