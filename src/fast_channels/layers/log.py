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
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, runtime_checkable

from fast_channels.exceptions import InvalidPosition, MissingCapability

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


class Entry(NamedTuple):
    """A payload in a log."""

    position: Position
    payload: bytes


class Appended(NamedTuple):
    """What came of appending a payload."""

    position: Position
    # How many receivers refused it, being full.
    refused: int


class Stretch(NamedTuple):
    """A part of a log, and where the log stood when it was read."""

    # In order.
    entries: Sequence[Entry]
    # Behind the last entry of the log.
    end: Position
    # Whether nothing is missing between the position that was asked for and the first
    # of `entries`, or `end` if there is none.
    connected: bool


@runtime_checkable
class Log(Protocol):
    """
    A broker that keeps the last payloads of each topic, and numbers them.

    It delivers with positions, and delivers all entries of a topic in their order, each once.
    """

    async def append(self, topic: str, payload: bytes, *, once: str | None = None) -> Appended:
        """
        Add a payload to the log and publish it, in one step.

        If something was appended with the same `once` a while ago, this does
        nothing and returns the position of that. Otherwise as Broker.publish.
        """
        ...

    async def read(self, topic: str, after: Position | None, limit: int | None) -> Stretch:
        """
        Return what came after a position, the oldest `limit` payloads of it.

        With None it returns the newest `limit` payloads of all that are kept.
        """
        ...

    def delivered(self, topic: str) -> Position:
        """Return up to where a topic that is subscribed has been delivered here."""
        ...

    async def catch_up(self, topic: str) -> None:
        """Return once everything has been delivered that was appended before the call."""
        ...


def require_log(broker: object, wanted: str) -> Log:
    """Return the broker if it keeps a log. Raises MissingCapability."""
    if isinstance(broker, Log):
        return broker
    remedy = "use RedisStreamsChannelLayer, or InMemoryChannelLayer(history_size=...)"
    raise MissingCapability(broker, wanted, remedy)


class Positioned(dict[str, Any]):
    """A message of a group, for a reader who wants to know where in its log it stands."""

    __slots__ = ("position", "topic")

    def __init__(self, message: ChannelMessage, topic: str, position: Position) -> None:
        super().__init__(message)
        self.topic = topic
        self.position = position


class Kept(NamedTuple):
    """A message of a group's history."""

    # Behind this message.
    position: Position
    # As it was sent.
    message: ChannelMessage


@dataclass(frozen=True)
class History:
    """What a group was sent after a position."""

    # In order.
    messages: Sequence[Kept]
    # Whether they follow that position without a gap. False if the log does not reach
    # back that far, or if the position is of a log that is lost, of another group, or in
    # the future.
    recovered: bool
    # Behind the last of the messages; what comes later comes after this.
    position: Position
