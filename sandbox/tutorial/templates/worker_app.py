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

    # TODO 5.13: tell the group what was counted, once for each event


router = ChannelNameRouter({ANALYTICS_CHANNEL: AnalyticsWorker.as_asgi()})
