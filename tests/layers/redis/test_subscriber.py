"""The notices of a server: of published payloads, of written keys, and the heartbeat."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis.exceptions import BusyLoadingError

from fast_channels.exceptions import BrokerRefused
from fast_channels.layers.redis import _reader, _subscriber
from fast_channels.layers.redis._client import RedisConnection
from fast_channels.layers.redis._server import Server
from fast_channels.layers.redis._subscriber import KeyTracker, Subscriber
from tests.layers.redis.support import cut, outages, paused, subscribers
from tests.layers.support import PATIENCE, becomes, turns

KEY, OTHER = "asgijobs", "asgiother"
HEARTBEAT = "asgi:heartbeat"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Outages of tests are short."""
    monkeypatch.setattr(_reader, "MIN_RECONNECT_DELAY_SECONDS", 0.01)


# -- a subscriber ----------------------------------------------------------------


class Subscribed:
    """A subscriber that records its callbacks."""

    def __init__(self, url, *, interval=60.0, batch=100):
        self.delivered, self.losses, self.returns = [], 0, []
        self.server = Server({"address": url})
        self.subscriber = Subscriber(
            self.server,
            HEARTBEAT,
            interval,
            batch,
            lambda topic, *payloads: self.delivered.append((topic, payloads)),
            self.lost,
            lambda since, until: self.returns.append((since, until)),
        )

    def lost(self):
        self.losses += 1

    async def stop(self):
        await self.subscriber.stop()
        await self.server.close()


@pytest.fixture
async def subscribed(redis_url):
    """Makes subscribers, and stops them after the test."""
    async with contextlib.AsyncExitStack() as stack:

        def make(url=redis_url, **options):
            made = Subscribed(url, **options)
            stack.push_async_callback(made.stop)
            return made

        yield make


def channels(client):
    return {name.decode() for name in client.pubsub_channels()}


async def test_everything_shares_one_connection(subscribed, client):
    """Topics that are confirmed, and channels with notices only."""
    one, woken = subscribed(), asyncio.Event()
    await asyncio.gather(*(one.subscriber.subscribe(f"topic-{n}") for n in range(20)))
    one.subscriber.listen("work", woken.set)
    await becomes(lambda: len(channels(client)) == 22)
    assert subscribers(client) == 1
    woken.clear()
    client.publish("work", b"")
    client.publish("topic-7", b"payload")
    async with asyncio.timeout(PATIENCE):
        await woken.wait()
    await becomes(lambda: one.delivered == [("topic-7", (b"payload",))])


async def test_listener_is_woken_when_its_subscription_begins(subscribed, client):
    """Something may have been published before, without a notice."""
    one, woken = subscribed(), asyncio.Event()
    one.subscriber.listen("work", woken.set)
    for _ in range(2):
        async with asyncio.timeout(PATIENCE):
            await woken.wait()
        woken.clear()
        # The same after an outage.
        cut(client, "pubsub")
    one.subscriber.ignore("work")
    await becomes(lambda: "work" not in channels(client))


async def test_new_connection_has_all_subscriptions_before_an_outage_ends(subscribed, client):
    """The return is told once, when the last of them is confirmed."""
    one = subscribed()
    topics = {f"topic-{n}" for n in range(2500)}
    await asyncio.gather(*map(one.subscriber.subscribe, topics))
    cut(client, "pubsub")
    await becomes(lambda: one.returns)
    assert channels(client) == {HEARTBEAT, *topics}
    assert (one.losses, len(one.returns)) == (1, 1)


async def test_unsubscribed_topic_stays_so(subscribed, client):
    """Though the connection was lost meanwhile."""
    one = subscribed()
    for topic in ("kept", "left"):
        await one.subscriber.subscribe(topic)
    await one.subscriber.unsubscribe("left")
    assert channels(client) == {HEARTBEAT, "kept"}
    cut(client, "pubsub")
    await becomes(lambda: one.returns)
    assert channels(client) == {HEARTBEAT, "kept"}


