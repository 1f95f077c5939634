"""
Work: messages that are taken, done and acknowledged, or else done again.

A broker that can do this fills in `WorkQueue`: bytes and names, like the other
forms in broker.py. What an application sees of it is `Work` and `DeadLetter`;
see working.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

from fast_channels.exceptions import MissingCapability

if TYPE_CHECKING:
    import asyncio

    from fast_channels.type_defs import ChannelMessage

    from .broker import Broker

# Dead letters that are kept per name; beyond that the oldest are forgotten.
DEAD_LETTERS = 1000

# Characters of a reason that are kept: the text of an error may be of any length.
REASON_LIMIT = 500


class Claimed(NamedTuple):
    """A payload that is in somebody's hands."""

    payload: bytes
    # How often it was handed out, this time included; given back, it does not count.
    deliveries: int
    # The broker's own business.
    place: Any


class Buried(NamedTuple):
    """A payload that is not handed out any more."""

    payload: bytes
    reason: str
    deliveries: int


@runtime_checkable
class WorkQueue(Protocol):
    """
    A queue that hands payloads out for a while, and again unless it hears that they are done.

    What ends a claim begins at once and is done whether or not anybody waits
    for it. It returns False if the payload was handed to somebody else
    meanwhile, who has it now, or if the broker could not be told, which is
    logged: then it comes again. None of these raises.
    """

    async def claim(self, name: str) -> Claimed:
        """
        Wait for a payload and take it, for as long as the visibility timeout.

        Those whose pause is over come first, then what others have held for too
        long, then new ones, the oldest first. Cancelling loses nothing. Waits
        while the broker is away.
        """
        ...

    def done(self, name: str, claimed: Claimed) -> asyncio.Future[bool]:
        """Forget a payload."""
        ...

    def failed(self, name: str, claimed: Claimed, reason: str) -> asyncio.Future[bool]:
        """Hand it out again after a pause; to the dead letters after the last delivery."""
        ...

    def rejected(self, name: str, claimed: Claimed, reason: str) -> asyncio.Future[bool]:
        """Move it to the dead letters."""
        ...

    def returned(self, name: str, claimed: Claimed) -> None:
        """Hand it out to somebody else, now, as if it had not been handed out."""
        ...

    async def buried(self, name: str, limit: int) -> list[Buried]:
        """Return dead letters, the oldest first."""
        ...

    async def revive(self, name: str, limit: int, capacity: int) -> int:
        """Move dead letters back, behind all that waits, while there is room; return how many."""
        ...


def hands_out_work(broker: object) -> TypeGuard[WorkQueue]:
    """The same as isinstance, for those who ask with each message."""
    # mypy takes the type itself for what its instances are: not to be hashed.
    return _hands_out_work(type(broker))  # type: ignore[arg-type]


@functools.cache
def _hands_out_work(kind: type) -> bool:
    return issubclass(kind, WorkQueue)


@dataclass
class Work:
    """What `take` hands out: a message, and how often it was handed out."""

    # Where it was taken from.
    channel: str
    # As it was sent.
    message: ChannelMessage
    # 1 the first time. More does not mean that the work was done before, nor 1
    # that it was not begun: who is interrupted gives it back uncounted.
    deliveries: int
    # Why it is not to be tried again; None while it is.
    rejection: str | None = None

    def reject(self, reason: str) -> None:
        """When the block ends, however it does, move the message to the dead letters."""
        self.rejection = shortened(reason)


@dataclass(frozen=True)
class DeadLetter:
    """Work that nobody could do."""

    # None if what arrived was no message.
    message: ChannelMessage | None
    # What the last handler raised, such as "ValueError: no such file", or why none did.
    reason: str
    # How often it was handed out.
    deliveries: int


def reason_of(exc: Exception) -> str:
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - code of the application, and its work must not be left over
        text = "(without a text: its own str() raises)"
    return shortened(f"{type(exc).__name__}: {text}")


def shortened(reason: str) -> str:
    return reason if len(reason) <= REASON_LIMIT else reason[: REASON_LIMIT - 3] + "..."


def no_work(broker: Broker) -> MissingCapability:
    """Return the error that says where work can be acknowledged."""
    return MissingCapability(
        broker,
        "taking work that is acknowledged",
        "use RedisStreamsChannelLayer, or InMemoryChannelLayer within one process",
    )
