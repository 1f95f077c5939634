"""Options of layers, checked where a layer is made."""

from __future__ import annotations

from dataclasses import dataclass

from fast_channels.exceptions import InvalidChannelLayerError

# Messages of a group that are kept, seconds for which they are, and seconds for which an
# idempotency key counts, unless a layer says otherwise.
HISTORY_SIZE = 1000
HISTORY_TTL = 300.0
IDEMPOTENCY_WINDOW = 300.0


@dataclass(frozen=True)
class HistoryOptions:
    """What is kept of each topic. Raises InvalidChannelLayerError for what makes no sense."""

    # The newest payloads, so many; until nothing was appended for so many seconds.
    size: int
    ttl: float
    # Seconds for which a key of `once` counts.
    window: float

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise InvalidChannelLayerError(
                f"history_size is {self.size!r}; it is how many messages of a group to keep, at "
                "least 1: for none, use a layer without history, such as RedisPubSubChannelLayer"
            )
        for name, seconds in (("history_ttl", self.ttl), ("idempotency_window", self.window)):
            checked_seconds(name, seconds)


def checked_seconds(name: str, value: float) -> float:
    """Return `value`, or raise InvalidChannelLayerError unless it is a number above zero."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return value
    raise InvalidChannelLayerError(
        f"{name} is {value!r}; it is a number of seconds above zero, such as 5.0"
    )
