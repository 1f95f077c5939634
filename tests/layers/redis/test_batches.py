"""Batches stay on the server until they have arrived. Covers BatchReader in _inbox.py."""

from __future__ import annotations

import asyncio
import random

import pytest

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.redis._inbox import TAKE, BatchReader, RecentPayloads
from fast_channels.layers.redis._server import Server
from tests.layers.redis.support import cut, paused
from tests.layers.support import turns

KEY, OTHER, BATCH = "asgijobs", "asgiother", "asgi:batch"


@pytest.fixture
async def server_of(redis_url):
    server = Server({"address": redis_url})
    yield server
    await server.close()


@pytest.fixture
def batches(server_of):
    return BatchReader(server_of.control, BATCH, [KEY], 60)


def fill(client, count, key=KEY):
    client.zadd(key, {f"{n}": n for n in range(count)})


async def taken(batches, size=10):
    return [int(payload) for payload in await batches.take(size)]


# -- taking --------------------------------------------------------------------


async def test_payloads_are_taken_by_score_in_batches(batches, client):
    """Each payload is taken once, and an empty set gives nothing."""
    fill(client, 25)
    assert await taken(batches) == list(range(10))
    assert await taken(batches) == list(range(10, 20))
    assert await taken(batches) == list(range(20, 25))
    assert await taken(batches) == []
    assert client.zcard(KEY) == 0


async def test_several_sets_share_a_batch(server_of, client):
    """The first set is emptied first, and the size of the batch is the total."""
    fill(client, 3)
    fill(client, 5, OTHER)
    batches = BatchReader(server_of.control, BATCH, [KEY, OTHER], 60)
    assert await taken(batches, 4) == [0, 1, 2, 0]
    assert await taken(batches, 9) == [1, 2, 3, 4]


async def test_batch_whose_answer_was_lost_comes_again(batches, client):
    """The caller may be cancelled at any moment."""
    fill(client, 40)
    seen = []
    for steps in range(30):
        taking = asyncio.create_task(taken(batches, 1))
        await turns(steps)
        taking.cancel()
        await asyncio.wait([taking])
        if not taking.cancelled():
            seen += taking.result()
    while numbers := await taken(batches):
        seen += numbers
    assert seen == list(range(40))


async def test_broken_connections_lose_nothing(batches, client):
    """No payload comes twice either, no matter how often the connection breaks."""
    fill(client, 300)
    dice = random.Random(3)
    seen = []

    async def take_all():
        while client.zcard(KEY) or client.llen(BATCH) > 1:
            try:
                seen.extend(await taken(batches, 3))
            except LayerUnavailable:
                await turns()

    taking = asyncio.create_task(take_all())
    steps, before = 30, 0
    while not taking.done():
        await turns(dice.randrange(steps))
        cut(client)
        # A busy machine needs longer until a payload arrives.
        steps, before = 30 if len(seen) > before else steps + 10, len(seen)
    await taking
    assert seen == list(range(300))


async def test_answer_that_came_too_late_is_given_again(server, client):
    """The server executed the command after the caller had given up."""
    impatient = Server({"address": server.url}, timeout=3.0)
    batches = BatchReader(impatient.control, BATCH, [KEY], 60)
    await impatient.control.call("ZADD", KEY, 0, "0", 1, "1")
    with paused(server), pytest.raises(LayerUnavailable):
        await batches.take(1)
    assert [await taken(batches, 1) for _ in range(3)] == [[0], [1], []]
    await impatient.close()


@pytest.mark.parametrize("late", [0, 1, 2])
async def test_call_that_is_executed_late_does_no_harm(batches, server_of, client, late):
    """A call of an old connection may arrive after its repetition, and much later."""
    fill(client, 6)
    args = [late, 2, 60_000]
    seen = []
    for _ in range(3):
        seen += await taken(batches, 2)
        await server_of.control.run(TAKE, [BATCH, KEY], args)
    seen += await taken(batches, 2)
    assert seen == list(range(6))


async def test_size_of_zero_takes_nothing_new(batches, client):
    """The call fetches payloads that were taken and did not arrive."""
    fill(client, 2)
    await batches._client.run(TAKE, [BATCH, KEY], [0, 1, 60_000])
    assert await taken(batches, 0) == [0]
    assert await taken(batches, 0) == []
    assert client.zcard(KEY) == 1


async def test_server_that_forgot_everything_is_no_obstacle(batches, client):
    """The numbers continue from the last batch that arrived."""
    fill(client, 1)
    assert await taken(batches) == [0]
    client.flushall()
    fill(client, 3)
    assert await taken(batches) == [0, 1, 2]


async def test_batch_that_nobody_fetches_is_forgotten(batches, client):
    """The batch expires after `expiry`, like the messages in it."""
    fill(client, 1)
    await taken(batches)
    assert 0 < client.pttl(BATCH) <= 60_000


def test_so_many_payloads_are_remembered():
    """The oldest payload is forgotten first. RecentPayloads belongs to _inbox.py."""
    recent = RecentPayloads(3)
    for payload in (b"a", b"b", b"c", b"d"):
        recent.add(payload)
    assert [payload in recent for payload in (b"a", b"b", b"c", b"d")] == [False, True, True, True]
