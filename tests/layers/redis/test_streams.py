"""Redis Streams: keys, and how missing messages are found. Covers streams.py and _log.py."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import redis

from fast_channels.exceptions import (
    BrokerRefused,
    InvalidChannelLayerError,
    LayerUnavailable,
)
from fast_channels.layers import RedisStreamsChannelLayer
from fast_channels.layers.redis import _catch_up, _log, _reader
from fast_channels.layers.redis._log import StreamLog
from fast_channels.testing import inspect
from tests.layers.redis.support import cut
from tests.layers.support import arrives, becomes

KEY = "asgi__log__{room}"


@pytest.fixture
async def opened():
    """Makes layers, and closes them after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(url, **options):
            return await stack.enter_async_context(RedisStreamsChannelLayer([url], **options))

        yield make


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Outages of tests are short."""
    monkeypatch.setattr(_reader, "MIN_RECONNECT_DELAY_SECONDS", 0.01)


@pytest.fixture
def unheard(monkeypatch):
    """Messages are in the log, and no notification tells of them."""
    text = _log.APPEND.text.replace("redis.call('PUBLISH'", "redis.call('ECHO'")
    text = text.replace("ECHO', KEYS[1], ", "ECHO', ")

    class Silent:
        sha = "0" * 40

    Silent.text = text

    @contextlib.contextmanager
    def unheard():
        with monkeypatch.context() as patch:
            patch.setattr(_log, "APPEND", Silent)
            yield

    return unheard


def number(n):
    return {"type": "test", "n": n}


async def member(layer):
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    return inbox


async def numbers(inbox, count):
    """The next messages; "lost" and "recovered" stand for gaps."""
    found = []
    while len(found) < count:
        message = await arrives(inbox)
        is_gap = message["type"] == "layer.gap"
        found.append(("recovered" if message["recovered"] else "lost") if is_gap else message["n"])
    return found


# -- the wire ------------------------------------------------------------------


async def test_group_is_a_stream_with_its_offsets_as_ids(opened, redis_url, client):
    """A hash with the same hash tag has the end of the log."""
    layer = await opened(redis_url)
    position = await layer.group_send("room", number(1))
    assert sorted(client.keys("*")) == [KEY.encode(), f"{KEY}:meta".encode()]
    ((id_, _),) = client.xrange(KEY)
    assert id_ == f"1-{position.tag}".encode()
    assert client.hgetall(f"{KEY}:meta") == {
        b"epoch": position.epoch.encode(),
        b"offset": b"1",
        b"tag": str(position.tag).encode(),
    }


async def test_prefixes_keep_layers_apart(opened, redis_url):
    """Groups of the same name on one server are different groups."""
    one, other = await opened(redis_url, prefix="one"), await opened(redis_url, prefix="other")
    await one.group_send("room", number(1))
    assert (await other.history("room")).messages == []


async def test_stream_and_what_is_beside_it_end_by_themselves(opened, redis_url, client):
    """The stream after its time; where it stood is known for at least a day."""
    layer = await opened(redis_url, history_ttl=20)
    await layer.group_send("room", number(1), idempotency_key="key")
    assert 10_000 < client.pttl(KEY) <= 20_000
    assert 86_000_000 < client.pttl(f"{KEY}:meta") <= 86_400_000
    assert 290_000 < client.pttl(f"{KEY}:once:key") <= 300_000


async def test_stream_is_no_longer_than_the_history(opened, redis_url, client):
    """One more is kept, by which a position before the oldest is known."""
    layer = await opened(redis_url, history_size=10)
    await layer.group_send_many("room", [number(n) for n in range(300)])
    assert client.xlen(KEY) == 11


async def test_messages_to_a_channel_of_another_process_go_by_the_log_of_its_inbox(
    opened, redis_url, client
):
    """One for all of its channels, so that these cost no subscription each."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    inboxes = [await layer.open_channel() for _ in range(3)]
    for n, inbox in enumerate(inboxes):
        await peer.send(inbox.name, number(n))
    assert [await numbers(inbox, 1) for inbox in inboxes] == [[0], [1], [2]]
    assert client.keys("*:meta") == [f"asgi__log__{{specific.{layer.process}!}}:meta".encode()]


