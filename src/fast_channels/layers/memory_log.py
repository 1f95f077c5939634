"""The log of an in-memory layer: the reference for logs on servers."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .broker import LogEntry, LogSlice
from .position import Position, new_epoch, new_tag

if TYPE_CHECKING:
    from .options import HistoryOptions


@dataclass
class TopicLog:
    """The log of one topic."""

    start: Position
    """The position before the first entry of all, kept or not."""

    end: Position
    """The position of the last entry, kept or not."""

    entries: deque[LogEntry]
    """The entries that are kept, the oldest first."""

    keys: dict[str, tuple[float, Position]] = field(
        default_factory=dict[str, tuple[float, Position]]
    )
    """The time.monotonic() of each idempotency key, and the position of its entry."""

    written_at: float = 0.0
    """The time.monotonic() at which the last entry was appended."""


class MemoryLog:
    """
    Logs of topics, which outlive the sessions of their layer.

    A log without entries stays, because it knows the positions: 300 bytes a topic.
    """

    def __init__(self, options: HistoryOptions) -> None:
        self._options = options
        self._topics: dict[str, TopicLog] = {}

    def append(self, topic: str, payload: bytes, once: str | None) -> tuple[Position, bool]:
        """Return the position of a payload, and whether it is a new one."""
        log = self._topic(topic)
        if once is not None:
            self._forget_keys(log)
            if once in log.keys:
                return log.keys[once][1], False
        position = Position(log.end.epoch, log.end.offset + 1, new_tag())
        log.entries.append(LogEntry(position, payload))
        log.end, log.written_at = position, time.monotonic()
        if once is not None:
            log.keys[once] = log.written_at, position
        return position, True

    def read(self, topic: str, after: Position | None, limit: int | None) -> LogSlice:
        """See broker.Log."""
        log = self._topic(topic)
        kept = list(log.entries)
        if after is None or after.epoch != log.end.epoch:
            # The reader knows nothing of this log.
            kept = kept[-self._options.size :]
            newest = kept if limit is None else kept[-limit:]
            return LogSlice(newest if after is None else kept[:limit], log.end, after is None)
        # Where the entry at that position is, or would be.
        index = after.offset - (log.end.offset - len(kept) + 1)
        if 0 <= index < len(kept):
            contiguous = kept[index].position == after
        else:
            contiguous = after in (log.end, log.start) and index == -1
        return LogSlice(kept[max(index + 1, 0) :][:limit], log.end, contiguous)

    def end(self, topic: str) -> Position:
        return self._topic(topic).end

    def clear(self) -> None:
        self._topics.clear()

    def _topic(self, topic: str) -> TopicLog:
        log = self._topics.get(topic)
        if log is None:
            # One more than `size`, so that the position before the oldest entry is known.
            start = Position(new_epoch(), 0, 0)
            log = self._topics[topic] = TopicLog(start, start, deque(maxlen=self._options.size + 1))
        elif log.entries and log.written_at < time.monotonic() - self._options.ttl:
            log.entries.clear()
        return log

    def _forget_keys(self, log: TopicLog) -> None:
        horizon = time.monotonic() - self._options.window
        # The dict is in the order of time.
        while log.keys and next(iter(log.keys.values()))[0] < horizon:
            del log.keys[next(iter(log.keys))]
