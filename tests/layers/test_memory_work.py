"""Leases of an in-memory layer. The contract of work tests them through the layer."""

from __future__ import annotations

import pytest

from fast_channels.layers import memory_work as module
from fast_channels.layers.memory_work import MemoryWork
from fast_channels.layers.options import WorkOptions


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
def work(clock):
    return MemoryWork(WorkOptions(visibility_timeout=30.0, max_deliveries=2, retry_backoff=(5, 5)))


def test_lease_ends_after_the_visibility_timeout(work, clock):
    """The next delivery counts, and the first lease has no effect any more."""
    first = work.lease_new("jobs", b"1")
    assert (work.count("jobs"), work.next_due("jobs")) == (1, clock.now + 30)
    assert work.lease_due("jobs") is None
    clock.now += 30
    second = work.lease_due("jobs")
    assert (second.payload, second.deliveries) == (b"1", 2)
    assert not work.acknowledge("jobs", first)
    assert work.acknowledge("jobs", second)
    assert (work.count("jobs"), work.next_due("jobs")) == (0, None)


def test_retry_comes_before_an_expired_lease(work, clock):
    """Failed work waits for its pause, expired work for its timeout."""
    work.lease_new("jobs", b"expires")
    assert work.fail("jobs", work.lease_new("jobs", b"fails"), "no reason")
    clock.now += 5
    assert work.lease_due("jobs").payload == b"fails"
    clock.now += 30
    assert work.lease_due("jobs").payload == b"expires"


def test_released_lease_does_not_count(work):
    """The payload can be taken again at once."""
    assert work.release("jobs", work.lease_new("jobs", b"1"))
    assert work.lease_due("jobs").deliveries == 1


def test_last_delivery_leads_to_a_dead_letter(work, clock):
    """A failure, an expired lease and a rejection do."""
    for payload in (b"fails", b"expires", b"rejected"):
        assert work.release("jobs", work.lease_new("jobs", payload))
        assert work.fail("jobs", work.lease_due("jobs"), "first")
        clock.now += 5
        lease = work.lease_due("jobs")
        assert lease.deliveries == 2
        match payload:
            case b"fails":
                work.fail("jobs", lease, "second")
            case b"rejected":
                work.reject("jobs", lease, "unwanted")
            case _:
                clock.now += 30
                assert work.lease_due("jobs") is None
    letters = work.dead_letters("jobs", 10)
    assert [(letter.payload, letter.reason) for letter in letters] == [
        (b"fails", "second"),
        (b"expires", "its worker died or hung: it was not acknowledged within 30 s"),
        (b"rejected", "unwanted"),
    ]
    work.drop_oldest_dead_letter("jobs")
    assert len(work.dead_letters("jobs", 10)) == 2
    assert work.count("jobs") == 0


def test_dead_letters_are_bounded(work, monkeypatch):
    """The oldest one is deleted first."""
    monkeypatch.setattr(module, "MAX_DEAD_LETTERS", 2)
    for payload in (b"1", b"2", b"3"):
        work.reject("jobs", work.lease_new("jobs", payload), "unwanted")
    assert [letter.payload for letter in work.dead_letters("jobs", 10)] == [b"2", b"3"]
