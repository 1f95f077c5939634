"""Batches of a shared channel, which are not lost with their process. Covers Prefetch."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.redis import _queue_reader
from fast_channels.layers.redis._keys import Keys
from fast_channels.layers.redis._queue_reader import (
    MAX_PREFETCH,
    PREFETCH,
    PREFETCH_SECONDS,
    Prefetch,
    PrefetchSize,
)
from fast_channels.layers.redis._server import Server
from tests.layers.redis.support import cut
from tests.layers.support import becomes, received, turns

KEY, BATCHES = "asgijobs", "asgi:prefetched:jobs"


@pytest.fixture
async def server_of(redis_url):
    server = Server({"address": redis_url})
    await server.control.call("PING")
    yield server
    await server.close()


@pytest.fixture
def make(server_of):
    """Makes receivers, each as if in a process of its own."""
    return lambda: Prefetch(server_of.control, "jobs", Keys("asgi", "process"), 60, 30)


@pytest.fixture
def overdue(client):
    """Lets the time pass after which other processes requeue the rest of batches."""
    return lambda: client.zadd(BATCHES, dict.fromkeys(client.zrange(BATCHES, 0, -1), 0))


@pytest.fixture
def noted_at_once(monkeypatch):
    """Each payload is noted before it is handed out, as if handling one took its time."""
    monkeypatch.setattr(_queue_reader, "NOTE_INTERVAL_SECONDS", 0)


def fill(client, count):
    client.zadd(KEY, {f"{n}": n for n in range(count)})


def waiting(client):
    return [int(payload) for payload in client.zrange(KEY, 0, -1)]


def handed_out(prefetch, count):
    return [int(prefetch.hand_out().payload) for _ in range(count)]


async def test_payloads_are_handed_out_by_score(make, client):
    """As many as were asked for, and there are."""
    fill(client, 5)
    prefetch = make()
    assert await prefetch.take(3) == 3
    assert handed_out(prefetch, 3) == [0, 1, 2]
    assert prefetch.hand_out() is None
    assert await prefetch.take(3) == 2
    assert handed_out(prefetch, 2) == [3, 4]
    assert await prefetch.take(3) == 0
    assert client.exists(KEY, BATCHES) == 0


async def test_what_was_not_handed_out_goes_back_to_its_place(make, client):
    """Before anything else is taken."""
    client.zadd(KEY, {f"{n}": n + 0.1234567 for n in range(6)})
    prefetch = make()
    await prefetch.take(4)
    assert handed_out(prefetch, 2) == [0, 1]
    assert prefetch.owed == 2
    assert await prefetch.take(0) == 0
    assert prefetch.owed == 0
    assert waiting(client) == [2, 3, 4, 5]
    assert client.zscore(KEY, "2") == 2.1234567
    await prefetch.take(9)
    assert handed_out(prefetch, 4) == [2, 3, 4, 5]


async def test_returning_and_taking_is_one_step(make, client):
    """The requeued payloads come next."""
    fill(client, 5)
    prefetch = make()
    await prefetch.take(4)
    assert handed_out(prefetch, 1) == [0]
    await prefetch.take(2)
    assert handed_out(prefetch, 2) == [1, 2]


async def test_batch_whose_answer_was_lost_comes_again(make, client):
    """The moment of the cancellation does not matter, nor how many were handed out before."""
    fill(client, 60)
    prefetch, seen = make(), []
    for steps in range(30):
        taking = asyncio.create_task(prefetch.take(3))
        await turns(steps)
        taking.cancel()
        await asyncio.wait([taking])
        if not taking.cancelled():
            seen += handed_out(prefetch, 2)
    while count := await prefetch.take(3):
        seen += handed_out(prefetch, count)
    assert seen == list(range(60))


@pytest.mark.parametrize("late", [(0, 0), (1, 1), (1, 3), (2, 0)])
async def test_call_that_is_executed_late_does_no_harm(make, server_of, client, late):
    """One of an old connection may arrive after its repetition, and much later."""
    fill(client, 12)
    prefetch, seen = make(), []
    args = [*late, 3, 60_000, 5]
    for _ in range(4):
        seen += handed_out(prefetch, await prefetch.take(3))
        if prefetch.arrived > late[0]:
            await server_of.control.run(PREFETCH, prefetch.keys, args)
    assert seen == list(range(12))


async def test_stopping_returns_everything(make, server_of, client):
    """Payloads that were handed out are not requeued, and no other key is left."""
    fill(client, 5)
    prefetch = make()
    await prefetch.take(3)
    handed_out(prefetch, 1)
    # A batch with a lost reply: none of it was handed out.
    await server_of.control.run(PREFETCH, prefetch.keys, [1, 1, 2, 60_000, 5])
    await prefetch.stop()
    assert waiting(client) == [1, 2, 3, 4]
    assert client.keys("*") == [KEY.encode()]


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.usefixtures("noted_at_once")
async def test_what_a_killed_process_did_not_hand_out_is_returned_by_others(
    make, client, overdue, count
):
    """All of it, and nothing that was handed out."""
    fill(client, 7)
    killed, other = make(), make()
    await killed.take(5)
    handed_out(killed, count)
    overdue()
    await other.take(9)
    assert handed_out(other, 7 - count) == list(range(count, 7))
    assert client.zcard(BATCHES) == 1


async def test_at_most_one_is_lost_with_a_process_that_was_killed(make, client, overdue):
    """The first counts as handed out when it is taken."""
    fill(client, 4)
    await make().take(4)
    overdue()
    other = make()
    assert await other.take(9) == 3
    assert handed_out(other, 3) == [1, 2, 3]


async def test_what_was_handed_out_without_a_turn_of_the_loop_is_noted_after_it(
    make, client, overdue
):
    """One note stands for all of them, because it is a system call."""
    fill(client, 6)
    killed, other = make(), make()
    await killed.take(6)
    handed_out(killed, 1)
    killed.noted_at = time.monotonic() + 60
    handed_out(killed, 3)
    await turns(1)
    overdue()
    assert await other.take(9) == 2
    assert handed_out(other, 2) == [4, 5]


async def test_batch_that_is_not_overdue_is_left_to_its_holder(make, client):
    """The holder may be handing it out at this moment."""
    fill(client, 5)
    holder, other = make(), make()
    await holder.take(3)
    assert await other.take(9) == 2
    assert handed_out(holder, 3) == [0, 1, 2]


@pytest.mark.usefixtures("noted_at_once")
async def test_process_that_stood_still_hands_out_nothing_that_others_have(make, client, overdue):
    """A list of payloads from before is out of date."""
    fill(client, 4)
    slow, other = make(), make()
    await slow.take(4)
    assert handed_out(slow, 1) == [0]
    overdue()
    assert await other.take(9) == 3
    slow.stale_at = time.monotonic()
    assert slow.hand_out() is None
    assert await slow.take(0) == 0
    assert handed_out(other, 3) == [1, 2, 3]
    assert client.exists(KEY) == 0


async def test_first_of_a_batch_whose_answer_was_lost_comes_although_others_took_the_rest(
    make, server_of, client, overdue
):
    """The process is alive, and has not received the payload."""
    fill(client, 3)
    slow, other = make(), make()
    await server_of.control.run(PREFETCH, slow.keys, [0, 0, 3, 60_000, 5])
    overdue()
    assert await other.take(9) == 2
    assert await slow.take(9) == 1
    assert handed_out(slow, 1) == [0]
    assert handed_out(other, 2) == [1, 2]


async def test_nothing_is_handed_out_that_cannot_be_noted(make, server_of, client, monkeypatch):
    """If the connection is gone, others may have it by the time it is back."""
    monkeypatch.setattr(_queue_reader, "NOTE_INTERVAL_SECONDS", 0)
    fill(client, 3)
    prefetch = make()
    await prefetch.take(3)
    handed_out(prefetch, 1)
    cut(client)
    await becomes(lambda: not server_of.control.is_connected)
    assert prefetch.hand_out() is None
    await prefetch.take(3)
    assert handed_out(prefetch, 2) == [1, 2]


async def test_answer_that_was_lost_is_settled_without_taking_more(make, server_of, client):
    """The payloads in the reply are requeued."""
    fill(client, 4)
    prefetch = make()
    taking = asyncio.create_task(prefetch.take(2))
    await becomes(lambda: client.zcard(KEY) == 2)
    taking.cancel()
    await asyncio.wait([taking])
    await prefetch.settle()
    assert waiting(client) == [0, 1, 2, 3]


# -- how many --------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """time.monotonic() of the module, to be set."""
    now = [100.0]
    monkeypatch.setattr(_queue_reader.time, "monotonic", lambda: now[0])
    return now


def test_more_is_taken_while_it_is_wanted_quickly(clock):
    """Twice as much each time, up to a bound."""
    size, sizes = PrefetchSize(), []
    for _ in range(9):
        sizes.append(size.next)
        size.took(size.next)
        clock[0] += PREFETCH_SECONDS / 4
        size.used_up()
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert MAX_PREFETCH == 64


def test_one_is_taken_for_a_receiver_that_takes_its_time(clock):
    """The others are for other processes."""
    size = PrefetchSize()
    size.next = 8
    size.took(8)
    clock[0] += PREFETCH_SECONDS * 1.1
    size.used_up()
    assert size.next == 1
    size.took(1)
    clock[0] += PREFETCH_SECONDS * 0.6
    size.used_up()
    assert size.next == 1


def test_no_more_is_taken_when_there_was_not_enough(clock):
    """A larger batch might not have been wanted."""
    size = PrefetchSize()
    size.next = 4
    size.took(3)
    size.used_up()
    assert size.next == 4


def test_less_is_taken_after_too_much(clock):
    """The next batch is as large as the demand was, and has at least one payload."""
    size = PrefetchSize()
    size.next = 8
    size.took(8)
    size.too_many(5)
    assert size.next == 3
    size.took(3)
    size.too_many(3)
    assert size.next == 1


# -- with a layer ----------------------------------------------------------------


async def test_receiver_that_comes_back_quickly_finds_the_next_one_here(redis_url, client):
    """A thousand messages take far fewer round trips, and keep their order."""
    async with RedisChannelLayer([redis_url], capacity=1000) as layer:
        await layer.send_many("jobs", [{"type": "test", "n": n} for n in range(1000)])
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert [(await received(layer, "jobs"))["n"] for _ in range(1000)] == list(range(1000))
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 500


async def test_what_nobody_comes_back_for_is_there_for_others(redis_url, client):
    """Within PREFETCH_SECONDS, in its place."""
    async with RedisChannelLayer([redis_url], capacity=1000) as layer:
        await layer.send_many("jobs", [{"type": "test", "n": n} for n in range(500)])
        seen = [(await received(layer, "jobs"))["n"] for _ in range(205)]
        await becomes(lambda: client.zcard(KEY) == 295)
        async with RedisChannelLayer([redis_url]) as other:
            seen += [(await received(other, "jobs"))["n"] for _ in range(295)]
        assert seen == list(range(500))


async def test_what_was_held_when_the_connection_broke_is_there_for_others(redis_url, client):
    """The rest of the batch is requeued although no receiver waits here."""
    async with RedisChannelLayer([redis_url], capacity=1000) as layer:
        await layer.send_many("jobs", [{"type": "test", "n": n} for n in range(300)])
        for _ in range(100):
            await received(layer, "jobs")
        cut(client)
        await becomes(lambda: client.zcard(KEY) == 200)


async def test_impatient_receivers_of_large_batches_keep_the_order(redis_url):
    """A payload that a cancelled receiver gave back comes before prefetched ones."""
    async with RedisChannelLayer([redis_url], capacity=1000) as layer:
        await layer.send_many("jobs", [{"type": "test", "n": n} for n in range(600)])
        seen = []
        while len(seen) < 600:
            receiving = asyncio.create_task(layer.receive("jobs"))
            await turns(len(seen) % 9)
            if len(seen) % 5 == 0:
                receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                seen.append((await receiving)["n"])
            if receiving.cancelled():
                seen.append((await received(layer, "jobs"))["n"])
        assert seen == list(range(600))


async def test_batch_that_was_handed_out_to_its_end_leaves_nothing_behind(redis_url, client):
    """The layer is closed before a receiver asks for another batch."""
    async with RedisChannelLayer([redis_url], capacity=1000) as layer:
        await layer.send_many("jobs", [{"type": "test", "n": n} for n in range(100)])
        for _ in range(100):
            await received(layer, "jobs")
    assert client.keys("*") == []


async def test_what_was_taken_in_advance_is_forgotten_by_a_flush(redis_url):
    """No receiver gets a message that was sent before the flush."""
    async with RedisChannelLayer([redis_url], capacity=1000) as layer:
        await layer.send_many("jobs", [{"type": "test", "n": n} for n in range(100)])
        for _ in range(40):
            await received(layer, "jobs")
        await layer.flush()
        await layer.send("jobs", {"type": "new"})
        assert await received(layer, "jobs") == {"type": "new"}
