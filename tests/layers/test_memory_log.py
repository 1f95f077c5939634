"""Logs of an in-memory layer. The contract of histories tests them through the layer."""

from __future__ import annotations

import pytest

from fast_channels.layers import memory_log as module
from fast_channels.layers.memory_log import MemoryLog
from fast_channels.layers.options import HistoryOptions


class Clock:
    """A clock in place of time.monotonic(), which a test moves."""

    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def log(clock):
    return MemoryLog(HistoryOptions(size=3, ttl=60.0, window=10.0))


def appended(log, count):
    return [log.append("room", b"%d" % n, None)[0] for n in range(count)]


def payloads(found):
    return [entry.payload for entry in found.entries]


def test_entries_after_a_position_follow_it(log):
    """The position before the oldest entry is known, too."""
    positions = appended(log, 5)
    for index, expected in [(1, [b"2", b"3", b"4"]), (3, [b"4"]), (4, [])]:
        found = log.read("room", positions[index], None)
        assert (payloads(found), found.connected) == (expected, True)
    assert not log.read("room", positions[0], None).connected


def test_limit_takes_the_oldest_after_a_position_and_else_the_newest(log):
    """The end of the slice is the end of the log."""
    positions = appended(log, 5)
    assert payloads(log.read("room", positions[1], 2)) == [b"2", b"3"]
    assert payloads(log.read("room", None, 2)) == [b"3", b"4"]
    assert log.read("room", None, 2).end == positions[-1]


def test_old_entries_are_deleted_and_positions_stay(log, clock):
    """A client that has everything misses nothing."""
    positions = appended(log, 2)
    clock.now += 61
    assert payloads(log.read("room", None, None)) == []
    assert log.read("room", positions[-1], None).connected
    assert not log.read("room", positions[0], None).connected
    assert log.append("room", b"next", None)[0].offset == 3


def test_key_counts_for_its_window(log, clock):
    """A repeated key returns the position of the first payload."""
    first, new = log.append("room", b"1", "key")
    assert new
    assert log.append("room", b"2", "key") == (first, False)
    clock.now += 11
    second, new = log.append("room", b"3", "key")
    assert (new, second.offset) == (True, 2)


def test_position_of_another_log_is_not_connected(log):
    """Clearing the logs begins a new epoch."""
    (position,) = appended(log, 1)
    assert not log.read("hall", position, None).connected
    log.clear()
    assert log.end("room").epoch != position.epoch
