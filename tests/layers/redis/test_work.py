"""Work on Redis: its keys on the server, and the effects of outages."""

from __future__ import annotations

import asyncio
import contextlib
import math

import pytest
import redis

from fast_channels.exceptions import BrokerRefused, InvalidChannelLayerError, LayerClosed
from fast_channels.layers import InMemoryChannelLayer, RedisStreamsChannelLayer
from fast_channels.layers.options import WorkOptions
from fast_channels.layers.redis import _work as module
from fast_channels.testing import inspect
from tests.chaos.servers import documented_rule, of_documented_user
from tests.layers.redis.support import cut

PATIENCE = 15.0
QUEUE, DUE, DEAD = "asgi__work__{work}", "asgi__work__{work}:due", "asgi__work__{work}:dead"


@pytest.fixture
async def opened():
    """Opens layers and closes them after the test."""
    async with contextlib.AsyncExitStack() as stack:
        yield stack.enter_async_context


@pytest.fixture
async def layer(opened, redis_url):
    return await opened(RedisStreamsChannelLayer([redis_url]))


def task(n):
    return {"type": "work.task", "n": n}


async def next_number(layer):
    async with asyncio.timeout(PATIENCE), layer.take("work") as work:
        return work.message["n"]


async def becomes(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_nothing_is_left_of_work_that_is_done(layer, client):
    """No key of any kind, however it was done."""
    await layer.send_many("work", map(task, range(3)))
    for _ in range(2):
        await next_number(layer)
    with contextlib.suppress(ValueError):
        async with layer.take("work"):
            raise ValueError
    assert sorted(map(bytes.decode, client.keys("*work*"))) == [QUEUE, DUE]
    client.zadd(DUE, {client.zrange(DUE, 0, 0)[0]: 0})
    await next_number(layer)
    await becomes(lambda: not client.keys("*work*"))


async def test_number_of_dead_letters_is_bounded(opened, redis_url, client, monkeypatch):
    """The oldest are forgotten."""
    monkeypatch.setattr(module, "MAX_DEAD_LETTERS", 3)
    layer = await opened(RedisStreamsChannelLayer([redis_url]))
    await layer.send_many("work", map(task, range(5)))
    for n in range(5):
        async with layer.take("work") as work:
            work.reject(f"reason {n}")
    assert client.xlen(DEAD) == 3
    assert [letter.reason for letter in await layer.dead_letters("work")] == [
        "reason 2",
        "reason 3",
        "reason 4",
    ]


async def test_reader_that_is_gone_is_not_listed_for_ever(opened, redis_url, client):
    """Other processes have its messages by then."""
    one = await opened(RedisStreamsChannelLayer([redis_url]))
    other = await opened(RedisStreamsChannelLayer([redis_url], check_interval=0.05))
    await one.send_many("work", map(task, range(2)))
    async with one.take("work"), other.take("work"):
        assert len(client.xinfo_consumers(QUEUE, "workers")) == 2
        # As if the first had taken too long.
        client.zadd(DUE, {client.zrange(DUE, 0, 0)[0]: 0})
        assert await next_number(other) == 0
        (left,) = client.xinfo_consumers(QUEUE, "workers")
        assert left["name"].decode() == other.process


async def test_waiting_worker_asks_seldom(layer, client):
    """A notice tells of work, and the worker looks from time to time in case it was lost."""
    waiting = asyncio.create_task(next_number(layer))
    await becomes(lambda: client.pubsub_numsub(QUEUE)[0][1] == 1)
    await asyncio.sleep(0.05)
    asked = client.info("stats")["total_commands_processed"]
    await asyncio.sleep(0.5)
    # The one that asks, and at most a heartbeat and its like.
    assert client.info("stats")["total_commands_processed"] - asked < 10
    await layer.send("work", task(1))
    # Sooner than by looking.
    async with asyncio.timeout(5):
        assert await waiting == 1


async def test_work_is_found_though_nobody_tells_of_it(opened, redis_url, client):
    """Within a check interval: a server that was restored, or news that got lost."""
    layer = await opened(RedisStreamsChannelLayer([redis_url], check_interval=0.1))
    await layer.send("work", task(1))
    dumped = client.dump(QUEUE)
    assert await next_number(layer) == 1
    await becomes(lambda: not client.exists(QUEUE))
    waiting = asyncio.create_task(next_number(layer))
    await becomes(lambda: client.pubsub_numsub(QUEUE)[0][1] == 1)
    client.restore(QUEUE, 0, dumped)
    assert await waiting == 1


async def test_waiting_worker_survives_an_outage(opened, server):
    """The worker gets the first message after it."""
    layer = await opened(RedisStreamsChannelLayer([server.url], check_interval=0.1))
    waiting = asyncio.create_task(next_number(layer))
    await asyncio.sleep(0.1)
    server.stop()
    await asyncio.sleep(0.3)
    assert not waiting.done()
    server.start()
    with redis.Redis.from_url(server.url) as raw:
        await asyncio.to_thread(raw.ping)
    await layer.send("work", task(1))
    assert await waiting == 1


async def test_acknowledgement_waits_out_a_broken_connection(layer, client):
    """The layer sends it again, and the work is not redelivered."""
    await layer.send("work", task(1))
    async with layer.take("work"):
        cut(client)
    await becomes(lambda: not client.exists(QUEUE))


async def test_acknowledgement_that_nobody_hears_is_no_error(opened, server, caplog):
    """The work is done. It comes again, and the log says so."""
    layer = await opened(RedisStreamsChannelLayer([server.url], send_timeout=1))
    await layer.send("work", task(1))
    async with asyncio.timeout(PATIENCE), layer.take("work"):
        server.stop()
    assert "it will come again" in caplog.text


async def test_work_whose_claim_was_not_heard_comes_soon(layer, client, monkeypatch):
    """The process tells its leases and gets the rest, before the visibility timeout."""
    await layer.send_many("work", map(task, range(4)))
    async with layer.take("work") as kept:
        control = inspect.broker(layer).shards[0].server.control
        run, lost = control.run, []

        async def losing(script, keys, args):
            reply = await run(script, keys, args)
            if script is module.WORK_LEASE and not lost:
                lost.append(reply)
                raise module.LayerUnavailable("the server", "the reply got lost")
            return reply

        monkeypatch.setattr(control, "run", losing)
        async with asyncio.timeout(PATIENCE), layer.take("work") as work:
            assert (work.message, work.deliveries) == (task(1), 1)
        assert lost
        assert [await next_number(layer) for _ in range(2)] == [2, 3]
        assert kept.message == task(0)
    await becomes(lambda: not client.exists(QUEUE))


async def test_pause_goes_on_when_a_claim_was_not_heard(opened, redis_url, client):
    """A message that waits for another attempt is not leased."""
    layer = await opened(RedisStreamsChannelLayer([redis_url], retry_backoff=(60.0, 60.0)))
    await layer.send("work", task(1))
    with contextlib.suppress(ValueError):
        async with layer.take("work"):
            raise ValueError
    inspect.broker(layer).work_readers["work"].reply_lost = True
    await layer.send("work", task(2))
    assert await next_number(layer) == 2
    assert client.zcard(DUE) == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), layer.take("work"):
            pass


