"""The layer for all processes: application, workers and cron jobs."""

from __future__ import annotations

import os

from fast_channels import RedisPubSubChannelLayer, channel_layers

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6399")

layer = RedisPubSubChannelLayer([REDIS_URL], prefix="reports")
channel_layers.register("reports", layer)
