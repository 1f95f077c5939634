"""States of a topic: when payloads are delivered or held, and when the log is read."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.exceptions import BrokerRefused, LayerClosed, LayerUnavailable
from fast_channels.layers.broker import LogEntry, LogSlice
from fast_channels.layers.position import Position
from fast_channels.layers.redis import _catch_up, _reader
from fast_channels.layers.redis._catch_up import (
    CatchUp,
    CursorState,
    Notification,
    TopicCursor,
)
from tests.layers.support import becomes, turns


def position(offset, epoch="e"):
    return Position(epoch, offset, offset * 10)


def notification(offset, epoch="e"):
    return Notification(position(offset, epoch), position(offset - 1, epoch), b"%d" % offset)


def live_cursor(offset=0):
    """A cursor that has delivered everything up to an offset."""
    cursor = TopicCursor("topic")
    cursor.move(position(offset))
    cursor.release(100)
    assert cursor.state is CursorState.LIVE
    return cursor


# -- a cursor ----------------------------------------------------------------------


def test_notification_is_what_append_lua_publishes():
    """Position, tag of the one before, and the payload, which may be any bytes."""
    parsed = Notification.parse(b"0123456789abcdef-7-70-60\na\nb-c")
    assert parsed.position == Position("0123456789abcdef", 7, 70)
    assert parsed.previous == Position("0123456789abcdef", 6, 60)
    assert parsed.payload == b"a\nb-c"


def test_live_topic_delivers_what_follows():
    """At once, and moves on."""
    cursor = live_cursor()
    assert [cursor.receive(notification(n)) for n in (1, 2, 3)] == [True] * 3
    assert cursor.position == position(3)
    assert cursor.state is CursorState.LIVE


def test_starting_topic_holds_until_its_log_was_looked_at():
    """Then the topic delivers the payloads behind the end of the log."""
    cursor = TopicCursor("topic")
    assert not any(cursor.receive(notification(n)) for n in (3, 4, 5))
    assert cursor.state is CursorState.STARTING
    cursor.move(position(3))
    assert [n.position.offset for n in cursor.release(100)] == [4, 5]
    assert cursor.state is CursorState.LIVE


def test_hole_makes_a_topic_fall_behind():
    """Later payloads are held, and delivered when the log has filled the hole."""
    cursor = live_cursor()
    assert not cursor.receive(notification(3))
    assert cursor.state is CursorState.BEHIND
    cursor.start_reading()
    assert cursor.state is CursorState.READING
    # Under way while the log is read: one that the log has by then, and one that it has not.
    for n in (3, 4):
        assert not cursor.receive(notification(n))
    cursor.move(position(3))
    assert [n.position.offset for n in cursor.release(100)] == [4]
    assert cursor.state is CursorState.LIVE


def test_what_was_read_is_not_delivered_again():
    """The notification of such a payload may come late."""
    cursor = live_cursor()
    cursor.start_reading()
    cursor.move(position(5))
    assert cursor.release(100) == []
    assert not cursor.receive(notification(5))
    assert cursor.state is CursorState.LIVE
    assert cursor.receive(notification(6))


@pytest.mark.parametrize(
    "other",
    [notification(1, "another epoch"), notification(4)._replace(previous=Position("e", 3, 999))],
    ids=["epoch", "tag"],
)
def test_payload_of_another_history_makes_a_topic_fall_behind(other):
    """A server that lost its data, or has gone back to older data."""
    cursor = live_cursor(3)
    assert not cursor.receive(other)
    assert cursor.state is CursorState.BEHIND


def test_held_notifications_are_released_in_batches():
    """Consumers get a turn between them, and more may arrive meanwhile."""
    cursor = live_cursor()
    cursor.start_reading()
    for n in range(1, 6):
        cursor.receive(notification(n))
    assert [n.position.offset for n in cursor.release(2)] == [1, 2]
    assert cursor.state is CursorState.READING
    assert not cursor.receive(notification(6))
    assert [n.position.offset for n in cursor.release(100)] == [3, 4, 5, 6]
    assert cursor.state is CursorState.LIVE


def test_hole_among_held_notifications_is_not_skipped():
    """The log is read again, before anything later."""
    cursor = live_cursor()
    cursor.start_reading()
    for n in (1, 3):
        cursor.receive(notification(n))
    assert [n.position.offset for n in cursor.release(100)] == [1]
    assert cursor.state is CursorState.BEHIND


def test_more_than_can_be_held_is_read_again(monkeypatch):
    """The log has the payloads that were not held."""
    monkeypatch.setattr(_catch_up, "MAX_HELD", 2)
    cursor = live_cursor()
    cursor.start_reading()
    for n in (1, 2, 3):
        cursor.receive(notification(n))
    assert [n.position.offset for n in cursor.release(100)] == [1, 2]
    assert cursor.state is CursorState.BEHIND


def test_reason_to_read_that_came_during_a_reading_is_not_forgotten():
    """That reading may have ended before it."""
    cursor = live_cursor()
    cursor.start_reading()
    cursor.suspect_again()
    assert cursor.state is CursorState.READING
    assert cursor.release(100) == []
    assert cursor.state is CursorState.BEHIND


async def test_call_waits_for_a_reading_that_begins_after_it():
    """The call does not wait for a later one."""
    cursor = live_cursor()
    first = cursor.wait()
    cursor.start_reading()
    second = cursor.wait()
    cursor.caught_up()
    assert (first.done(), second.done()) == (True, False)
    cursor.close()
    with pytest.raises(LayerClosed):
        await second


# -- with a log --------------------------------------------------------------------


class FakeLog:
    """A log in memory; `fails` are raised instead of reading it."""

    def __init__(self):
        self.entries, self.fails, self.reads = [], [], 0

    def key(self, topic):
        return f"log of {topic}"

    def append(self):
        n = len(self.entries) + 1
        self.entries.append(LogEntry(position(n), b"%d" % n))
        return f"{position(n)}-{position(n - 1).tag}\n{n}".encode()

    async def end(self, topic):
        return position(len(self.entries))

    async def read_some(self, topic, after):
        self.reads += 1
        await asyncio.sleep(0)
        if self.fails:
            raise self.fails.pop(0)
        return LogSlice(self.entries[after.offset :], position(len(self.entries)), connected=True)


@pytest.fixture
def log():
    return FakeLog()


@pytest.fixture
async def delivered(log, monkeypatch):
    """Payloads that a topic has delivered, and a way to tell it of more, and of outages."""
    monkeypatch.setattr(_reader, "MIN_RECONNECT_DELAY_SECONDS", 0.01)

    class Delivered(list):
        def __init__(self):
            self.outages = []
            self.catch_up = CatchUp(log, batch=10, check_interval=60)

    found = Delivered()
    found.catch_up.start(
        lambda topic, *payloads, positions: found.extend(map(int, payloads)), found.outages.append
    )
    await found.catch_up.begin(found.catch_up.open("topic"))
    yield found
    await found.catch_up.stop()


async def test_what_is_missing_is_read_before_what_follows(delivered, log):
    """In order, each once."""
    for n in range(1, 8):
        published = log.append()
        if n not in (2, 3, 5):
            delivered.catch_up.arrived(log.key("topic"), published)
    await becomes(lambda: delivered == [1, 2, 3, 4, 5, 6, 7])
    assert delivered.outages == []


@pytest.mark.parametrize("error", [LayerUnavailable, BrokerRefused])
async def test_log_that_cannot_be_read_is_read_later(delivered, log, error):
    """Nothing is delivered before, though the notifications go on."""
    log.fails = [error("the server", "of the test")] * 2
    log.append()
    for _ in range(3):
        delivered.catch_up.arrived(log.key("topic"), log.append())
        await turns()
    await becomes(lambda: delivered == [1, 2, 3, 4])
    assert log.reads == 3


async def test_outage_is_reported_when_logs_were_read(delivered, log):
    """Missed payloads are delivered first."""
    delivered.catch_up.lost()
    log.append()
    delivered.catch_up.arrived(log.key("topic"), log.append())
    await turns()
    assert delivered == []
    delivered.catch_up.returned(1.0, 2.0)
    await becomes(lambda: delivered.outages)
    (outage,) = delivered.outages
    assert (outage.since, outage.until, list(outage.recovered)) == (1.0, 2.0, ["topic"])
    assert delivered == [1, 2]
