"""How far a connection has come in its groups, and what it has yet to make up for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_channels.layers.position import Position
    from fast_channels.type_defs import ChannelMessage

    from .protocol import Place


class Missed(NamedTuple):
    """A message that comes from the log of its group and not from the mailbox."""

    position: Position
    message: ChannelMessage
    # Whether it was sent before the connection joined the group, frames of it that the
    # client has, and how often handlers have failed at it for this client.
    replay: bool = False
    skip: int = 0
    failures: int = 0


class Standing:
    """
    One group of a connection.

    Messages in the log are handled in the order of their offsets, so that the one to
    come is known. A live one that comes when something else has to be handled first
    is passed over: it is in the log, and read from there in its turn. So nothing has
    to be kept for a connection that is slow, and what its mailbox drops is not lost.
    """

    __slots__ = (
        "behind",
        "done",
        "group",
        "lost",
        "missed",
        "part",
        "read",
        "ready",
        "report",
        "told",
    )

    def __init__(self, group: str) -> None:
        self.group = group
        # Whether the client has been told of the group. Before, nothing is handled.
        self.ready = False
        # Up to where messages have been handled, or wait in `missed`; None while joining.
        self.read: Position | None = None
        self.missed: deque[Missed] = deque()
        # Whether there may be more in the log than has been read.
        self.behind = False
        # Whether not_recovered() has yet to be called.
        self.lost = False
        # Up to where everything has been handled, and what the client was told of that;
        # None if it has a part of the message there.
        self.done: Position | None = None
        self.told: Position | None = None
        # Where the client stands in a message at which a handler has failed.
        self.part: Place | None = None
        # What `resume` has to say.
        self.report: dict[str, Any] = {}

    @property
    def due(self) -> bool:
        """Whether there is something to do before anything live."""
        return self.ready and (self.lost or bool(self.missed) or self.behind)

    def begin(self, position: Position, place: Place | None) -> None:
        """Join at a position; `place` is where the client was, if it presented that."""
        self.read = self.done = self.told = position
        self.report = {"position": str(position), "missed": 0}
        if place is not None:
            self.report["recovered"] = False
            self.lost = True

    def resume(self, place: Place, missed: Iterable[Missed], end: Position) -> None:
        """Join at a position that is behind what the client has missed."""
        self.read, self.missed = end, deque(missed)
        self.done = self.told = place.position if place.frames is None else None
        # One that it has a part of is none that it has missed.
        number = sum(not message.skip for message in self.missed)
        self.report = {"recovered": True, "position": str(place), "missed": number}

    def lose(self, position: Position) -> None:
        """Go on at a position: what came before it cannot be had any more."""
        self.read = self.done = self.told = position
        self.missed.clear()
        self.behind = False
        self.lost = True
        self.report = {"recovered": False, "position": str(position), "missed": 0}

    def expects(self, position: Position) -> bool:
        """Whether a live message comes next. If it is not, it is read from the log, or was."""
        if self.read is not None and self.read.epoch == position.epoch:
            if position.offset <= self.read.offset:
                return False
            if self.ready and not self.due and position.offset == self.read.offset + 1:
                self.read = position
                return True
        self.behind = True
        return False


class Standings:
    """All groups of a connection that are joined with their positions."""

    __slots__ = ("_due", "_joined", "presented")

    def __init__(self, presented: dict[str, Place]) -> None:
        # What the client says that it has, of groups that may or may not be joined.
        self.presented = presented
        self._joined: dict[str, Standing] = {}
        # Those with something to make up for; the first has its turn next.
        self._due: dict[str, Standing] = {}

    def __contains__(self, standing: Standing) -> bool:
        return self._joined.get(standing.group) is standing

    def get(self, group: str) -> Standing | None:
        return self._joined.get(group)

    def add(self, group: str) -> Standing:
        standing = self._joined[group] = Standing(group)
        return standing

    def remove(self, group: str) -> None:
        self._joined.pop(group, None)
        self._due.pop(group, None)

    def expects(self, standing: Standing, position: Position) -> bool:
        expected = standing.expects(position)
        self.note(standing)
        return expected

    def fall_behind(self, groups: Iterable[str] | None = None) -> None:
        """Messages of these groups, or of any, may have been lost on the way."""
        for group in list(self._joined) if groups is None else groups:
            standing = self._joined.get(group)
            if standing is not None:
                standing.behind = True
                self.note(standing)

    def note(self, standing: Standing) -> None:
        """Remember a group if there is something to make up for."""
        if standing in self and standing.due:
            self._due[standing.group] = standing

    def next(self) -> Standing | None:
        """Return whose turn it is, if there is anything to do; see `note` for the next turn."""
        group = next(iter(self._due), None)
        return None if group is None else self._due.pop(group)

    def release(self) -> dict[str, Any]:
        """Return what is told of groups that the client does not know of; they may begin then."""
        reports: dict[str, Any] = {}
        for standing in self._joined.values():
            if standing.report and not standing.ready:
                reports[standing.group] = standing.report
                standing.ready = True
                self.note(standing)
        return reports

    def untold(self) -> dict[str, str]:
        """Return up to where the client has everything, as far as it does not know."""
        untold: dict[str, str] = {}
        for standing in self._joined.values():
            if standing.part is not None:
                untold[standing.group] = str(standing.part)
            elif standing.ready and standing.done is not None and standing.told != standing.done:
                standing.told = standing.done
                untold[standing.group] = str(standing.done)
        return untold

    def keep_unread(self) -> None:
        """Nothing is made up for, other than what was passed over since a group was joined."""
        for standing in list(self._joined.values()):
            if standing.read is None:
                # It is being joined.
                continue
            if standing.behind:
                standing.missed.clear()
                standing.lost = False
                standing.ready = True
                self.note(standing)
            else:
                self.remove(standing.group)
