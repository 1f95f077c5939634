"""Limits on what a client may send, and the check of a consumer's options."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fast_channels.exceptions import ConsumerStateError

from .close_codes import MESSAGE_TOO_BIG, POLICY_VIOLATION, Ending

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

    from .heartbeat import Heartbeat


@dataclass(frozen=True, slots=True)
class RateLimit:
    """
    Frames that a client may send: `burst` at once, and `per_second` in the long run.

    One frame more closes the connection with 1008, once the frames before it
    have been handled; with `action="drop"` it is dropped and counted instead.
    """

    per_second: float
    """Frames per second that the client may send in the long run."""
    burst: int
    """Frames that the client may send at once."""
    action: Literal["close", "drop"] = "close"
    """`close` if one frame more closes the connection, `drop` if it is dropped."""

    def __post_init__(self) -> None:
        if not is_number(self.per_second) or self.per_second <= 0:
            raise ConsumerStateError(
                f"RateLimit.per_second is {self.per_second!r}; give the frames that a client may "
                "send per second, a number above 0"
            )
        if not is_count(self.burst):
            raise ConsumerStateError(
                f"RateLimit.burst is {self.burst!r}; give the frames that a client may send at "
                "once, a whole number of at least 1"
            )
        if self.action not in ("close", "drop"):
            raise ConsumerStateError(
                f"RateLimit.action is {self.action!r}; choose 'close' or 'drop'"
            )


class TokenBucket:
    """Holds `burst` tokens at most and gains `per_second`; a frame takes one."""

    __slots__ = ("_limit", "_stamp", "_tokens")

    def __init__(self, limit: RateLimit, now: float) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        # When the tokens were counted last.
        self._stamp = now

    def take(self, now: float) -> bool:
        """Take a token; False if none was left at `now`, in seconds of the loop's clock."""
        limit = self._limit
        gained = (now - self._stamp) * limit.per_second
        self._stamp = now
        self._tokens = min(limit.burst, self._tokens + gained)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Refused(dict[str, Any]):
    """
    Takes the place of an event that closes the connection.

    The events before it are handled first. The frame itself is not kept, because it may be
    too large.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__(type="websocket.receive")
        self.ending = ending


class Gate:
    """
    Checks frames before they are parsed or kept.

    Frames after one that closes the connection are read and thrown away, so that the pump
    notices when the client leaves.
    """

    __slots__ = (
        "_admit_other",
        "_bucket",
        "_dropped",
        "_max_size",
        "_pong",
        "_rate",
        "heartbeat",
        "refused",
        "unwrap",
    )

    def __init__(
        self,
        max_size: int | None,
        rate: RateLimit | None,
        pong: str,
        dropped: Callable[[], None],
        admit_other: Callable[[ChannelMessage], ChannelMessage],
    ) -> None:
        self._max_size = max_size
        self._rate = rate
        self._pong = _squeezed_pong(pong)
        # Called for every frame that is thrown away.
        self._dropped = dropped
        # Called for every event that is not a frame.
        self._admit_other = admit_other
        self._bucket = None if rate is None else TokenBucket(rate, _now())
        # Whether a frame has closed the connection.
        self.refused = False
        # Told of every frame, if the consumer has a heartbeat.
        self.heartbeat: Heartbeat | None = None
        # Takes the content out of a frame that has passed, if the client speaks a protocol.
        self.unwrap: Callable[[ChannelMessage], ChannelMessage | Ending | None] | None = None

    def expect_pong(self, text: str) -> None:
        """Use another text as the answer to a heartbeat."""
        self._pong = _squeezed_pong(text)

    def admit(self, event: ChannelMessage) -> ChannelMessage | None:
        """Return the event, a Refused in its place, or None if a frame is dropped."""
        if event["type"] != "websocket.receive":
            return self._admit_other(event)
        return self._admit_frame(event)

    def _admit_frame(self, event: ChannelMessage) -> ChannelMessage | None:
        if self.refused:
            self._dropped()
            return None
        text = event.get("text")
        if self._too_large(text, event.get("bytes")):
            reason = f"a frame may have {self._max_size} bytes"
            return self.refuse(Ending(MESSAGE_TOO_BIG, reason, "max_frame_size"))
        heartbeat = self.heartbeat
        pong = False
        if heartbeat is not None:
            pong = self._is_pong(text)
            # The answer to a ping is free; other pongs count like any frame.
            asked = pong and heartbeat.waiting
            heartbeat.heard(_now())
            if asked:
                return None
        if self._bucket is not None and not self._bucket.take(_now()):
            return self._beyond_rate()
        if pong or self.unwrap is None:
            return None if pong else event
        content = self.unwrap(event)
        return self.refuse(content) if isinstance(content, Ending) else content

    def _beyond_rate(self) -> ChannelMessage | None:
        if self._rate is not None and self._rate.action == "drop":
            self._dropped()
            return None
        return self.refuse(Ending(POLICY_VIOLATION, "too many messages", "rate_limit"))

    def refuse(self, ending: Ending) -> Refused:
        """Close the connection once the frames before this one have been handled."""
        self.refused = True
        return Refused(ending)

    def _too_large(self, text: str | None, data: bytes | None) -> bool:
        limit = self._max_size
        if limit is None:
            return False
        if text is not None:
            # A character takes one to four bytes; count them only near the limit.
            return len(text) * 4 > limit and len(text.encode(errors="replace")) > limit
        return data is not None and len(data) > limit

    def _is_pong(self, text: str | None) -> bool:
        # Twice the length of a pong leaves room for white space; longer texts are not searched.
        return (
            text is not None and len(text) <= 2 * len(self._pong) and _squeezed(text) == self._pong
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


# Each consumer class has one pong, so the cache stays small.
@functools.lru_cache(100)
def _squeezed_pong(pong: str) -> str:
    return _squeezed(pong)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_option(owner: object, option: str) -> None:
    """
    Raise ConsumerStateError unless an option of a consumer, or of its class, can be used.

    A property of the class is checked once there is a consumer.
    """
    name = owner.__name__ if isinstance(owner, type) else type(owner).__name__
    value: Any = getattr(owner, option)
    if isinstance(value, property | functools.cached_property):
        return
    accepts, wanted = OPTIONS[option]
    if not accepts(value):
        own_name = " (a method of your own needs another name)" if callable(value) else ""
        raise ConsumerStateError(f"{name}.{option} is {value!r}; give {wanted}{own_name}")


def _is_duration(value: object) -> bool:
    return is_number(value) and value > 0  # type: ignore[operator]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _optional(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _is_list_of_names(value: object) -> bool:
    return value is None or (isinstance(value, Iterable) and not isinstance(value, str | bytes))


_SECONDS = (_optional(_is_duration), "a number of seconds above 0, or None for no limit")
_COUNT = (_optional(is_count), "a whole number of at least 1, or None for no limit")
_FRAME_TEXT = (_is_text, "the text of a frame")

# Every option of a consumer: a check of its values, and a description of them for errors.
OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "channel_layer_alias": (
        _optional(lambda value: isinstance(value, str)),
        "the alias of a channel layer, or None for no channel",
    ),
    "on_gap": (lambda value: value in ("event", "close"), "'event' or 'close'"),
    "send_timeout": _SECONDS,
    "groups": (_is_list_of_names, "a list of group names"),
    "max_frame_size": _COUNT,
    "max_connections": _COUNT,
    "rate_limit": (
        lambda value: isinstance(value, RateLimit | None),
        "a RateLimit(per_second, burst), or None for no limit",
    ),
    "heartbeat_interval": _SECONDS,
    "heartbeat_timeout": (_is_duration, "the seconds that an answer may take, above 0"),
    "heartbeat_ping": _FRAME_TEXT,
    "heartbeat_pong": _FRAME_TEXT,
    "resumable": (lambda value: isinstance(value, bool), "True or False"),
    "retry_after": _SECONDS,
    "max_body_size": (is_count, "a whole number of bytes of at least 1"),
}