async def test_what_nobody_took_is_forgotten_after_its_expiry(opened, redis_url, caplog):
    """If there is one; the log says how much."""
    layer = await opened(RedisStreamsChannelLayer([redis_url], expiry=3, capacity=3))
    await layer.send_many("work", map(task, range(3)))
    async with layer.take("work"):
        await asyncio.sleep(3.1)
        # Room for as many as are too old; the one in hands is not.
        await layer.send_many("work", map(task, range(3, 5)))
        assert [await next_number(layer) for _ in range(2)] == [3, 4]
    await layer.send("work", task(5))
    await asyncio.sleep(3.1)
    waiting = asyncio.create_task(next_number(layer))
    await becomes(lambda: "no worker took within 3 s" in caplog.text)
    await layer.send("work", task(6))
    assert await waiting == 6


async def test_refusal_reaches_whoever_wants_work(layer, client):
    """The key has another type, so waiting would not help."""
    client.set(QUEUE, "something else")
    with pytest.raises(BrokerRefused):
        await next_number(layer)


async def test_closing_gives_back_what_was_handed_over_unseen(opened, redis_url):
    """A layer that closes while a worker waits takes nothing along."""
    caller = RedisStreamsChannelLayer([redis_url])
    await caller.open()
    waiting = asyncio.create_task(next_number(caller))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await caller.close()
    layer = await opened(RedisStreamsChannelLayer([redis_url]))
    await layer.send("work", task(1))
    assert await next_number(layer) == 1


