"""One alert over several layers: each consumer receives a message that it has a handler for."""

from __future__ import annotations

import asyncio

from fast_channels.layers import channel_layers
from sandbox.apps.showcase.consumer import CHAT_GROUP, NOTIFICATION_GROUP

MONITORING_GROUP = "monitoring"

# From the least to the most severe.
SEVERITIES = ("info", "warning", "error")


async def broadcast_alert(text: str, severity: str) -> None:
    """
    Send an alert to the monitoring clients, to every open page, and to the chat.

    Raises LayerUnavailable if a broker does not answer. Layers of other brokers deliver
    nevertheless.
    """
    alert = {"type": "monitoring.alert", "severity": severity, "text": text}
    note = {"type": "notification", "title": "Alert", "message": text, "level": severity}
    chat = {"type": "chat.message", "text": f"monitoring: {text}"}
    await asyncio.gather(
        channel_layers["monitoring"].group_send(MONITORING_GROUP, alert),
        channel_layers["notifications"].group_send(NOTIFICATION_GROUP, note),
        channel_layers["chat"].group_send(CHAT_GROUP, chat),
    )
