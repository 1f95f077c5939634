"""Two chats, notifications, analytics: each on the layer that is made for its messages."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import ChannelLayerError
from sandbox.apps.lines import LineConsumer, NotSent, checked

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

CHAT_GROUP = "chat_room"
RELIABLE_GROUP = "reliable_chat"
NOTIFICATION_GROUP = "notifications"
ANALYTICS_GROUP = "analytics"

# Where events wait for a worker, see sandbox/worker_app.py.
ANALYTICS_CHANNEL = "analytics"

# Lines for a client that was away for longer than the history reaches back.
SNAPSHOT_SIZE = 20

NOTIFICATION_LEVELS = ("info", "warning", "error")

# An analytics event is a name and, after a space, anything about it.
EVENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class ChatConsumer(LineConsumer):
    """Chat over Redis pub/sub. The framework joins and leaves the groups named here."""

    channel_layer_alias = "chat"
    groups = [CHAT_GROUP]

    async def receive_line(self, line: str) -> None:
        await self.channel_layer.group_send(CHAT_GROUP, {"type": "chat.message", "text": line})

    async def chat_message(self, message: ChannelMessage) -> None:
        await self.send(message["text"])


class ReliableChatConsumer(AsyncJsonWebsocketConsumer):
    """
    Chat over streams: who lost the connection is sent what was said meanwhile.

    In: `{"text": "..."}`. Out: `{"type": "line", "text": "..."}`, and for the one who sent
    nonsense `{"type": "error", "message": "..."}`. Who was away for too long is sent
    `{"type": "snapshot", "lines": [{"position": "...", "text": "..."}]}`, by
    whose positions a client finds the lines that it has.
    """

    channel_layer_alias = "queue"
    groups = [RELIABLE_GROUP]
    resumable = True

    async def receive_json(self, content: Any, **_: Any) -> None:
        try:
            message = {"type": "reliable.message", "text": checked_line(content)}
            await self.channel_layer.group_send(RELIABLE_GROUP, message)
        except (NotSent, ChannelLayerError) as error:
            await self.send_json({"type": "error", "message": f"not sent: {error}"})

    async def reliable_message(self, message: ChannelMessage) -> None:
        await self.send_json({"type": "line", "text": message["text"]})

    async def not_recovered(self, group: str) -> None:
        history = await self.channel_layer.history(group, limit=SNAPSHOT_SIZE)
        lines = [
            {"position": str(position), "text": message["text"]}
            for position, message in history.messages
        ]
        await self.send_json({"type": "snapshot", "lines": lines})


class NotificationConsumer(AsyncJsonWebsocketConsumer):
    """
    Notifications in JSON, for everybody.

    In: `{"message": "...", "title": "...", "level": "info"}`, the last two
    optional. Out: the same with `"type": "notification"`, or
    `{"type": "error", "message": "..."}` for the one who sent nonsense.
    """

    channel_layer_alias = "notifications"
    groups = [NOTIFICATION_GROUP]

    async def receive_json(self, content: Any, **_: Any) -> None:
        try:
            message = {"type": "notification", **checked_notification(content)}
            await self.channel_layer.group_send(NOTIFICATION_GROUP, message)
        except (NotSent, ChannelLayerError) as error:
            await self.send_json({"type": "error", "message": f"not sent: {error}"})

    async def notification(self, message: ChannelMessage) -> None:
        await self.send_json(message)


class AnalyticsConsumer(LineConsumer):
    """
    What happens, in events such as "page_view /pricing", many and small.

    They are work: a worker counts them, and tells the group what it has counted.
    """

    channel_layer_alias = "analytics"
    groups = [ANALYTICS_GROUP]

    async def connect(self) -> None:
        await self.accept()
        await self.publish("socket_connected", "AnalyticsConsumer")

    async def receive_line(self, line: str) -> None:
        name, _, detail = line.partition(" ")
        if not EVENT_NAME.fullmatch(name):
            raise NotSent(
                f"{name[:40]!r} is not the name of an event: use up to 40 lower-case letters, "
                "digits and underscores, such as button_click"
            )
        await self.publish(name, detail)

    async def publish(self, name: str, detail: str) -> None:
        await self.channel_layer.send(ANALYTICS_CHANNEL, analytics_event(name, detail))

    async def analytics_counted(self, message: ChannelMessage) -> None:
        await self.send(f"{message['name']} {message['detail']}".rstrip())


def analytics_event(name: str, detail: str) -> dict[str, str]:
    """Return the message for an event. By its id it is counted once, however often it is done."""
    return {"type": "analytics.event", "id": uuid.uuid4().hex, "name": name, "detail": detail}


def checked_line(content: Any) -> str:
    """Return the line in a client's JSON; raises NotSent if there is none."""
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        raise NotSent('a line is an object such as {"text": "..."}')
    return checked(content["text"])


def checked_notification(content: Any) -> dict[str, str]:
    """Return the notification in a client's JSON; raises NotSent if there is none."""
    if not isinstance(content, dict) or not isinstance(content.get("message"), str):
        raise NotSent('a notification is an object such as {"message": "...", "level": "info"}')
    title, level = content.get("title", "Notification"), content.get("level", "info")
    if level not in NOTIFICATION_LEVELS:
        raise NotSent(f"level is {level!r:.60}, accepted are {', '.join(NOTIFICATION_LEVELS)}")
    if not isinstance(title, str):
        raise NotSent(f"title is {title!r:.60}, accepted is a string")
    return {"title": checked(title), "message": checked(content["message"]), "level": level}
