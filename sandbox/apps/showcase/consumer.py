"""Two chats, notifications and analytics, each on the layer that suits its messages."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.exceptions import ChannelLayerError
from sandbox.apps.lines import LineConsumer, NotSent, author_name, checked

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

CHAT_GROUP = "chat_room"
RELIABLE_GROUP = "reliable_chat"
NOTIFICATION_GROUP = "notifications"
ANALYTICS_GROUP = "analytics"

# The channel from which a worker takes events, see sandbox/worker_app.py.
ANALYTICS_CHANNEL = "analytics"

NOTIFICATION_LEVELS = ("info", "warning", "error")


class ChatConsumer(LineConsumer):
    """Chat over Redis pub/sub. The framework joins and leaves the groups listed here."""

    channel_layer_alias = "chat"
    groups = [CHAT_GROUP]

    async def receive_line(self, line: str) -> None:
        message = {"type": "chat_message", "message": with_author(self, line)}
        await self.channel_layer.group_send(CHAT_GROUP, message)

    async def chat_message(self, event: ChannelMessage) -> None:
        await self.send(event["message"])


class ReliableChatConsumer(LineConsumer):
    """
    Chat over streams: a client that was disconnected receives the lines that it missed.

    A frame is the text of a line. Its time is in the message of the layer, and in the history
    that sandbox/apps/showcase/history.py serves.
    """

    channel_layer_alias = "queue"
    resumable = True

    async def connect(self) -> None:
        # Before accept(), so that the client misses no line that is sent afterwards.
        await self.join_group(RELIABLE_GROUP)
        await self.accept()

    async def receive_line(self, line: str) -> None:
        message = reliable_line(with_author(self, line))
        await self.channel_layer.group_send(RELIABLE_GROUP, message)

    async def disconnect(self, code: int) -> None:
        await self.leave_group(RELIABLE_GROUP)

    async def reliable_chat_message(self, event: ChannelMessage) -> None:
        await self.send(event["message"])


class NotificationConsumer(AsyncJsonWebsocketConsumer):
    """
    Notifications in JSON, to every connection.

    In: `{"message": "...", "title": "...", "level": "info"}`; only `message` is required.
    Out: these three with `"type": "notification"`, or `{"type": "error", "message": "..."}`
    to a client that sent something else.
    """

    channel_layer_alias = "notifications"
    groups = [NOTIFICATION_GROUP]

    async def receive_json(self, content: Any, **_: Any) -> None:
        try:
            message = notification(**checked_notification(content))
            await self.channel_layer.group_send(NOTIFICATION_GROUP, message)
        except (NotSent, ChannelLayerError) as error:
            await self.send_json({"type": "error", "message": f"not sent: {error}"})

    async def notification_message(self, event: ChannelMessage) -> None:
        # A script that knows no data sends the text alone.
        await self.send_json(event.get("data") or notification(event["message"])["data"])


class AnalyticsConsumer(LineConsumer):
    """
    Events such as "page_view /pricing", many and small.

    Every connection sees each event at once. Besides, each event is work: a worker counts it
    and tells the group.
    """

    channel_layer_alias = "analytics"
    groups = [ANALYTICS_GROUP]

    async def connect(self) -> None:
        await self.accept()
        await self.announce("📊 Analytics tracking started!")

    async def receive_line(self, line: str) -> None:
        await self.channel_layer.send(ANALYTICS_CHANNEL, analytics_event(line))
        await self.announce(f"📊 Analytics: {line}")

    async def announce(self, text: str) -> None:
        message = {"type": "analytics_message", "message": text}
        await self.channel_layer.group_send(ANALYTICS_GROUP, message)

    async def analytics_message(self, event: ChannelMessage) -> None:
        await self.send(event["message"])

    async def analytics_counted(self, event: ChannelMessage) -> None:
        await self.send(f"counted: {event['event']}")


def with_author(consumer: AsyncWebsocketConsumer, line: str) -> str:
    """Return a line as the clients of a chat read it."""
    return f"{author_name(consumer)}: {line}"


def reliable_line(text: str) -> dict[str, Any]:
    """Return the message for a line. It carries its time, because it may be read much later."""
    return {"type": "reliable_chat_message", "message": text, "sent_at": time.time()}


def notification(message: str, title: str = "Notification", level: str = "info") -> dict[str, Any]:
    """Return the message for a notification; a client receives the `data`."""
    data = {"type": "notification", "title": title, "message": message, "level": level}
    return {"type": "notification_message", "data": data}


def analytics_event(event: str) -> dict[str, str]:
    """Return the work for an event. By its id, a worker counts it once if it is redelivered."""
    return {"type": "analytics_event", "id": uuid.uuid4().hex, "event": event}


def checked_notification(content: Any) -> dict[str, str]:
    """Return the notification in a client's JSON. Raise NotSent if it has none."""
    if not isinstance(content, dict) or not isinstance(content.get("message"), str):
        raise NotSent('a notification is an object such as {"message": "...", "level": "info"}')
    title, level = content.get("title", "Notification"), content.get("level", "info")
    if level not in NOTIFICATION_LEVELS:
        raise NotSent(f"level is {level!r:.60}, accepted are {', '.join(NOTIFICATION_LEVELS)}")
    if not isinstance(title, str):
        raise NotSent(f"title is {title!r:.60}, accepted is a string")
    return {"title": checked(title), "message": checked(content["message"]), "level": level}