async def test_refusal_reaches_the_call_that_asked_for_it(subscribed, client, server):
    """The server does not name the refused command; later calls are not concerned."""
    client_of_server = Server({"address": server.url})
    await client_of_server.control.call(
        "ACL", "SETUSER", "default", "resetchannels", "&asgi*", "&allowed*"
    )
    one = subscribed(server.url)
    await one.subscriber.subscribe("allowed-1")

    async def later():
        await turns(1)
        await one.subscriber.subscribe("allowed-2")

    refused, _ = await asyncio.gather(
        one.subscriber.subscribe("forbidden"), later(), return_exceptions=True
    )
    assert isinstance(refused, BrokerRefused)
    assert one.subscriber.topics == {"allowed-1", "allowed-2"}
    assert one.losses == 0
    await client_of_server.close()


async def test_refused_renewal_hides_no_other(subscribed, server, caplog, monkeypatch):
    """Rights were taken away: the log names the channel, and the outage ends."""
    monkeypatch.setattr(_subscriber, "MAX_SUBSCRIBED_AT_ONCE", 1)
    one = subscribed(server.url)
    for topic in ("allowed", "forbidden"):
        await one.subscriber.subscribe(topic)
    # This ends connections with subscriptions that are no longer allowed.
    await one.server.control.call(
        "ACL", "SETUSER", "default", "resetchannels", "&asgi*", "&allowed*"
    )
    await becomes(lambda: one.returns)
    assert "refuses to subscribe to ['forbidden']" in caplog.text
    await one.server.publishing.call("PUBLISH", "allowed", b"payload")
    await becomes(lambda: one.delivered == [("allowed", (b"payload",))])


class FakeConnection:
    """Replies that arrive together, and then nothing."""

    def __init__(self, *replies):
        self._arrived = [list(replies)]

    async def open(self):
        pass

    async def close(self):
        pass

    async def send(self, *commands):
        pass

    async def read_available(self):
        if not self._arrived:
            await asyncio.Event().wait()
        return self._arrived.pop()


@pytest.mark.parametrize(
    "reply", [BusyLoadingError("of the test"), b"PONG", [b"pong", b""], [b"pmessage"] * 4, 1, None]
)
async def test_what_came_before_a_reply_that_ends_the_connection_is_delivered(
    subscribed, monkeypatch, reply
):
    """The reader then connects again, after any such reply."""
    one, connection = subscribed(), RedisConnection
    messages = [[b"message", b"room", payload] for payload in (b"a", b"b")]

    def fake(*args):
        monkeypatch.setattr(_reader, "RedisConnection", connection)
        # Answers the SUBSCRIBE for the heartbeat first.
        return FakeConnection([b"subscribe", HEARTBEAT.encode(), 1], *messages, reply)

    monkeypatch.setattr(_reader, "RedisConnection", fake)
    one.subscriber.listen("work", lambda: None)
    await becomes(lambda: one.losses)
    assert one.delivered == [("room", (b"a", b"b"))]


async def test_silence_ends_a_connection(subscribed, server):
    """A server that says nothing for two intervals is given up, and subscribed again."""
    one = subscribed(server.url, interval=0.2)
    await one.subscriber.subscribe("room")
    with paused(server):
        await becomes(lambda: one.losses)
    await becomes(lambda: one.returns)
    assert one.delivered == []


# -- tracking of keys --------------------------------------------------------------


class Tracked:
    """A tracker with an event for each key."""

    def __init__(self, url, *keys, interval=60.0):
        self.server = Server({"address": url})
        self.connected = 0
        self.tracker = KeyTracker(self.server, HEARTBEAT, interval, self.attend)
        self.events = {}
        for key in keys:
            self.watch(key)

    def watch(self, key):
        self.events[key] = asyncio.Event()
        self.tracker.watch(key, self.events[key])

    async def attend(self, reader):
        reader.connected()
        self.connected += 1
        await asyncio.Event().wait()

    async def quiet(self):
        """Return when no notice of earlier writes comes any more."""
        while True:
            await turns(20)
            await asyncio.sleep(_subscriber.TRACKING_DELAY_SECONDS)
            await self.server.control.call("PING")
            set_ = [event for event in self.events.values() if event.is_set()]
            if not set_ and self.connected:
                return
            for event in set_:
                event.clear()

    async def told(self, *keys):
        async with asyncio.timeout(PATIENCE):
            for key in keys:
                await self.events[key].wait()
                self.events[key].clear()
        assert not [key for key, event in self.events.items() if event.is_set()]

    async def stop(self):
        await self.tracker.stop()
        await self.server.close()


