"""Logs of an in-memory layer, the reference for logs on servers."""

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

    # The positions before the first message ever and after the last one, kept or not.
    start: Position
    end: Position
    entries: deque[LogEntry]
    # The time.monotonic() and the position of payloads that were appended with a key.
    once: dict[str, tuple[float, Position]] = field(
        default_factory=dict[str, tuple[float, Position]]
    )
    # The time.monotonic() of the last entry.
    written: float = 0.0


class MemoryLog:
    """
    The logs of all topics, which outlive the sessions of their layer.

    A log without entries stays, because it knows the positions. It takes 300 bytes.
    """

    def __init__(self, options: HistoryOptions) -> None:
        self._options = options
        self._topics: dict[str, TopicLog] = {}

    def append(self, topic: str, payload: bytes, once: str | None) -> tuple[Position, bool]:
        """Return the position of a payload, and whether it is a new one."""
        log = self._topic(topic)
        if once is not None:
            self._forget_keys(log)
            if once in log.once:
                return log.once[once][1], False
        position = Position(log.end.epoch, log.end.offset + 1, new_tag())
        log.entries.append(LogEntry(position, payload))
        log.end, log.written = position, time.monotonic()
        if once is not None:
            log.once[once] = log.written, position
        return position, True

    def read(self, topic: str, after: Position | None, limit: int | None) -> LogSlice:
        """Return the entries after a position; see layers.broker.Log."""
        log = self._topic(topic)
        kept = list(log.entries)
        if after is None or after.epoch != log.end.epoch:
            # The caller knows nothing of this log.
            kept = kept[-self._options.size :]
            newest = kept if limit is None else kept[-limit:]
            return LogSlice(newest if after is None else kept[:limit], log.end, after is None)
        # The index of the entry at that position, if it is kept.
        index = after.offset - (log.end.offset - len(kept) + 1)
        if 0 <= index < len(kept):
            connected = kept[index].position == after
        else:
            connected = after in (log.end, log.start) and index == -1
        return LogSlice(kept[max(index + 1, 0) :][:limit], log.end, connected)

    def end(self, topic: str) -> Position:
        return self._topic(topic).end

    def clear(self) -> None:
        self._topics.clear()

    def _topic(self, topic: str) -> TopicLog:
        log = self._topics.get(topic)
        if log is None:
            # One entry more than `size`, to know the position before the oldest message.
            start = Position(new_epoch(), 0, 0)
            log = self._topics[topic] = TopicLog(start, start, deque(maxlen=self._options.size + 1))
        elif log.entries and log.written < time.monotonic() - self._options.ttl:
            log.entries.clear()
        return log

    def _forget_keys(self, log: TopicLog) -> None:
        horizon = time.monotonic() - self._options.window
        # The dict has the keys in the order of their arrival.
        while log.once and next(iter(log.once.values()))[0] < horizon:
            del log.once[next(iter(log.once))]
