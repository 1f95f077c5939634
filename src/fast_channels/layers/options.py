"""Options of layers, checked when a layer is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fast_channels.exceptions import InvalidChannelLayerError

# Defaults: number of messages kept per group, seconds that they are kept, and seconds that an
# idempotency key counts.
HISTORY_SIZE = 1000
HISTORY_TTL = 300.0
IDEMPOTENCY_WINDOW = 300.0

# Maximum of all times: 30 years, which every server can count.
MAX_SECONDS = 1e9


@dataclass(frozen=True)
class HistoryOptions:
    """Limits of the history of each topic. Raises InvalidChannelLayerError for invalid values."""

    size: int
    """Number of payloads that are kept: the newest ones."""

    ttl: float
    """Seconds after the last payload until the history is deleted."""

    window: float
    """Seconds that an idempotency key counts."""

    def __post_init__(self) -> None:
        if not _is_whole(self.size) or self.size < 1:
            raise InvalidChannelLayerError(
                f"history_size is {self.size!r}; it is how many messages of a group to keep, at "
                "least 1: for none, use a layer without history, such as RedisPubSubChannelLayer"
            )
        for name, seconds in (("history_ttl", self.ttl), ("idempotency_window", self.window)):
            checked_seconds(name, seconds)


@dataclass(frozen=True)
class WorkOptions:
    """
    Limits for the leases and deliveries of work.

    Raises InvalidChannelLayerError for invalid values.
    """

    visibility_timeout: float = 30.0
    """Seconds until unacknowledged work is redelivered."""

    max_deliveries: int = 5
    """Number of deliveries after which work goes to the dead letters."""

    retry_backoff: tuple[float, float] = (1.0, 60.0)
    """Seconds of the pause after the first failure, which doubles each time, and its maximum."""

    def __post_init__(self) -> None:
        checked_seconds("visibility_timeout", self.visibility_timeout)
        if not _is_whole(self.max_deliveries) or self.max_deliveries < 1:
            raise InvalidChannelLayerError(
                f"max_deliveries is {self.max_deliveries!r}; it is a whole number of at least 1, "
                "such as 5"
            )
        if not _is_backoff(self.retry_backoff):
            raise InvalidChannelLayerError(
                f"retry_backoff is {self.retry_backoff!r}; it is a pair of seconds, the first "
                "pause and the longest one, such as (1.0, 60.0)"
            )

    def pause(self, deliveries: int) -> float:
        """Return the seconds to wait after that many deliveries, the last of which failed."""
        first, longest = self.retry_backoff
        # ldexp instead of 2 **, because the counter from the server may be any int.
        return min(longest, math.ldexp(first, min(deliveries, 64) - 1))

    @property
    def no_answer(self) -> str:
        """Return the reason for work that was not acknowledged after its last delivery."""
        return (
            f"its worker died or hung: it was not acknowledged within {self.visibility_timeout:g} s"
        )


def checked_seconds(name: str, value: float) -> float:
    """Return `value`, or raise InvalidChannelLayerError unless it is a number above zero."""
    if _is_seconds(value) and 0 < value <= MAX_SECONDS:
        return value
    raise InvalidChannelLayerError(
        f"{name} is {value!r}; it is a number of seconds above zero, such as 5.0, and "
        f"at most {MAX_SECONDS:.0f}"
    )


def _is_seconds(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return 0 <= value < math.inf


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_backoff(value: object) -> bool:
    match value:
        case (int() | float() as first, int() | float() as longest):
            return _is_seconds(first) and _is_seconds(longest) and first <= longest
        case _:
            return False
