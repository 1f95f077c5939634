"""A JSON consumer with a method for each type of message from a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import ChannelLayerError
from sandbox.customizing.broadcast import ALERT_GROUP, SEVERITIES, broadcast_alert

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage


class MonitoringConsumer(AsyncJsonWebsocketConsumer):
    """
    Sends alerts to its client, from a severity that the client chooses.

    In: `{"type": "ping"}`, `{"type": "watch", "severity": "medium"}`,
    `{"type": "alert", "severity": "high", "message": "..."}`.
    """

    channel_layer_alias = "monitoring"
    groups = [ALERT_GROUP]

    # The client receives no alerts that are less severe than this.
    least = "low"

    async def receive_json(self, content: Any, **_: Any) -> None:
        routes = {"ping": self.ping, "watch": self.watch, "alert": self.alert}
        wanted = content.get("type") if isinstance(content, dict) else None
        route = routes.get(wanted) if isinstance(wanted, str) else None
        if route is None:
            await self.refuse(f"type is {wanted!r:.60}, accepted are {', '.join(routes)}")
        else:
            await route(content)

    # -- from the client ----------------------------------------------------

    async def ping(self, _: dict[str, Any]) -> None:
        await self.send_json({"type": "pong"})

    async def watch(self, content: dict[str, Any]) -> None:
        if await self.severity_is_known(content):
            self.least = content["severity"]
            await self.send_json({"type": "watching", "severity": self.least})

    async def alert(self, content: dict[str, Any]) -> None:
        if not isinstance(content.get("message"), str):
            await self.refuse(f"message is {content.get('message')!r:.60}, accepted is a string")
        elif await self.severity_is_known(content):
            try:
                await broadcast_alert(content["message"], content["severity"])
            except ChannelLayerError as error:
                await self.refuse(f"not sent to all: {error}")

    async def severity_is_known(self, content: dict[str, Any]) -> bool:
        severity = content.get("severity")
        if isinstance(severity, str) and severity in SEVERITIES:
            return True
        await self.refuse(f"severity is {severity!r:.60}, accepted are {', '.join(SEVERITIES)}")
        return False

    async def refuse(self, reason: str) -> None:
        await self.send_json({"type": "error", "message": reason})

    # -- from the layer -----------------------------------------------------

    async def alert_message(self, event: ChannelMessage) -> None:
        alert = event["data"]
        severities = list(SEVERITIES)
        if severities.index(alert["severity"]) >= severities.index(self.least):
            await self.send_json({"type": "alert", **alert})
