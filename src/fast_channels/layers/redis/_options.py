"""Options of the Redis layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_channels.layers.options import HistoryOptions

# Defaults of the layers' options with these names, in seconds.
HEARTBEAT_INTERVAL_SECONDS = 5.0
CHECK_INTERVAL_SECONDS = 10.0
LEASE_SECONDS = 30.0


@dataclass(frozen=True)
class QueueOptions:
    """Options of RedisChannelLayer, which explains them. Times are in seconds."""

    expiry: float
    group_expiry: float
    lease: float
    heartbeat_interval: float
    batch: int = 1
    """Payloads to deliver before consumers get a turn."""


@dataclass(frozen=True)
class StreamsOptions:
    """Options of RedisStreamsChannelLayer, which explains them. Times are in seconds."""

    prefix: str
    history: HistoryOptions
    heartbeat_interval: float
    check_interval: float
    batch: int = 1
    """Payloads to deliver before consumers get a turn."""
