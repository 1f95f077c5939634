"""
The application of the worker processes that count analytics events. Start one with:

    fast-channels worker sandbox.worker_app:router analytics \\
        --layer analytics --setup sandbox.layers:setup_layers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_channels.consumer import AsyncConsumer
from fast_channels.routing import ChannelNameRouter
from sandbox.apps.showcase.consumer import ANALYTICS_CHANNEL, ANALYTICS_GROUP

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage


class AnalyticsWorker(AsyncConsumer):
    """Counts events and tells the page."""

    async def analytics_event(self, message: ChannelMessage) -> None:
        counted = {**message, "type": "analytics_counted"}
        # A worker that is killed after this call, but before it acknowledged the event, makes
        # another worker receive it. The key keeps the page from counting it twice.
        await self.channel_layer.group_send(ANALYTICS_GROUP, counted, idempotency_key=message["id"])


router = ChannelNameRouter({ANALYTICS_CHANNEL: AnalyticsWorker.as_asgi()})
