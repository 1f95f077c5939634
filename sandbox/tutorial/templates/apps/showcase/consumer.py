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

    # TODO 5.1: join CHAT_GROUP on the layer "chat", send lines to it, pass on its messages


class ReliableChatConsumer(AsyncJsonWebsocketConsumer):
    """
    Chat over streams: who lost the connection is sent what was said meanwhile.

    In: `{"text": "..."}`. Out: `{"type": "line", "text": "..."}`, and for the one who sent
    nonsense `{"type": "error", "message": "..."}`. Who was away for too long is sent
    `{"type": "snapshot", "lines": [{"position": "...", "text": "..."}]}`, by
    whose positions a client finds the lines that it has.
    """

    # TODO 5.2: the same on "queue", resumable, and a snapshot for those who were away too long


class NotificationConsumer(AsyncJsonWebsocketConsumer):
    """
    Notifications in JSON, for everybody.

    In: `{"message": "...", "title": "...", "level": "info"}`, the last two
    optional. Out: the same with `"type": "notification"`, or
    `{"type": "error", "message": "..."}` for the one who sent nonsense.
    """

    # TODO 5.7: notifications in JSON, checked before they are sent to everybody


class AnalyticsConsumer(LineConsumer):
    """
    What happens, in events such as "page_view /pricing", many and small.

    They are work: a worker counts them, and tells the group what it has counted.
    """

    # TODO 5.14: your own: publish each event as work, and show what was counted


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
