"""Receivers of a shared channel, which may be cancelled at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time

import pytest
import redis

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.broker import Popped
from fast_channels.layers.redis import _queue_reader, _reader
from fast_channels.layers.redis._keys import Keys
from fast_channels.layers.redis._options import QueueOptions
from fast_channels.layers.redis._queue_reader import Origin, Prefetch, QueueReader
from fast_channels.layers.redis._server import Server
from fast_channels.layers.redis._subscriber import KeyTracker
from fast_channels.testing import inspect
from tests.layers.redis.support import cut, last_commands, outages
from tests.layers.support import PATIENCE, becomes, received, turns

KEY = "asgijobs"


# Long enough for the scores of these tests, which are small numbers.
OPTIONS = QueueOptions(1e10, 60, 30, 5)


async def attend(reader):
    reader.connected()
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def reading(*urls, forget=lambda: None):
    """A reader of the jobs on some servers."""
    servers = [Server({"address": url}) for url in urls]
    keys = Keys("asgi", "process")
    trackers = [KeyTracker(server, keys.new_heartbeat(), 5, attend) for server in servers]
    reader = QueueReader("jobs", trackers, keys, OPTIONS, forget)
    yield reader
    await reader.stop()
    for tracker in trackers:
        await tracker.stop()
    for server in servers:
        await server.close()


@pytest.fixture
async def reader(redis_url):
    async with reading(redis_url) as reader:
        yield reader


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Outages of tests are short."""
    monkeypatch.setattr(_reader, "MIN_RECONNECT_DELAY_SECONDS", 0.01)


def waiting(client):
    return [payload.decode() for payload in client.zrange(KEY, 0, -1)]


async def until_blocked(url, number=1):
    """Return once readers wait at the server."""
    await becomes(lambda: last_commands(url).count("subscribe") == number)


async def popped(reader):
    async with asyncio.timeout(PATIENCE):
        return (await reader.pop()).payload.decode()


async def test_payloads_are_taken_by_score(reader, client):
    """The oldest first, whenever it was added."""
    client.zadd(KEY, {"b": 2, "c": 3, "a": 1})
    assert [await popped(reader) for _ in range(3)] == ["a", "b", "c"]
    assert waiting(client) == []


async def test_receiver_waits_for_a_payload(reader, redis_url, client):
    """At the server, so it comes at once."""
    receiving = asyncio.create_task(popped(reader))
    await until_blocked(redis_url)
    client.zadd(KEY, {"a": 1})
    assert await receiving == "a"


async def test_receivers_are_served_in_turn(reader, client):
    """The receiver that has waited longest is first."""
    receivers = [asyncio.create_task(popped(reader)) for _ in range(5)]
    await turns()
    client.zadd(KEY, {f"{n}": n for n in range(5)})
    assert await asyncio.gather(*receivers) == ["0", "1", "2", "3", "4"]


async def test_nothing_is_taken_while_nobody_waits(reader, redis_url, client):
    """Messages that are not wanted here are there for other processes."""
    client.zadd(KEY, {"a": 1})
    assert await popped(reader) == "a"
    client.zadd(KEY, {"b": 2})
    await turns()
    assert waiting(client) == ["b"]


async def test_payload_that_nobody_wants_any_more_goes_back(reader, client):
    """To its place before the others, whenever its receiver gave up while it was on its way."""
    for steps in range(20):
        client.zadd(KEY, {"a": 1, "b": 2})
        receiving = asyncio.create_task(reader.pop())
        await turns(steps)
        receiving.cancel()
        await asyncio.wait([receiving])
        left = ["a", "b"] if receiving.cancelled() else ["b"]
        assert [await popped(reader) for _ in left] == left


async def test_payload_handed_over_in_the_moment_of_the_cancellation_goes_back(reader, client):
    """The receiver has never seen the payload."""
    receiving = asyncio.create_task(reader.pop())
    await turns(1)
    reader.hand_over(Popped(b"a", Origin(0, b"5")))
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    await becomes(lambda: waiting(client) == ["a"])
    assert client.zscore(KEY, "a") == 5


