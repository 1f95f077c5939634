"""
Values of acknowledged work that applications see.

A broker with acknowledged work fills in the form `WorkQueue` of broker.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage


# Number of dead letters that are kept per name: the newest ones.
MAX_DEAD_LETTERS = 1000

# Characters of a reason that are kept, because the text of an error may be of any length.
MAX_REASON_LENGTH = 500


@dataclass
class Work:
    """A message that `take` returns, with the number of its deliveries."""

    channel: str
    """The channel of the message."""

    message: ChannelMessage
    """The message as it was sent."""

    deliveries: int
    """
    Number of deliveries; 1 for the first one.

    An interrupted worker gives the message back without counting the delivery. Therefore a
    handler may have begun the work before even if the number is 1, and a higher number does not
    mean that it was done.
    """

    rejection: str | None = None
    """The reason passed to `reject`, or None."""

    def reject(self, reason: str) -> None:
        """Move the message to the dead letters when the block ends, even with an exception."""
        self.rejection = shortened_reason(reason)


@dataclass(frozen=True)
class DeadLetter:
    """A message that was rejected, or that failed in all of its deliveries."""

    message: ChannelMessage | None
    """The message as it was sent; None if the payload was not a message."""

    reason: str
    """The last error, such as "ValueError: no such file", or another reason."""

    deliveries: int
    """Number of deliveries."""


def reason_of(exc: Exception) -> str:
    """Return the type and text of an exception as a reason."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - user code, and its error must not leave the work unfinished
        text = "(without a text: its own str() raises)"
    return shortened_reason(f"{type(exc).__name__}: {text}")


def shortened_reason(reason: str) -> str:
    """Return a reason of at most MAX_REASON_LENGTH characters."""
    return reason if len(reason) <= MAX_REASON_LENGTH else reason[: MAX_REASON_LENGTH - 3] + "..."
