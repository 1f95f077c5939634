"""Options of the Redis layers."""

from __future__ import annotations

from dataclasses import dataclass

from fast_channels.exceptions import InvalidChannelLayerError

# Seconds between two proofs that what is published arrives.
HEARTBEAT_INTERVAL = 5.0

# Seconds after which a process that shows no sign of life is removed.
LEASE = 30.0


def checked_seconds(name: str, value: float) -> float:
    """Return `value`, or raise InvalidChannelLayerError unless it is a number above zero."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return value
    raise InvalidChannelLayerError(
        f"{name} is {value!r}; it is a number of seconds above zero, such as 5.0"
    )


@dataclass(frozen=True)
class QueueOptions:
    """Times are in seconds; explained at RedisChannelLayer."""

    expiry: float
    group_expiry: float
    lease: float
    heartbeat_interval: float
    # Payloads to deliver before consumers get a turn.
    batch: int = 1