async def test_flush_forgets_the_histories_of_this_prefix(opened, redis_url, client):
    """Other prefixes keep theirs, even if this one is a pattern."""
    client.set("asgiX__log__{room}", "not ours")
    layer = await opened(redis_url, prefix="asgi?")
    await layer.group_send("room", number(1))
    await layer.flush()
    assert client.keys("*") == [b"asgiX__log__{room}"]


# -- missing messages ------------------------------------------------------------


async def test_hole_is_filled_before_anything_later_is_delivered(opened, redis_url, unheard):
    """Messages without a notification arrive in order, and no gap is told."""
    layer = await opened(redis_url)
    inbox = await member(layer)
    await layer.group_send("room", number(0))
    with unheard():
        for n in (1, 2, 3):
            await layer.group_send("room", number(n))
    await layer.group_send("room", number(4))
    assert await numbers(inbox, 5) == [0, 1, 2, 3, 4]


async def test_last_message_that_was_not_told_is_found(opened, redis_url, unheard):
    """A quiet group is compared with its log now and then."""
    layer = await opened(redis_url, check_interval=0.05)
    inbox = await member(layer)
    with unheard():
        await layer.group_send("room", number(1))
    assert await numbers(inbox, 1) == [1]
    await layer.group_send("room", number(2))
    assert await numbers(inbox, 1) == [2]


async def test_hole_that_the_history_does_not_reach_is_told_once(opened, redis_url, unheard):
    """The gap comes first, then the messages that are left, in order."""
    layer = await opened(redis_url, history_size=3)
    inbox = await member(layer)
    with unheard():
        for n in range(10):
            await layer.group_send("room", number(n))
    await layer.group_send("room", number(10))
    found = await numbers(inbox, 5)
    assert found[0] == "lost"
    assert found[1:] == [7, 8, 9, 10]
    assert layer.statistics().gaps == 1


async def test_long_hole_overflows_nobody_who_keeps_up(opened, redis_url, unheard):
    """Messages that are read together are delivered in batches."""
    layer = await opened(redis_url, capacity=10)
    inbox = await member(layer)
    seen = []

    async def read():
        while len(seen) < 701:
            seen.append((await inbox.get())["n"])

    reading = asyncio.create_task(read())
    with unheard():
        await layer.group_send_many("room", [number(n) for n in range(700)])
    await layer.group_send("room", number(700))
    async with asyncio.timeout(10):
        await reading
    assert seen == list(range(701))
    assert inbox.dropped == 0


async def test_connection_that_breaks_costs_nothing(opened, redis_url, client):
    """Messages in between arrive in order, and the gap says so."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    inbox = await member(layer)
    seen = []
    for round_ in range(3):
        cut(client, "pubsub")
        for n in range(20):
            await peer.group_send("room", number(20 * round_ + n))
        seen += await numbers(inbox, 21)
    assert seen.count("recovered") == 3
    assert [n for n in seen if n != "recovered"] == list(range(60))


async def test_direct_messages_survive_a_broken_connection(opened, redis_url, client):
    """They go by a log as well."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    inbox = await layer.open_channel()
    cut(client, "pubsub")
    for n in range(5):
        await peer.send(inbox.name, number(n))
    found = await numbers(inbox, 6)
    assert [n for n in found if n != "recovered"] == list(range(5))


