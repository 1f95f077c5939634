"""The layer, for every process that takes part: application, workers and cron jobs."""

from __future__ import annotations

import os

from fast_channels import channel_layers
from fast_channels.layers import RedisPubSubChannelLayer

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6399")

layer = RedisPubSubChannelLayer([REDIS_URL], prefix="reports")
channel_layers.register("reports", layer)
