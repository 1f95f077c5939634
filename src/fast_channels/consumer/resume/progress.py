"""How far a connection has come in its groups, and what it still has to make up for."""

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
    # Whether it was sent before the connection joined the group.
    replay: bool = False
    # Frames of it that the client has.
    skip: int = 0
    # How often handlers have failed at it for this client.
    failures: int = 0


class GroupProgress:
    """
    How far a connection has come in one group.

    Messages of the log are handled in the order of their offsets, so the next one is known.
    A live message that arrives while something else has to be handled first is passed over:
    it is in the log, and is read from there in its turn. Therefore nothing has to be kept
    for a slow connection, and a message that its mailbox drops is not lost.
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
        # Whether the client has been told of the group. Nothing is handled before that.
        self.ready = False
        # Up to where messages have been handled, or wait in `missed`; None while joining.
        self.read: Position | None = None
        self.missed: deque[Missed] = deque()
        # Whether the log may have more messages than have been read.
        self.behind = False
        # Whether not_recovered() has yet to be called.
        self.lost = False
        # Up to where everything has been handled, and what the client was told of that;
        # None if the client has a part of the message there.
        self.done: Position | None = None
        self.told: Position | None = None
        # Where the client is in a message at which a handler has failed.
        self.part: Place | None = None
        # What the `resume` frame has to say.
        self.report: dict[str, Any] = {}

    @property
    def due(self) -> bool:
        """Whether something has to be done before anything live."""
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
        # A message of which the client has a part does not count as missed.
        number = sum(not message.skip for message in self.missed)
        self.report = {"recovered": True, "position": str(place), "missed": number}

    def lose(self, position: Position) -> None:
        """Go on at a position: the messages before it are no longer in the log."""
        self.read = self.done = self.told = position
        self.missed.clear()
        self.behind = False
        self.lost = True
        self.report = {"recovered": False, "position": str(position), "missed": 0}

    def expects(self, position: Position) -> bool:
        """Return whether a live message is next. If not, it was read from the log, or will be."""
        if self.read is not None and self.read.epoch == position.epoch:
            if position.offset <= self.read.offset:
                return False
            if self.ready and not self.due and position.offset == self.read.offset + 1:
                self.read = position
                return True
        self.behind = True
        return False


class Progress:
    """The progress of one connection in all groups that it has joined with positions."""

    __slots__ = ("_due", "_joined", "presented")

    def __init__(self, presented: dict[str, Place]) -> None:
        # The places that the client has presented, in groups that may or may not be joined.
        self.presented = presented
        self._joined: dict[str, GroupProgress] = {}
        # The groups with something to make up for; the first has its turn next.
        self._due: dict[str, GroupProgress] = {}

    def __contains__(self, progress: GroupProgress) -> bool:
        return self._joined.get(progress.group) is progress

    def get(self, group: str) -> GroupProgress | None:
        return self._joined.get(group)

    def add(self, group: str) -> GroupProgress:
        progress = self._joined[group] = GroupProgress(group)
        return progress

    def remove(self, group: str) -> None:
        self._joined.pop(group, None)
        self._due.pop(group, None)

    def expects(self, progress: GroupProgress, position: Position) -> bool:
        expected = progress.expects(position)
        self.note(progress)
        return expected

    def fall_behind(self, groups: Iterable[str] | None = None) -> None:
        """Note that messages of these groups, or of any, may have been lost on the way."""
        for group in list(self._joined) if groups is None else groups:
            progress = self._joined.get(group)
            if progress is not None:
                progress.behind = True
                self.note(progress)

    def note(self, progress: GroupProgress) -> None:
        """Remember a group if it has something to make up for."""
        if progress in self and progress.due:
            self._due[progress.group] = progress

    def next(self) -> GroupProgress | None:
        """Return the group whose turn it is, if any; `note` gives it another turn."""
        group = next(iter(self._due), None)
        return None if group is None else self._due.pop(group)

    def release(self) -> dict[str, Any]:
        """Return the reports on groups that the client does not know of; these may begin now."""
        reports: dict[str, Any] = {}
        for progress in self._joined.values():
            if progress.report and not progress.ready:
                reports[progress.group] = progress.report
                progress.ready = True
                self.note(progress)
        return reports

    def untold(self) -> dict[str, str]:
        """Return up to where the client has everything, where it does not know that yet."""
        untold: dict[str, str] = {}
        for progress in self._joined.values():
            if progress.part is not None:
                untold[progress.group] = str(progress.part)
            elif progress.ready and progress.done is not None and progress.told != progress.done:
                progress.told = progress.done
                untold[progress.group] = str(progress.done)
        return untold

    def keep_unread(self) -> None:
        """Make up only for messages that were passed over since a group was joined."""
        for progress in list(self._joined.values()):
            if progress.read is None:
                # The group is being joined.
                continue
            if progress.behind:
                progress.missed.clear()
                progress.lost = False
                progress.ready = True
                self.note(progress)
            else:
                self.remove(progress.group)
