"""
How a message gets into mailboxes, and past them.

Waking a reader is most of what a delivery costs. If it is idle and has a lane,
the delivery itself forwards a message or begins to handle it, as if the reader had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

    from .mailbox import Lane, Mailbox, Prepared


class Delivery:
    """One message on its way into mailboxes, or past them."""

    __slots__ = ("_direct", "_message", "_nested", "_prepared", "_type")

    def __init__(self, message: ChannelMessage, *, nested: bool) -> None:
        self._message = message
        type_ = message.get("type")
        # It may be anything, also what cannot be looked for.
        self._type = type_ if isinstance(type_, str) else None
        # Whether it is part of another delivery, by a handler: such handlers would
        # stack up, one in the other.
        self._nested = nested
        # Those of readers who handle it at once.
        self._direct: list[Lane] = []
        # What lanes have made of it, and those of readers who forward that at once,
        # by their keys.
        self._prepared: dict[object, tuple[Prepared | None, list[Lane]]] = {}

    def put(self, mailbox: Mailbox) -> bool:
        """Whether it is taken; by a reader who is idle, once `finish` is called."""
        lane, type_ = mailbox.lane, self._type
        if lane is not None and type_ is not None:
            if type_ in lane.types:
                return self._forward(mailbox, lane)
            if type_ in lane.routes and not self._nested and mailbox.idle:
                self._direct.append(lane)
                return True
        return mailbox.put(dict(self._message))

    def finish(self) -> None:
        for event, lanes in self._prepared.values():
            if event is not None and lanes:
                lanes[0].forward(event, lanes)
        if self._direct:
            self._direct[0].handle(self._message, self._direct)

    def _forward(self, mailbox: Mailbox, lane: Lane) -> bool:
        if lane.key not in self._prepared:
            self._prepared[lane.key] = lane.prepare(self._message), []
        event, lanes = self._prepared[lane.key]
        if event is None:
            return mailbox.put(dict(self._message))
        if not mailbox.idle:
            return mailbox.put(event)
        lanes.append(lane)
        return True
