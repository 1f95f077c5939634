"""
The short cut past a mailbox: what a reader wants to have done without being woken.

A lane belongs to one reader. Readers of one kind, such as the consumers of one
class, make the same of a message, so that is done once for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .position import PositionedMessage

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from fast_channels.type_defs import ChannelMessage

    from .position import Position


class Prepared(dict[str, Any]):
    """What a lane made of a message. All its receivers share it: nobody may change it."""


class Parcel:
    """One message for many readers."""

    __slots__ = ("_place", "_prepared", "message", "type")

    def __init__(self, message: ChannelMessage, place: tuple[str, Position] | None = None) -> None:
        self.message = message
        # The topic that it was published to, and where it stands in its log, if there is one.
        self._place = place
        type_ = message.get("type")
        # It may be anything, also what cannot be looked for.
        self.type = type_ if isinstance(type_, str) else None
        # What readers with a lane get instead of it, by the kind of the lane.
        self._prepared: dict[LaneKind, Prepared | None] = {}

    def prepared(self, kind: LaneKind) -> Prepared | None:
        """Return what is made of the message once for all readers of a kind; None if nothing is."""
        if self.type not in kind.types:
            return None
        if kind not in self._prepared:
            self._prepared[kind] = kind.prepare(self.message)
        return self._prepared[kind]

    def unpacked(self, lane: Lane | None, *, positioned: bool = False) -> ChannelMessage:
        """Return what is put into the mailbox of a reader, who may want to know positions."""
        if positioned and self._place is not None:
            return PositionedMessage(self.message, *self._place)
        prepared = None if lane is None else self.prepared(lane.kind)
        return dict(self.message) if prepared is None else prepared


class Lane(Protocol):
    """What a reader wants to have done with messages without being woken for each."""

    @property
    def kind(self) -> LaneKind: ...

    async def idle(self) -> ChannelMessage | None:
        """Wait for a change in the mailbox; returns what the lane has left to its reader."""
        ...


class LaneKind(Protocol):
    """What lanes of one kind have in common; an object is made for each kind."""

    @property
    def types(self) -> Container[str | None]:
        """The types of messages that `prepare` is for."""
        ...

    def prepare(self, message: ChannelMessage) -> Prepared | None:
        """Make of a message what all readers get instead of it; None if that cannot be done."""
        ...

    def begins(self, parcel: Parcel, *, nested: bool) -> bool:
        """Whether a message is one to begin with at once; `nested` if by another's handler."""
        ...

    def take(self, parcels: Sequence[Parcel], lanes: Sequence[Any], *, nested: bool) -> None:
        """
        Let the reader of every one of `lanes` begin with messages, in order.

        Called while they are idle, and only then. What a reader does not come to
        is put into its mailbox. Raises nothing but what is to end the loop.
        """
        ...
