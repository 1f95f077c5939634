"""
Positions and histories of groups.

Every message of a group has a position: the epoch of the group's log, and an offset in it,
which counts from 1. The epoch is random. A log that was lost gets another epoch, so a position
never silently means another message.
"""

from __future__ import annotations

import random
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from fast_channels.exceptions import InvalidPosition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_channels.type_defs import ChannelMessage

# Random bytes of an epoch: 64 bits, so that no epoch occurs twice.
_EPOCH_BYTES = 8

_TEXT = re.compile(r"([0-9a-f]{16})-([0-9]{1,18})-([0-9]{1,10})")


class Position(NamedTuple):
    """
    A position in the log of a group: right after the message with this offset.

    Clients get it as text, and pass it back unchanged. A position neither names the group nor
    grants access to it.
    """

    epoch: str
    """Identifies the log; a log that was lost gets another epoch."""

    offset: int
    """Number of the message; 0 is before the first message."""

    tag: int
    """
    Random number of the message; 0 before the first message.

    A server that went back to an older state of its data gives an offset a second time. The
    tags tell the two messages apart.
    """

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}-{self.tag}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """Undo str(). Raises InvalidPosition for a text that str() cannot have returned."""
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InvalidPosition(text)
        return cls(found[1], int(found[2]), int(found[3]))


def new_epoch() -> str:
    """Return a random epoch for a new log."""
    return secrets.token_hex(_EPOCH_BYTES)


def new_tag() -> int:
    """Return a random tag, which tells a message from others with the same offset."""
    return random.randint(1, 2**32 - 1)  # noqa: S311 - nothing secret depends on it


class PositionedMessage(dict[str, Any]):
    """A message of a group, for a reader that needs its position in the log."""

    __slots__ = ("position", "topic")

    def __init__(self, message: ChannelMessage, topic: str, position: Position) -> None:
        super().__init__(message)
        self.topic = topic
        self.position = position


class StoredMessage(NamedTuple):
    """A message of a group's history."""

    position: Position
    """The position right after this message."""

    message: ChannelMessage
    """The message as it was sent."""


@dataclass(frozen=True)
class History:
    """Messages of a group after a position."""

    messages: Sequence[StoredMessage]
    """The messages, in order."""

    recovered: bool
    """
    True if the messages follow the position without a gap.

    False if the log does not reach back that far, or if the position is of a lost log, of
    another group, or in the future.
    """

    position: Position
    """The position right after the last message; later messages follow it."""
