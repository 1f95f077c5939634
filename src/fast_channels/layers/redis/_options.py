"""Options of the Redis layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_channels.layers.options import HistoryOptions

# Seconds between two proofs that what is published arrives.
HEARTBEAT_INTERVAL = 5.0

# Seconds after which groups are compared with their logs.
CHECK_INTERVAL = 10.0

# Seconds after which a process that shows no sign of life is removed.
LEASE = 30.0


@dataclass(frozen=True)
class QueueOptions:
    """Times are in seconds; explained at RedisChannelLayer."""

    expiry: float
    group_expiry: float
    lease: float
    heartbeat_interval: float
    # Payloads to deliver before consumers get a turn.
    batch: int = 1


@dataclass(frozen=True)
class StreamsOptions:
    """Times are in seconds; explained at RedisStreamsChannelLayer."""

    prefix: str
    history: HistoryOptions
    heartbeat_interval: float
    check_interval: float
    # Payloads to deliver before consumers get a turn.
    batch: int = 1