async def test_server_that_was_emptied_begins_a_new_epoch(opened, redis_url, client):
    """One gap is told, and later messages arrive."""
    layer = await opened(redis_url)
    inbox = await member(layer)
    before = await layer.group_send("room", number(1))
    client.flushall()
    after = await layer.group_send("room", number(2))
    assert (after.offset, after.epoch == before.epoch) == (1, False)
    assert await numbers(inbox, 3) == [1, "lost", 2]
    await layer.group_send("room", number(3))
    assert await numbers(inbox, 1) == [3]
    assert layer.statistics().gaps == 1


async def test_history_that_is_trimmed_while_it_is_read_is_not_recovered(
    opened, redis_url, client, monkeypatch
):
    """A history that is read in parts may lose its end, and then counts as incomplete."""
    layer = await opened(redis_url)
    monkeypatch.setattr(_log, "MAX_ENTRIES_PER_REPLY", 3)
    first, *_ = [await layer.group_send("room", number(n)) for n in range(10)]
    read_some = StreamLog.read_some

    async def trimmed_after(self, topic, after):
        stretch = await read_some(self, topic, after)
        client.xtrim(KEY, maxlen=1, approximate=False)
        return stretch

    monkeypatch.setattr(StreamLog, "read_some", trimmed_after)
    history = await layer.history("room", first)
    assert ([m["n"] for _, m in history.messages], history.recovered) == ([1, 2, 3], False)


async def test_evicted_log_keeps_its_numbers(opened, redis_url, client, unheard):
    """A complete receiver is in order, and a receiver that misses something is told."""
    layer = await opened(redis_url)
    inbox = await member(layer)
    first = await layer.group_send("room", number(1))
    client.delete(KEY)
    assert (await layer.history("room", first)).recovered
    with unheard():
        await layer.group_send("room", number(2))
    client.delete(KEY)
    third = await layer.group_send("room", number(3))
    assert (third.epoch, third.offset) == (first.epoch, 3)
    assert await numbers(inbox, 3) == [1, "lost", 3]
    assert not (await layer.history("room", first)).recovered


async def test_lost_knowledge_of_where_a_log_stood_is_a_new_epoch(opened, redis_url, client):
    """Messages of the old log are not taken for messages of the new one."""
    layer = await opened(redis_url)
    before = await layer.group_send("room", number(1))
    client.delete(f"{KEY}:meta")
    assert (await layer.history("room")).messages == []
    after = await layer.group_send("room", number(2))
    assert after.epoch != before.epoch
    assert [kept.message["n"] for kept in (await layer.history("room")).messages] == [2]


async def test_log_that_is_ahead_of_where_it_stands_is_a_new_epoch(opened, redis_url, client):
    """As after a restore of some keys; nothing is refused for it."""
    layer = await opened(redis_url)
    await layer.group_send_many("room", [number(n) for n in range(5)])
    client.hset(f"{KEY}:meta", "offset", 2)
    after = await layer.group_send("room", number(5))
    assert after.offset == 1
    assert [kept.message["n"] for kept in (await layer.history("room")).messages] == [5]


async def test_same_offset_given_to_another_message_is_noticed(opened, redis_url, client):
    """As by a server that comes back with older data: nothing is skipped in silence."""
    layer = await opened(redis_url)
    inbox = await member(layer)
    await layer.group_send_many("room", [number(1), number(2)])
    older = {key: client.dump(key) for key in (KEY, f"{KEY}:meta")}
    lost = await layer.group_send("room", number(3))
    assert await numbers(inbox, 3) == [1, 2, 3]
    for key, value in older.items():
        client.restore(key, 300_000, value, replace=True)
    another = await layer.group_send("room", number(4))
    assert (another.epoch, another.offset) == (lost.epoch, lost.offset)
    assert not (await layer.history("room", lost)).recovered
    assert (await numbers(inbox, 1))[0] == "lost"
    await layer.group_send("room", number(5))
    assert (await numbers(inbox, 1))[-1] == 5


