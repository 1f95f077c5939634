"""One thing to say, over several layers: each consumer gets the message it has a handler for."""

from __future__ import annotations

import asyncio

from fast_channels.layers import channel_layers
from sandbox.apps.showcase.consumer import CHAT_GROUP, NOTIFICATION_GROUP

MONITORING_GROUP = "monitoring"

# From the least to the most severe.
SEVERITIES = ("info", "warning", "error")


async def broadcast_alert(text: str, severity: str) -> None:
    """
    Tell whoever watches, everybody who has the page open, and the chat.

    Raises LayerUnavailable if a broker does not answer. The layers of other
    brokers deliver all the same.
    """
    alert = {"type": "monitoring.alert", "severity": severity, "text": text}
    note = {"type": "notification", "title": "Alert", "message": text, "level": severity}
    chat = {"type": "chat.message", "text": f"Alert: {text}"}
    await asyncio.gather(
        channel_layers["monitoring"].group_send(MONITORING_GROUP, alert),
        channel_layers["notifications"].group_send(NOTIFICATION_GROUP, note),
        channel_layers["chat"].group_send(CHAT_GROUP, chat),
    )
