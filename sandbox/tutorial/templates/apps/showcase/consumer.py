"""Two chats, notifications and analytics, each on the layer that suits its messages."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING, Any

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import ChannelLayerError
from sandbox.apps.lines import LineConsumer, NotSent, author_name, checked, query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_channels.type_defs import ChannelMessage

CHAT_GROUP = "chat_room"
RELIABLE_GROUP = "reliable_chat"
NOTIFICATION_GROUP = "notifications"
ANALYTICS_GROUP = "analytics"

# The channel from which a worker takes events, see sandbox/worker_app.py.
ANALYTICS_CHANNEL = "analytics"

# Lines for a client that is new, or was away for longer than the history reaches back.
LATEST_LINES = 20

NOTIFICATION_LEVELS = ("info", "warning", "error")

# An analytics event is a name and, after a space, anything about it.
EVENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class ChatConsumer(LineConsumer):
    """Chat over Redis pub/sub. The framework joins and leaves the groups listed here."""

    # TODO 5.1: join CHAT_GROUP on the layer "chat", send lines to it, pass on its messages


class ReliableChatConsumer(AsyncJsonWebsocketConsumer):
    """
    Chat over streams: a client that was disconnected receives the lines that it missed.

    In: `{"text": "..."}`. Out: `{"type": "line", "text": "ada: ...", "sent_at": 1767225600.0}`,
    or `{"type": "error", "message": "..."}` to a client that sent something else.

    `{"type": "history", "lines": [...]}` comes first if the address has `?history=1`, and
    `{"type": "snapshot", "lines": [...]}` after too long an absence. Their lines have a
    "position" besides, by which a client recognises the lines that it has already.
    """

    # TODO 5.2: the same on "queue", resumable, with the latest lines for clients that lack them


class NotificationConsumer(AsyncJsonWebsocketConsumer):
    """
    Notifications in JSON, to every connection.

    In: `{"message": "...", "title": "...", "level": "info"}`; only `message` is required.
    Out: these three with `"type": "notification"`, or `{"type": "error", "message": "..."}`
    to a client that sent something else.
    """

    # TODO 5.7: notifications in JSON, checked before they are sent to every connection


class AnalyticsConsumer(LineConsumer):
    """
    Events such as "page_view /pricing", many and small.

    Each event is work: a worker counts it and tells the group.
    """

    # TODO 5.14: your own: publish each event as work, and show what was counted


def analytics_event(name: str, detail: str) -> dict[str, str]:
    """Return the message for an event. By its id, a worker counts it once if it is redelivered."""
    return {"type": "analytics.event", "id": uuid.uuid4().hex, "name": name, "detail": detail}


def line_message(author: str, text: str) -> dict[str, Any]:
    """Return the message for a line. It carries its time, because it may be read much later."""
    return {"type": "reliable.message", "text": f"{author}: {text}", "sent_at": time.time()}


def line_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a message of the reliable chat that its clients receive."""
    return {"text": message["text"], "sent_at": message["sent_at"]}


def checked_text(content: Any) -> str:
    """Return the line in a client's JSON. Raise NotSent if it has none."""
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        raise NotSent('a line is an object such as {"text": "..."}')
    return checked(content["text"])


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