async def test_payload_that_goes_back_comes_before_those_taken_in_advance(
    reader, client, monkeypatch
):
    """A reader that has lost its connection can return nothing else."""
    monkeypatch.setattr(_queue_reader, "PREFETCH_SECONDS", PATIENCE)
    client.zadd(KEY, {"a": 1, "b": 2, "c": 3})
    reader.sources[0].batch_size.next = 3
    reader.sources[0].batch_size.took(0)
    given_up = await reader.pop()
    assert waiting(client) == []
    source = reader.sources[0]
    source.task.cancel()
    await asyncio.wait([source.task])
    source.task = None
    reader.hand_over(given_up)
    await becomes(lambda: "a" in waiting(client) and not reader.sources[0].requeuing)
    assert [await popped(reader) for _ in range(3)] == ["a", "b", "c"]


async def test_payload_that_comes_back_after_the_end_is_an_error_in_the_log(reader, caplog):
    """Nothing is lost in silence."""
    await reader.stop()
    reader.hand_over(Popped(b"a", Origin(0, b"5")))
    (record,) = [record for record in caplog.records if record.name.startswith("fast_channels")]
    assert record.levelno == logging.ERROR
    assert "'asgijobs'" in record.getMessage()


async def test_cancelled_receive_loses_nothing_and_keeps_the_order(redis_url):
    """Three hundred messages under timeouts, by one reader."""
    async with RedisChannelLayer([redis_url], capacity=1000) as layer:
        chance = random.Random(8)
        seen = []

        async def send_all():
            for n in range(300):
                await layer.send("jobs", {"type": "test", "n": n})

        sending = asyncio.create_task(send_all())
        async with asyncio.timeout(20):
            while len(seen) < 300:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(chance.uniform(0, 0.01)):
                        while True:
                            seen.append((await layer.receive("jobs"))["n"])
        await sending
        assert sorted(seen) == list(range(300))


async def test_closing_while_a_receiver_waits_is_quick(reader, redis_url):
    """The blocking read is ended, not waited for."""
    receiving = asyncio.create_task(reader.pop())
    await until_blocked(redis_url)
    async with asyncio.timeout(4):
        await reader.stop()
    receiving.cancel()


async def test_closing_while_a_receiver_waits_loses_nothing(redis_url, client):
    """The next process gets a message that was taken in this moment."""
    for number in range(10):
        async with RedisChannelLayer([redis_url]) as layer:
            receiving = asyncio.create_task(layer.receive("jobs"))
            await until_blocked(redis_url)
            receiving.cancel()
            sending = asyncio.create_task(layer.send("jobs", {"type": "test", "n": number}))
            await turns(number)
            if number % 2:
                await sending
            async with asyncio.timeout(4):
                await layer.close()
            await asyncio.gather(sending, receiving, return_exceptions=True)
        if sending.exception() is None:
            assert client.zcard(KEY) == 1
            async with RedisChannelLayer([redis_url]) as other:
                assert (await received(other, "jobs"))["n"] == number


async def test_closing_while_nobody_waits_is_quick(reader, client, redis_url):
    """The reader has nothing to finish."""
    client.zadd(KEY, {"a": 1})
    assert await popped(reader) == "a"
    async with asyncio.timeout(4):
        await reader.stop()


async def test_tap_that_was_never_used_can_be_stopped(reader):
    """Stopping such a reader does nothing."""
    async with asyncio.timeout(4):
        await reader.stop()


async def test_receiver_outlives_a_lost_connection(reader, redis_url, client, caplog):
    """The receiver gets the next message."""
    receiving = asyncio.create_task(popped(reader))
    await until_blocked(redis_url)
    cut(client)
    await becomes(lambda: outages(caplog))
    client.zadd(KEY, {"a": 1})
    assert await receiving == "a"


