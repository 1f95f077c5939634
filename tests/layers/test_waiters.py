"""Calls wait in turn, and cancelling one loses nothing."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.layers.waiters import Waiters


@pytest.fixture
def returned():
    """The values that were handed back."""
    return []


@pytest.fixture
def waiters(returned):
    return Waiters(returned.append)


async def waiting(waiters, count=1):
    """Start `count` calls and return their tasks once each of them waits."""
    tasks = [asyncio.create_task(waiters.wait()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_first_call_to_wait_is_served_first(waiters):
    """Values arrive in the order of the calls."""
    tasks = await waiting(waiters, 3)
    assert [waiters.hand_over(value) for value in "abc"] == [True, True, True]
    assert await asyncio.gather(*tasks) == ["a", "b", "c"]


async def test_value_is_not_taken_while_no_call_waits(waiters):
    """The owner of the value keeps it then."""
    assert waiters.hand_over("a") is False
    (task,) = await waiting(waiters)
    waiters.hand_over("b")
    assert await task == "b"


async def test_cancelled_call_is_passed_over(waiters, returned):
    """A call that is cancelled before it is served gets nothing, and the next call is served."""
    first, second = await waiting(waiters, 2)
    first.cancel()
    assert waiters.hand_over("a")
    assert await second == "a"
    assert first.cancelled()
    assert not returned


async def test_value_of_a_call_that_is_cancelled_in_that_moment_is_handed_back(waiters, returned):
    """The call was served, but its task never runs on with the value."""
    (task,) = await waiting(waiters)
    waiters.hand_over("a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert returned == ["a"]


async def test_value_that_is_handed_back_can_go_to_the_next_call():
    """The owner hands it over again from within `hand_back`."""
    handing_back = []
    waiters = Waiters(lambda value: handing_back.append(waiters.hand_over(value)))
    first, second = await waiting(waiters, 2)
    waiters.hand_over("a")
    first.cancel()
    assert await second == "a"
    assert handing_back == [True]


async def test_failure_reaches_every_waiting_call(waiters, returned):
    """None of them goes on waiting, and there is nothing to hand back."""
    first, second, third = await waiting(waiters, 3)
    third.cancel()
    waiters.fail(ConnectionError("gone"))
    results = await asyncio.gather(first, second, third, return_exceptions=True)
    assert list(map(type, results)) == [ConnectionError, ConnectionError, asyncio.CancelledError]
    assert not returned


async def test_cancelled_call_that_failed_hands_nothing_back(waiters, returned):
    """An error is not a value."""
    (task,) = await waiting(waiters)
    waiters.fail(ConnectionError("gone"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not returned


async def test_length_is_the_number_of_calls_that_wait(waiters):
    """Served and cancelled calls no longer count, even before their tasks have ended."""
    tasks = await waiting(waiters, 3)
    assert len(waiters) == 3
    tasks[0].cancel()
    waiters.hand_over("a")
    assert len(waiters) == 1
    waiters.hand_over("b")
    await asyncio.wait(tasks)
    assert len(waiters) == 0