async def test_what_somebody_else_publishes_there_is_skipped(opened, redis_url, client, caplog):
    """Such payloads are in no log, so they are not messages."""
    layer = await opened(redis_url)
    inbox = await member(layer)
    for rubbish in (b"", b"\xff", b"rubbish\nrubbish", b"a-b-c-d\n", b"1-2\n"):
        client.publish(KEY, rubbish)
    await layer.group_send("room", number(1))
    assert await numbers(inbox, 1) == [1]
    assert "tell of no payload" in caplog.text


async def test_more_than_can_be_held_is_read_from_the_log(opened, redis_url, monkeypatch):
    """Arrivals during a reading are held up to a limit."""
    monkeypatch.setattr(_catch_up, "MAX_HELD", 3)
    layer = await opened(redis_url, capacity=1000)
    inbox = await member(layer)
    reads = asyncio.Event()
    read_some = StreamLog.read_some

    async def slow(log, topic, after):
        stretch = await read_some(log, topic, after)
        await reads.wait()
        return stretch

    monkeypatch.setattr(StreamLog, "read_some", slow)
    # This call lets the log be read.
    catching_up = asyncio.create_task(inspect.broker(layer).catch_up("room"))
    await layer.group_send_many("room", [number(n) for n in range(100)])
    reads.set()
    assert await numbers(inbox, 100) == list(range(100))
    await catching_up


async def test_outage_while_logs_are_read_is_waited_for(opened, server, client):
    """A log that could not be read is read later."""
    layer, peer = await opened(server.url), await opened(server.url)
    inbox = await member(layer)
    with redis.Redis.from_url(server.url) as raw:
        for n in range(10):
            # All of them, so that reading the logs fails, too.
            cut(raw)
            with contextlib.suppress(ConnectionError):
                await peer.group_send("room", number(n))
    await peer.group_send("room", number(99))
    found = []
    while 99 not in found:
        found += await numbers(inbox, 1)
    accepted = [kept.message["n"] for kept in (await layer.history("room")).messages]
    assert [n for n in found if n != "recovered"] == accepted


async def test_subscription_that_ends_while_its_log_is_read_ends(opened, redis_url, unheard):
    """Nothing is delivered, no call waits, and joining again begins anew."""
    layer = await opened(redis_url)
    for n in range(20):
        inbox = await member(layer)
        with unheard():
            await layer.group_send("room", number(n))
        await layer.group_send("room", number(n))
        await layer.close_channel(inbox.name)
    inbox = await member(layer)
    await layer.group_send("room", number(99))
    assert await numbers(inbox, 1) == [99]
    await layer.close_channel(inbox.name)
    await becomes(lambda: layer.statistics().subscriptions == 1)


@pytest.mark.parametrize("option", ["check_interval", "heartbeat_interval", "send_timeout"])
def test_option_that_is_no_time_is_refused(option):
    """The error comes when the layer is made, and has the name and the value."""
    with pytest.raises(InvalidChannelLayerError, match=f"{option} is 0;"):
        RedisStreamsChannelLayer(**{option: 0})


async def test_server_without_memory_refuses_a_message_and_numbers_none(opened, server):
    """The sender is told, and nothing is half done."""
    layer = await opened(server.url)
    first = await layer.group_send("room", number(1))
    with redis.Redis.from_url(server.url) as raw:
        raw.config_set("maxmemory", 1)
        with pytest.raises(ConnectionError):
            await layer.group_send("room", number(2))
        raw.config_set("maxmemory", 0)
    assert [kept.message["n"] for kept in (await layer.history("room")).messages] == [1]
    third = await layer.group_send("room", number(3))
    assert third.offset == first.offset + 1


# -- while a log is read ----------------------------------------------------------


@pytest.fixture
def slow_reads(monkeypatch):
    """Logs are read, and the result arrives later."""
    read_some = StreamLog.read_some
    begun, ending = asyncio.Event(), asyncio.Event()

    async def slow(log, topic, after):
        stretch = await read_some(log, topic, after)
        begun.set()
        await ending.wait()
        return stretch

    monkeypatch.setattr(StreamLog, "read_some", slow)
    return begun, ending


