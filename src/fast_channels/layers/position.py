"""
What a layer keeps of its groups: positions, history, and how a broker gives them.

Every message of a group has a position: an epoch, made at random with the log of
the group, and an offset in it, which counts from 1. A log that is lost has
another epoch afterwards, so a position never silently means something else.
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

# Bytes of an epoch: 64 bits, since nobody must meet the same one twice.
_EPOCH_BYTES = 8

_TEXT = re.compile(r"([0-9a-f]{16})-([0-9]{1,18})-([0-9]{1,10})")


class Position(NamedTuple):
    """
    A place in the log of a group: behind the message with this offset.

    As text it is for whoever got it to hand back, unchanged. It does not say what
    the group is called, nor does it let anybody read it.
    """

    # Of the log; a log that was lost has another one afterwards.
    epoch: str
    # 0 is before the first message.
    offset: int
    # Made at random with the message, 0 before the first. A server that went back to an
    # older state of its data gives the same offset to another message; this tells them apart.
    tag: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}-{self.tag}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """Undo str(). Raises InvalidPosition for what it cannot have returned."""
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InvalidPosition(text)
        return cls(found[1], int(found[2]), int(found[3]))


def new_epoch() -> str:
    return secrets.token_hex(_EPOCH_BYTES)


def new_tag() -> int:
    """Return what tells a message from others with the same offset; 0 is none."""
    return random.randint(1, 2**32 - 1)  # noqa: S311 - nothing secret depends on it


class PositionedMessage(dict[str, Any]):
    """A message of a group, for a reader who wants to know where in its log it stands."""

    __slots__ = ("position", "topic")

    def __init__(self, message: ChannelMessage, topic: str, position: Position) -> None:
        super().__init__(message)
        self.topic = topic
        self.position = position


class StoredMessage(NamedTuple):
    """A message of a group's history."""

    # Behind this message.
    position: Position
    # As it was sent.
    message: ChannelMessage


@dataclass(frozen=True)
class History:
    """What a group was sent after a position."""

    # In order.
    messages: Sequence[StoredMessage]
    # Whether they follow that position without a gap. False if the log does not reach
    # back that far, or if the position is of a log that is lost, of another group, or in
    # the future.
    recovered: bool
    # Behind the last of the messages; what comes later comes after this.
    position: Position