@pytest.fixture
async def tracked(redis_url):
    """Makes trackers, and stops them after the test."""
    async with contextlib.AsyncExitStack() as stack:

        def make(*keys, url=redis_url, **options):
            made = Tracked(url, *keys, **options)
            stack.push_async_callback(made.stop)
            return made

        yield make


async def test_watching_begins_with_a_look(tracked):
    """No notice tells of earlier writes."""
    one = tracked(KEY)
    assert one.events[KEY].is_set()
    one.events[KEY].clear()
    # And once more when the server tracks the key.
    await one.told(KEY)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda client: client.zadd(KEY, {"a": 1}), [KEY]),
        (lambda client: client.zadd(OTHER, {"a": 1}), [OTHER]),
        (lambda client: client.eval("redis.call('ZADD', KEYS[1], 1, 'a')", 1, KEY), [KEY]),
        (lambda client: client.flushall(), [KEY, OTHER]),
    ],
    ids=["first_key", "second_key", "script", "flush"],
)
async def test_write_to_a_key_is_told(tracked, client, write, told):
    """Any writer and any command counts."""
    one = tracked(KEY, OTHER)
    await one.quiet()
    write(client)
    await one.told(*told)


async def test_key_that_is_watched_later_is_tracked_on_the_same_connection(tracked, client):
    """Writes to the other keys in the meantime are told too."""
    one = tracked(KEY)
    await one.quiet()
    one.watch(OTHER)
    await one.quiet()
    for key in (OTHER, KEY):
        client.zadd(key, {"a": 1})
        await one.told(key)
    assert one.connected == 1
    assert subscribers(client) == 1


@pytest.mark.parametrize("keys", [(KEY, f"{KEY}2"), (f"{KEY}2", KEY)])
async def test_one_key_may_begin_with_another(tracked, client, keys):
    """A server refuses to track both, so it tracks one; each is told of its own writes only."""
    first, second = keys
    one = tracked(first)
    await one.quiet()
    one.watch(second)
    await one.quiet()
    for key in keys:
        client.zadd(key, {"a": 1})
        await one.told(key)
    assert one.connected == 1


async def test_key_that_is_ignored_is_not_told(tracked, client):
    """Many that come and go leave nothing behind at the server."""
    one = tracked(KEY)
    await one.quiet()
    for n in range(20):
        one.watch(f"asgi-{n}")
        await one.quiet()
        one.tracker.ignore(f"asgi-{n}", one.events[f"asgi-{n}"])
        client.zadd(f"asgi-{n}", {"a": 1})
        client.zadd(KEY, {f"{n}": n})
        await one.told(KEY)
    assert client.info("clients")["tracking_clients"] == 1
    assert client.info("stats")["tracking_total_prefixes"] < 10


async def test_ignoring_a_key_late_leaves_its_new_event(tracked, client):
    """A reader of a shared name may stop after the next one has begun."""
    one = tracked(KEY)
    old = one.events[KEY]
    one.watch(KEY)
    one.tracker.ignore(KEY, old)
    await one.quiet()
    client.zadd(KEY, {"a": 1})
    await one.told(KEY)


async def test_heartbeats_wake_nothing(tracked, client):
    """They are heard, and there is nothing to take for them."""
    one = tracked(KEY, interval=0.1)
    await one.quiet()
    before = client.info("commandstats")["cmdstat_set"]["calls"]
    await becomes(lambda: client.info("commandstats")["cmdstat_set"]["calls"] > before + 2)
    assert not one.events[KEY].is_set()
    assert one.connected == 1


async def test_lost_tracking_is_restored(tracked, client, caplog):
    """With a look at every key."""
    one = tracked(KEY, OTHER)
    await one.quiet()
    cut(client, "pubsub")
    await becomes(lambda: one.connected == 2)
    await one.quiet()
    client.zadd(OTHER, {"a": 1})
    await one.told(OTHER)
    assert next(level for level, _ in outages(caplog)) == "WARNING"


async def test_silence_ends_the_tracking(tracked, server, caplog):
    """A server that says nothing for two intervals is given up, with the clients' connections."""
    one = tracked(KEY, url=server.url, interval=0.2)
    await one.quiet()
    assert await one.server.control.call("PING") == b"PONG"
    with paused(server):
        await becomes(lambda: outages(caplog))
        assert not one.server.control.write("PING")
    await becomes(lambda: one.connected == 2)