def cursor_of(layer):
    return inspect.broker(layer).shards[0].catch_up.cursors[KEY]


async def test_what_was_held_overflows_nobody_who_keeps_up(opened, redis_url, slow_reads):
    """Held messages are delivered in batches, as messages from the log are."""
    begun, ending = slow_reads
    layer, peer = await opened(redis_url, capacity=10), await opened(redis_url)
    inbox = await member(layer)
    catching_up = asyncio.create_task(inspect.broker(layer).catch_up("room"))
    await begun.wait()
    await peer.group_send_many("room", [number(n) for n in range(100)])
    await becomes(lambda: len(cursor_of(layer).held) == 100)
    ending.set()
    assert await numbers(inbox, 100) == list(range(100))
    assert inbox.dropped == 0
    await catching_up


async def test_catching_up_is_more_than_what_was_being_read(opened, redis_url, unheard, slow_reads):
    """Messages appended after a reading began, and before the call, are delivered too."""
    begun, ending = slow_reads
    layer, peer = await opened(redis_url), await opened(redis_url)
    inbox = await member(layer)
    first = asyncio.create_task(inspect.broker(layer).catch_up("room"))
    await begun.wait()
    with unheard():
        await peer.group_send("room", number(1))
    second = asyncio.create_task(inspect.broker(layer).catch_up("room"))
    await asyncio.sleep(0)
    ending.set()
    await second
    assert inspect.broker(layer).delivered("room").offset == 1
    assert await numbers(inbox, 1) == [1]
    await first


async def test_outage_while_a_log_is_read_is_told_when_it_was_read_again(
    opened, redis_url, unheard, slow_reads
):
    """Missed messages have arrived by then, or are known to be lost."""
    begun, ending = slow_reads
    layer, peer = await opened(redis_url), await opened(redis_url, history_size=1)
    inbox, other = await member(layer), await layer.open_channel()
    await layer.group_add("other", other.name)
    catching_up = asyncio.create_task(inspect.broker(layer).catch_up("room"))
    await begun.wait()
    with unheard():
        for n in range(5):
            await peer.group_send("room", number(n))
    cursors = inspect.broker(layer).shards[0].catch_up
    cursors.lost()
    cursors.returned(1.0, 2.0)
    ending.set()
    assert await numbers(inbox, 1) == ["lost"]
    await catching_up


async def test_loss_is_not_made_up_for_who_joined_later(opened, redis_url, unheard, monkeypatch):
    """A subscription made anew while others are told begins where the log stands."""
    layer = await opened(redis_url, history_size=3)
    before = await member(layer)
    apply, cursors = _catch_up.CatchUp._apply, inspect.broker(layer).shards[0].catch_up
    applying, going_on = asyncio.Event(), asyncio.Event()

    async def late(self, *args):
        applying.set()
        await going_on.wait()
        await apply(self, *args)

    with unheard():
        for n in range(10):
            await layer.group_send("room", number(n))
    monkeypatch.setattr(_catch_up.CatchUp, "_apply", late)
    cursors.cursors[KEY].suspect()
    cursors.read_soon(KEY)
    await applying.wait()
    await layer.close_channel(before.name)
    inbox = await member(layer)
    going_on.set()
    await layer.group_send("room", number(10))
    assert await numbers(inbox, 1) == [10]


# -- logs that others have changed --------------------------------------------------


async def test_last_message_removed_by_hand_keeps_nobody_waiting(opened, redis_url, client):
    """The result says that it is missing, and the log is not read in a loop."""
    layer = await opened(redis_url)
    first, _, last = [await layer.group_send("room", number(n)) for n in range(3)]
    client.xdel(KEY, f"{last.offset}-{last.tag}")
    async with asyncio.timeout(5):
        history = await layer.history("room", first)
    assert ([kept.message["n"] for kept in history.messages], history.recovered) == ([1], False)


