"""What a client may send: how much at once and how often, and how many may be there."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from fast_channels.exceptions import ConsumerStateError

from .close_codes import MESSAGE_TOO_BIG, POLICY_VIOLATION, Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_channels.type_defs import ChannelMessage

    from .heartbeat import Heartbeat


@dataclass(frozen=True, slots=True)
class RateLimit:
    """
    Frames that a client may send: `burst` at once, and `per_second` in the long run.

    One frame more closes the connection with 1008, once the frames before it
    have been handled; with `action="drop"` it is dropped and counted instead.
    """

    # In the long run.
    per_second: float
    # At once.
    burst: int
    # What one frame more leads to.
    action: Literal["close", "drop"] = "close"

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
        """Whether there was a token left at `now`, in seconds of the loop's clock."""
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
    Stands in the mailbox for a frame that closes the connection.

    In its place among the frames, so that those before it are handled; without
    the frame, so that what is too large is not kept.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__(type="websocket.receive")
        self.ending = ending


class Gate:
    """
    What a frame must pass before anybody parses or keeps it.

    Frames behind one that closes the connection are thrown away: they are read
    all the same, so that the client's leaving is noticed.
    """

    __slots__ = (
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
    ) -> None:
        self._max_size = max_size
        self._rate = rate
        self._pong = _squeezed_pong(pong)
        # Called for every frame that is thrown away.
        self._dropped = dropped
        self._bucket = None if rate is None else TokenBucket(rate, _now())
        # Whether a frame has closed the connection.
        self.refused = False
        # Told of every frame, if there is one.
        self.heartbeat: Heartbeat | None = None
        # Makes of a frame that has passed what is to wait for its turn, if it is set.
        self.unwrap: Callable[[ChannelMessage], ChannelMessage | None] | None = None

    def expect_pong(self, text: str) -> None:
        """Take another text for the answer to a question."""
        self._pong = _squeezed_pong(text)

    def admit(self, event: ChannelMessage) -> ChannelMessage | None:
        """Return what is to wait for its turn: the frame, a Refused or nothing."""
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
            # The answer to a question is free; others count like any frame.
            asked = pong and heartbeat.waiting
            heartbeat.heard(_now())
            if asked:
                return None
        if self._bucket is not None and not self._bucket.take(_now()):
            return self._beyond_rate()
        if pong:
            return None
        return event if self.unwrap is None else self.unwrap(event)

    def _beyond_rate(self) -> ChannelMessage | None:
        if self._rate is not None and self._rate.action == "drop":
            self._dropped()
            return None
        return self.refuse(Ending(POLICY_VIOLATION, "too many messages", "rate_limit"))

    def refuse(self, ending: Ending) -> Refused:
        """Close the connection, once what came before has had its turn."""
        self.refused = True
        return Refused(ending)

    def _too_large(self, text: str | None, data: bytes | None) -> bool:
        limit = self._max_size
        if limit is None:
            return False
        if text is not None:
            # A character takes one to four bytes; count them only if it matters.
            return len(text) * 4 > limit and len(text.encode(errors="replace")) > limit
        return data is not None and len(data) > limit

    def _is_pong(self, text: str | None) -> bool:
        # Twice its length leaves room for white space; more is not looked through.
        return (
            text is not None and len(text) <= 2 * len(self._pong) and _squeezed(text) == self._pong
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


# Of a pong there are as many as there are consumer classes.
@functools.lru_cache(100)
def _squeezed_pong(pong: str) -> str:
    return _squeezed(pong)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_option(owner: type, option: str, wanted: Literal["seconds", "count"]) -> None:
    """Raise ConsumerStateError unless an option of a consumer class is positive, or None."""
    value: Any = getattr(owner, option)
    if value is None:
        return
    if wanted == "seconds" and not (is_number(value) and value > 0):
        _complain(owner, option, "a number of seconds above 0, or None for no limit")
    if wanted == "count" and not is_count(value):
        _complain(owner, option, "a whole number of at least 1, or None for no limit")


def check_websocket_options(owner: type) -> None:
    """The same for every limit of a WebSocket consumer."""
    check_option(owner, "max_frame_size", "count")
    check_option(owner, "max_connections", "count")
    check_option(owner, "heartbeat_interval", "seconds")
    check_option(owner, "heartbeat_timeout", "seconds")
    if getattr(owner, "heartbeat_timeout", None) is None:
        _complain(owner, "heartbeat_timeout", "the seconds that an answer may take")
    if not isinstance(getattr(owner, "rate_limit", None), RateLimit | None):
        _complain(owner, "rate_limit", "a RateLimit(per_second, burst), or None for no limit")
    for option in ("heartbeat_ping", "heartbeat_pong"):
        text: object = getattr(owner, option)
        if not isinstance(text, str) or not text.strip():
            _complain(owner, option, "the text of a frame")


def _complain(owner: type, option: str, wanted: str) -> NoReturn:
    value: object = getattr(owner, option)
    raise ConsumerStateError(f"{owner.__name__}.{option} is {value!r}; give {wanted}")
