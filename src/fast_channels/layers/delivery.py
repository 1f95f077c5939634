"""
How messages get into mailboxes, and past them.

Waking a reader is most of what a delivery costs. If it is idle and has a lane,
the delivery itself forwards messages or begins to handle them, as if the reader
had. A reader gets all of a delivery before the next one has its turn: what is
needed for one connection is at hand, then, for several messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .lanes import Lane, LaneKind, Parcel
    from .mailbox import Mailbox


class Delivery:
    """Messages for the same readers on their way into mailboxes, or past them."""

    __slots__ = ("_direct", "_nested", "_parcels")

    def __init__(self, parcels: Sequence[Parcel], *, nested: bool) -> None:
        self._parcels = parcels
        # Whether it is part of another delivery, by a handler: such handlers would
        # stack up, one in the other.
        self._nested = nested
        # Those of readers who begin with it at once, by their kinds; None for kinds
        # that do not.
        self._direct: dict[LaneKind, list[Lane] | None] = {}

    def put(self, mailbox: Mailbox) -> int:
        """Return how many messages are taken; by a reader who is idle, once `finish` is called."""
        lane = mailbox.ready
        if lane is not None:
            kind = lane.kind
            if kind not in self._direct:
                begins = kind.begins(self._parcels[0], nested=self._nested)
                self._direct[kind] = [] if begins else None
            lanes = self._direct[kind]
            if lanes is not None:
                lanes.append(lane)
                return len(self._parcels)
        lane, positioned = mailbox.lane, mailbox.positioned
        return sum([mailbox.put(p.unpacked(lane, positioned=positioned)) for p in self._parcels])

    def finish(self) -> None:
        for kind, lanes in self._direct.items():
            if lanes:
                kind.take(self._parcels, lanes, nested=self._nested)