async def test_closing_gives_back_what_is_on_its_way(opened, redis_url, monkeypatch):
    """Another worker gets the message at once, and the delivery does not count."""
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_SECONDS", PATIENCE)
    caller = await opened(RedisStreamsChannelLayer([redis_url]))
    control = inspect.broker(caller).shards[0].server.control
    run, on_its_way, arrives = control.run, asyncio.Event(), asyncio.Event()

    async def slow(script, keys, args):
        reply = await run(script, keys, args)
        if script is module.WORK_LEASE and reply[2:]:
            on_its_way.set()
            await arrives.wait()
        return reply

    monkeypatch.setattr(control, "run", slow)
    waiting = asyncio.create_task(next_number(caller))
    layer = await opened(RedisStreamsChannelLayer([redis_url]))
    await layer.send("work", task(1))
    async with asyncio.timeout(PATIENCE):
        await on_its_way.wait()
    closing = asyncio.create_task(caller.close())
    with pytest.raises(LayerClosed):
        await waiting
    arrives.set()
    await closing
    async with asyncio.timeout(PATIENCE), layer.take("work") as work:
        assert (work.message, work.deliveries) == (task(1), 1)


async def test_work_that_was_handed_out_again_here_is_known_to_be_in_hands(layer, client):
    """The worker that had it before has ended late."""
    await layer.send("work", task(1))
    async with contextlib.AsyncExitStack() as again:
        async with layer.take("work"):
            # As if it had taken too long.
            client.zadd(DUE, {client.zrange(DUE, 0, 0)[0]: 0})
            work = await again.enter_async_context(layer.take("work"))
            assert work.deliveries == 2
        inspect.broker(layer).work_readers["work"].reply_lost = True
        await layer.send("work", task(2))
        assert await next_number(layer) == 2


async def test_documented_rights_are_enough(opened, server):
    """For all that can happen to work."""
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command(*documented_rule().split())
    url = of_documented_user(server.url)
    options = {"max_deliveries": 1, "capacity": 2, "expiry": 3, "visibility_timeout": 0.1}
    one, other = [
        await opened(RedisStreamsChannelLayer([url], check_interval=0.05, **options))
        for _ in range(2)
    ]
    await one.send_many("work", map(task, range(2)))
    async with one.take("work"):
        await asyncio.sleep(3.1)
        await one.send("work", task(2))
        # The first is dead by then.
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(next_number(other))
        async with asyncio.timeout(PATIENCE):
            while not await other.dead_letters("work"):
                await asyncio.sleep(0.01)
        assert await waiting == 2
        assert await other.retry_dead_letters("work") == 1
        assert await next_number(other) == 0
    with redis.Redis.from_url(server.url) as raw:
        assert raw.execute_command("ACL", "LOG") == []


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("visibility_timeout", 0, "visibility_timeout is 0; it is a number of seconds"),
        ("visibility_timeout", math.inf, "visibility_timeout is inf; it is a number of seconds"),
        ("max_deliveries", 0, "max_deliveries is 0; it is a whole number of at least 1"),
        ("max_deliveries", True, "max_deliveries is True"),
        ("retry_backoff", 1.0, "retry_backoff is 1.0; it is a pair of seconds"),
        ("retry_backoff", (2.0, 1.0), "retry_backoff is (2.0, 1.0)"),
        ("retry_backoff", (-1, 1), "retry_backoff is (-1, 1)"),
    ],
)
@pytest.mark.parametrize("make", [RedisStreamsChannelLayer, InMemoryChannelLayer])
def test_option_that_cannot_be_meant_is_refused(make, option, value, sentence):
    """The error comes when the layer is made, and has a remedy."""
    with pytest.raises(InvalidChannelLayerError) as error:
        make(**{option: value})
    assert sentence in str(error.value)


def test_pauses_double_up_to_the_longest():
    """However often it failed."""
    options = WorkOptions(retry_backoff=(1.0, 60.0))
    reconnect_delays = [options.pause(deliveries) for deliveries in (1, 2, 3, 6, 7, 10_000)]
    assert reconnect_delays == [1, 2, 4, 32, 60, 60]