async def test_receiver_outlives_a_restart_of_the_server(server, caplog):
    """However long it takes."""
    async with RedisChannelLayer([server.url]) as layer:
        receiving = asyncio.create_task(received(layer, "jobs"))
        await until_blocked(server.url)
        server.kill()
        await becomes(lambda: outages(caplog))
        server.start()
        async with RedisChannelLayer([server.url]) as peer:
            await peer.send("jobs", {"type": "test"})
        assert await receiving == {"type": "test"}


async def test_server_that_is_back_is_ready_though_no_receiver_waits_any_more(server, caplog):
    """The reader that noticed the outage also notices its end."""
    caplog.set_level(logging.INFO)
    async with RedisChannelLayer([server.url]) as layer:
        receiving = asyncio.create_task(layer.receive("jobs"))
        await until_blocked(server.url)
        server.kill()
        await becomes(lambda: layer.health().state == "degraded")
        # It has tried in vain by then.
        with contextlib.suppress(LayerUnavailable):
            await layer.send("jobs", {"type": "test"})
        await asyncio.sleep(0.3)
        receiving.cancel()
        server.start()
        await becomes(lambda: layer.health().state == "ready")
    assert [level for level, _ in outages(caplog)] == ["WARNING", "INFO"]


async def test_both_of_two_servers_are_read(redis_url, second_valkey, client):
    """Peers may hash a name in another way."""
    with redis.Redis.from_url(second_valkey.url) as second:
        second.flushall()
        async with RedisChannelLayer([redis_url, second_valkey.url]) as layer:
            payload = layer.serialize({"type": "test"})
            for server in (client, second):
                server.zadd(KEY, {payload: time.time()})
                assert await received(layer, "jobs") == {"type": "test"}


async def test_tap_that_nobody_wants_ends(redis_url, client, monkeypatch):
    """A channel per request and answer must not leave a connection each."""
    monkeypatch.setattr(_queue_reader, "READER_IDLE_SECONDS", 0.01)
    async with RedisChannelLayer([redis_url]) as layer:
        await layer.send("jobs", {"type": "test", "n": 1})
        assert (await received(layer, "jobs"))["n"] == 1
        await becomes(lambda: not inspect.broker(layer).queue_readers)
        await layer.send("jobs", {"type": "test", "n": 2})
        assert (await received(layer, "jobs"))["n"] == 2


async def test_tap_that_nobody_wants_any_more_ends(redis_url, monkeypatch):
    """A reader also ends if it waits for a notice of the server."""
    monkeypatch.setattr(_queue_reader, "READER_IDLE_SECONDS", 0.01)
    takes = []
    take = Prefetch.take

    async def counted(draw, size):
        taken = await take(draw, size)
        takes.append(size)
        return taken

    monkeypatch.setattr(Prefetch, "take", counted)
    async with RedisChannelLayer([redis_url]) as layer:
        receiving = asyncio.create_task(layer.receive("jobs"))
        # The first call looks for earlier messages.
        await becomes(lambda: len(takes) >= 2)
        await turns()
        receiving.cancel()
        await becomes(lambda: not inspect.broker(layer).queue_readers)


async def test_reader_of_a_server_that_is_gone_ends_with_the_layer(redis_url, server, monkeypatch):
    """The reader was idle for long, and the readers of other servers have ended."""
    monkeypatch.setattr(_queue_reader, "READER_IDLE_SECONDS", 0.05)
    async with RedisChannelLayer([redis_url, server.url], send_timeout=3) as layer:
        receiving = asyncio.create_task(layer.receive("jobs"))
        await until_blocked(redis_url)
        await until_blocked(server.url)
        server.kill()
        receiving.cancel()
        await asyncio.wait([receiving])
        await becomes(lambda: not inspect.broker(layer).queue_readers)
    left = [task.get_name() for task in asyncio.all_tasks() if "reader" in task.get_name()]
    assert left == []