async def test_message_removed_by_hand_before_it_was_received_is_told_once(
    opened, redis_url, client, unheard
):
    """The log is not read in a loop from then on."""
    layer = await opened(redis_url)
    inbox = await member(layer)
    with unheard():
        await layer.group_send("room", number(1))
        last = await layer.group_send("room", number(2))
    client.xdel(KEY, f"{last.offset}-{last.tag}")
    async with asyncio.timeout(5):
        await inspect.broker(layer).catch_up("room")
    assert await numbers(inbox, 2) == [1, "lost"]
    await layer.group_send("room", number(3))
    assert await numbers(inbox, 1) == [3]


async def test_group_may_have_more_shared_members_than_lua_can_unpack(opened, redis_url, client):
    """A message that was appended is not refused for it."""
    layer = await opened(redis_url)
    client.sadd(f"{KEY}:members", *[f"worker-{n}" for n in range(9_000)])
    log = inspect.broker(layer).shards[0].log
    position, members = await log.append("room", b"", None)
    assert (position.offset, len(members)) == (1, 9_000)


async def test_subscription_whose_log_cannot_be_read_is_given_up(opened, server):
    """Nothing of it stays at the server."""
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    with redis.Redis.from_url(server.url) as raw:
        raw.set(f"{KEY}:meta", "no hash")
        with pytest.raises(BrokerRefused):
            await layer.group_add("room", inbox.name)
        await becomes(lambda: raw.pubsub_numsub(KEY) == [(KEY.encode(), 0)])


async def test_messages_for_a_position_of_another_log_end_where_the_history_does(
    opened, redis_url, monkeypatch
):
    """A caller that continues from there gets no message twice."""
    layer = await opened(redis_url)
    await layer.group_send("room", number(1))
    read = StreamLog._read

    async def appended_after(self, *args):
        found = await read(self, *args)
        await layer.group_send("room", number(2))
        return found

    monkeypatch.setattr(StreamLog, "_read", appended_after)
    history = await layer.history("room", "0" * 16 + "-1-1")
    assert not history.recovered
    assert history.position == history.messages[-1].position


async def test_limit_above_what_is_kept_is_what_is_kept(opened, redis_url):
    """The one more that is in the log is not for showing."""
    layer = await opened(redis_url, history_size=3)
    await layer.group_send_many("room", [number(n) for n in range(10)])
    history = await layer.history("room", limit=100)
    assert [kept.message["n"] for kept in history.messages] == [7, 8, 9]


@pytest.mark.parametrize("option", ["history_ttl", "idempotency_window", "check_interval"])
@pytest.mark.parametrize("value", [float("inf"), 1e300])
def test_time_without_end_is_refused(option, value):
    """The server would refuse such a time only after a message was appended."""
    with pytest.raises(InvalidChannelLayerError, match=f"{option} is .*above zero"):
        RedisStreamsChannelLayer(**{option: value})


async def test_repeating_what_did_not_get_to_shared_members_sends_it_to_them(
    opened, redis_url, monkeypatch
):
    """Other members get nothing, and a second repetition sends nothing."""
    layer = await opened(redis_url)
    inbox = await member(layer)
    await layer.group_add("room", "worker")
    push = inspect.broker(layer).push

    async def fails(*args):
        monkeypatch.setattr(inspect.broker(layer), "push", push)
        raise LayerUnavailable(layer, "a test")

    monkeypatch.setattr(inspect.broker(layer), "push", fails)
    with pytest.raises(LayerUnavailable):
        await layer.group_send("room", number(1), idempotency_key="key")
    for _ in range(3):
        position = await layer.group_send("room", number(1), idempotency_key="key")
    assert position.offset == 1
    await layer.send("worker", number(2))
    assert [(await layer.receive("worker"))["n"] for _ in range(2)] == [1, 2]
    await layer.group_send("room", number(2))
    assert await numbers(inbox, 2) == [1, 2]


