"""
Work: messages that are taken, done and acknowledged, or else done again.

A broker that can do this fills in `WorkQueue`: bytes and names, like the other
forms in broker.py. What an application sees of it is `Work` and `DeadLetter`;
see working.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage


# Dead letters that are kept per name; beyond that the oldest are forgotten.
MAX_DEAD_LETTERS = 1000

# Characters of a reason that are kept: the text of an error may be of any length.
MAX_REASON_LENGTH = 500


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
    return reason if len(reason) <= MAX_REASON_LENGTH else reason[: MAX_REASON_LENGTH - 3] + "..."