async def test_tap_that_is_not_wanted_is_forgotten_once(redis_url, second_valkey, monkeypatch):
    """A second call would forget the next reader of the name."""
    monkeypatch.setattr(_queue_reader, "READER_IDLE_SECONDS", 0.05)
    urls, forgotten = (redis_url, second_valkey.url), []
    async with reading(*urls, forget=lambda: forgotten.append(1)) as reader:
        receiving = asyncio.create_task(reader.pop())
        for url in urls:
            await until_blocked(url)
        receiving.cancel()
        await becomes(lambda: all(source.task.done() for source in reader.sources))
    assert forgotten == [1]


async def test_receiver_that_is_cancelled_while_its_tap_is_stopped_is_cancelled(reader, redis_url):
    """The receiver does not raise the error that it was about to get."""
    receiving = asyncio.create_task(reader.pop())
    await until_blocked(redis_url)
    stopping = asyncio.create_task(reader.stop())
    # Its first step tells all receivers that it is over.
    await turns(1)
    receiving.cancel()
    await asyncio.wait([receiving, stopping])
    assert receiving.cancelled()


async def test_payload_that_has_expired_is_skipped_and_told(redis_url, client, caplog):
    """With the age, since a clock that is wrong looks like that, too."""
    async with RedisChannelLayer([redis_url], expiry=60) as layer:
        client.zadd(KEY, {"a": time.time() - 100, "b": time.time() - 90})
        await layer.send("others", {"type": "test"})
        receiving = asyncio.create_task(layer.receive("jobs"))
        await becomes(lambda: client.zcard(KEY) == 0 and caplog.records)
        receiving.cancel()
        await asyncio.wait([receiving])
    assert "asgijobs" in caplog.text
    assert re.search(r"\b1\d\d s old", caplog.text)


@pytest.mark.parametrize("executed", [True, False])
async def test_payload_whose_return_was_not_confirmed_comes_back_once(
    reader, client, monkeypatch, executed
):
    """Another process may have received it when the requeue is repeated."""
    control, received_by_others = reader.sources[0].server.control, []
    call = control.call

    async def unconfirmed(*command):
        monkeypatch.setattr(control, "call", call)
        if executed:
            await run(*command)
            received_by_others.extend(client.zpopmin(KEY))
        raise LayerUnavailable(control, "no answer in time")

    async def run(name, *rest):
        if name == "EVALSHA":
            await call("SCRIPT", "LOAD", _queue_reader.REQUEUE.text)
        await call(name, *rest)

    monkeypatch.setattr(control, "call", unconfirmed)
    reader.hand_over(Popped(b"a", Origin(0, b"5")))
    await becomes(lambda: not reader.sources[0].requeuing)
    assert received_by_others == ([(b"a", 5)] if executed else [])
    assert waiting(client) == ([] if executed else ["a"])
    # Nothing is left that tells of it.
    assert client.keys("asgi:batch:*") == []


async def test_payload_that_comes_back_while_its_tap_is_stopped_goes_back(reader, client):
    """All other payloads have gone back at this moment."""
    reader.hand_over(Popped(b"a", Origin(0, b"1")))
    (returning,) = reader.sources[0].requeuing
    returning.add_done_callback(lambda _: reader.hand_over(Popped(b"b", Origin(0, b"2"))))
    await reader.stop()
    assert not reader.sources[0].requeuing
    assert waiting(client) == ["a", "b"]


async def test_batch_that_arrives_while_a_payload_goes_back_is_not_handed_out(reader, client):
    """The payload that goes back stood before that batch."""
    source = reader.sources[0]
    client.zadd(KEY, {"a": 1})
    given_up = await reader.pop()
    client.zadd(KEY, {"b": 2, "c": 3})
    waiter = asyncio.create_task(reader.pop())
    async with asyncio.timeout(PATIENCE):
        while not source.prefetch.reply_missing:
            await asyncio.sleep(0)
        waiter.cancel()
        reader.hand_over(given_up)
        while source.prefetch.reply_missing or source.requeuing:
            await asyncio.sleep(0)
    assert [await popped(reader) for _ in range(3)] == ["a", "b", "c"]