async def test_catching_up_does_not_wait_for_who_asks_later(opened, redis_url, monkeypatch):
    """However many come: as when all clients connect again."""
    layer = await opened(redis_url)
    await member(layer)
    read_some, later = StreamLog.read_some, []

    async def asked_again(log, topic, after):
        later.append(asyncio.create_task(inspect.broker(layer).catch_up("room")))
        await asyncio.sleep(0)
        return await read_some(log, topic, after)

    with monkeypatch.context() as patch:
        patch.setattr(StreamLog, "read_some", asked_again)
        async with asyncio.timeout(5):
            await inspect.broker(layer).catch_up("room")
    await asyncio.gather(*later)


async def test_many_quiet_groups_are_compared_with_their_logs_in_turn(
    opened, redis_url, unheard, monkeypatch
):
    """Some in each interval; none is left out."""
    monkeypatch.setattr(_catch_up, "MAX_COMPARED", 2)
    layer = await opened(redis_url, check_interval=0.02)
    inbox = await layer.open_channel()
    for n in range(7):
        await layer.group_add(f"room-{n}", inbox.name)
    with unheard():
        for n in range(7):
            await layer.group_send(f"room-{n}", number(n))
    assert sorted(await numbers(inbox, 7)) == list(range(7))
    assert layer.statistics().reconnects == 0


async def test_log_that_cannot_be_read_keeps_nothing_from_the_others(
    opened, redis_url, client, caplog
):
    """Only members of that group wait until it can be read; the log says why."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    inbox = await member(layer)
    await layer.group_add("other", inbox.name)
    client.delete(KEY)
    client.set(KEY, "of another type")
    cut(client, "pubsub")
    await peer.group_send("other", number(1))
    assert sorted(await numbers(inbox, 2), key=str) == [1, "recovered"]
    await becomes(lambda: "logs cannot be read" in caplog.text)
    client.delete(KEY)
    await peer.group_send("room", number(2))
    # Messages in that log are lost with it, and it had none.
    assert [n for n in await numbers(inbox, 1) if n not in ("lost", "recovered")] == [2]


async def test_flush_is_no_gap_for_who_goes_on(opened, redis_url):
    """A channel that is opened afterwards has missed nothing."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    await layer.open_channel()
    await layer.flush()
    inbox = await layer.open_channel()
    await peer.send(inbox.name, number(1))
    await layer.group_add("room", inbox.name)
    await peer.group_send("room", number(2))
    assert await numbers(inbox, 2) == [1, 2]
    assert layer.statistics().gaps == 0


async def test_long_history_comes_in_portions(opened, redis_url, monkeypatch):
    """All of a history, its end, and the part after a position."""
    monkeypatch.setattr(_log, "MAX_ENTRIES_PER_REPLY", 7)
    layer = await opened(redis_url, history_size=40)
    positions = [await layer.group_send("room", number(n)) for n in range(50)]
    found = {
        "all": await layer.history("room"),
        "newest": await layer.history("room", limit=20),
        "after": await layer.history("room", positions[20]),
        "of another epoch": await layer.history("room", positions[20]._replace(epoch="0" * 16)),
    }
    assert {
        name: [kept.message["n"] for kept in history.messages] for name, history in found.items()
    } == {
        "all": list(range(10, 50)),
        "newest": list(range(30, 50)),
        "after": list(range(21, 50)),
        "of another epoch": list(range(10, 50)),
    }


async def test_hole_without_an_outage_is_a_gap_and_no_reconnect(opened, redis_url, unheard):
    """The counters tell the two apart."""
    layer = await opened(redis_url, history_size=1)
    inbox = await member(layer)
    with unheard():
        await layer.group_send_many("room", [number(n) for n in range(5)])
    await layer.group_send("room", number(5))
    assert await numbers(inbox, 2) == ["lost", 4]
    assert (layer.statistics().gaps, layer.statistics().reconnects) == (1, 0)
