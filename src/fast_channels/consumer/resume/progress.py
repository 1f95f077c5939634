"""The progress of a connection in its groups, and the messages that it still has to replay."""

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
    # True if the message was sent before the connection joined the group.
    replay: bool = False
    # Number of its frames that the client has.
    skip: int = 0
    # Number of times that handlers have failed at it for this client.
    failures: int = 0


class GroupProgress:
    """
    The progress of a connection in one group.

    Messages of the log are handled in the order of their offsets, so the next one is known. If
    a live message arrives while others have to be handled first, it is skipped: it is in the
    log, and is read from there in its turn. Therefore a slow connection needs no memory, and a
    message that its mailbox drops is not lost.
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
        # True once the client has been told of the group. No message is handled before that.
        self.ready = False
        # The position up to which messages were handled or wait in `missed`; None while joining.
        self.read: Position | None = None
        self.missed: deque[Missed] = deque()
        # True if the log may have more messages than have been read.
        self.behind = False
        # True until not_recovered() has been called for a loss.
        self.lost = False
        # The position up to which all messages were handled, and the one that the client was
        # told. None if the client has a part of the message there.
        self.done: Position | None = None
        self.told: Position | None = None
        # The client's place in a message at which a handler has failed.
        self.part: Place | None = None
        # The content of the `resume` frame.
        self.report: dict[str, Any] = {}

    @property
    def due(self) -> bool:
        """True if messages or hooks have to be handled before live messages."""
        return self.ready and (self.lost or bool(self.missed) or self.behind)

    def begin(self, position: Position, place: Place | None) -> None:
        """Join at a position; `place` is the place that the client has presented, or None."""
        self.read = self.done = self.told = position
        self.report = {"position": str(position), "missed": 0}
        if place is not None:
            self.report["recovered"] = False
            self.lost = True

    def resume(self, place: Place, missed: Iterable[Missed], end: Position) -> None:
        """Join at the position `end`, with the messages that the client has missed before it."""
        self.read, self.missed = end, deque(missed)
        self.done = self.told = place.position if place.frames is None else None
        # A message of which the client has a part does not count as missed.
        number = sum(not message.skip for message in self.missed)
        self.report = {"recovered": True, "position": str(place), "missed": number}

    def lose(self, position: Position) -> None:
        """Continue at a position, because the log has lost the messages before it."""
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
        # The groups with messages to replay; the first one has the next turn.
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
        """Note that messages of these groups, by default of all, may have been lost."""
        for group in list(self._joined) if groups is None else groups:
            progress = self._joined.get(group)
            if progress is not None:
                progress.behind = True
                self.note(progress)

    def note(self, progress: GroupProgress) -> None:
        """Give a group a turn if it has messages to replay."""
        if progress in self and progress.due:
            self._due[progress.group] = progress

    def next(self) -> GroupProgress | None:
        """Return the group with the next turn, or None; `note` gives it another turn."""
        group = next(iter(self._due), None)
        return None if group is None else self._due.pop(group)

    def release(self) -> dict[str, Any]:
        """Return the reports on groups that the client has not been told of, and start them."""
        reports: dict[str, Any] = {}
        for progress in self._joined.values():
            if progress.report and not progress.ready:
                reports[progress.group] = progress.report
                progress.ready = True
                self.note(progress)
        return reports

    def untold(self) -> dict[str, str]:
        """Return the places of the client that it has not been told yet, by group."""
        untold: dict[str, str] = {}
        for progress in self._joined.values():
            if progress.part is not None:
                untold[progress.group] = str(progress.part)
            elif progress.ready and progress.done is not None and progress.told != progress.done:
                progress.told = progress.done
                untold[progress.group] = str(progress.done)
        return untold

    def keep_unread(self) -> None:
        """Keep only the replay of messages that were skipped since a group was joined."""
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
