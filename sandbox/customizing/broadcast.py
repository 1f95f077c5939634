"""One alert over several layers: each consumer receives a message that it has a handler for."""

from __future__ import annotations

import asyncio
from typing import Any

from fast_channels.layers import channel_layers
from sandbox.apps.showcase.consumer import CHAT_GROUP, NOTIFICATION_GROUP, notification

ALERT_GROUP = "alerts"

# From the least to the most severe, each with the level of its notification.
SEVERITIES = {"low": "info", "medium": "warning", "high": "error"}


def alert_message(text: str, severity: str) -> dict[str, Any]:
    return {"type": "alert_message", "data": {"severity": severity, "message": text}}


async def broadcast_alert(text: str, severity: str) -> None:
    """
    Send an alert to the monitoring clients, to every open page, and to the chat.

    Raises LayerUnavailable if a broker does not answer. Layers of other brokers deliver
    nevertheless.
    """
    note = notification(text, "Alert", SEVERITIES[severity])
    chat = {"type": "chat_message", "message": f"monitoring: {text}"}
    await asyncio.gather(
        channel_layers["monitoring"].group_send(ALERT_GROUP, alert_message(text, severity)),
        channel_layers["notifications"].group_send(NOTIFICATION_GROUP, note),
        channel_layers["chat"].group_send(CHAT_GROUP, chat),
    )
