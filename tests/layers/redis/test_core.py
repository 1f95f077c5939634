"""The queue: keys, memberships, bounds and outages. Covers core.py, _keys.py and _inbox.py."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time

import msgspec
import pytest
import redis

from fast_channels.exceptions import BrokerRefused, ChannelFull, LayerUnavailable
from fast_channels.layers import RedisChannelLayer, names
from fast_channels.layers.names import ADDRESS_KEY
from fast_channels.layers.redis import _reader, core
from fast_channels.layers.redis._client import CommandProtocol
from fast_channels.layers.redis._inbox import TAKE, Inbox
from fast_channels.layers.redis.core import ScoreClock
from fast_channels.testing import inspect
from fast_channels.testing.server import free_port
from tests.layers.redis.support import cut, last_commands, names_of_clients, outages
from tests.layers.support import arrives, becomes, received, turns

MESSAGE = {"type": "test"}


@pytest.fixture
async def opened():
    """Makes layers, and closes them after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(*urls, **options):
            return await stack.enter_async_context(RedisChannelLayer(list(urls), **options))

        yield make


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Outages of tests are short."""
    monkeypatch.setattr(_reader, "MIN_RECONNECT_DELAY_SECONDS", 0.01)


def packed(**message):
    """A payload as a peer writes it, with its random prefix."""
    return bytes(12) + msgspec.msgpack.encode({"type": "test", **message})


def keys(client, pattern="*"):
    """Return the keys that peers know too."""
    found = {key.decode() for key in client.keys(pattern)}
    ours = ("asgi:leases", "asgi:process:", "asgi:batch:", "asgi:heartbeat:")
    return {key for key in found if not key.startswith(ours)}


def members(client, group="room"):
    return {name.decode() for name in client.zrange(f"asgi:group:{group}", 0, -1)}


async def until_back(layer, gaps=1):
    await becomes(lambda: layer.statistics().gaps == gaps)


# -- keys ----------------------------------------------------------------------


async def test_message_for_a_channel_waits_in_the_inbox_of_its_process(opened, redis_url, client):
    """A sorted set named up to the exclamation mark, with the sender's time as score."""
    layer = await opened(redis_url)
    before = time.time()
    await layer.send("specific.abc!def", {"type": "test", "n": 1})
    assert keys(client) == {"asgispecific.abc!"}
    ((payload, score),) = client.zrange("asgispecific.abc!", 0, -1, withscores=True)
    assert msgspec.msgpack.decode(payload[12:]) == {
        ADDRESS_KEY: "specific.abc!def",
        "type": "test",
        "n": 1,
    }
    assert before <= score <= time.time()


async def test_plain_channel_is_a_key_without_an_address(opened, redis_url, client):
    """The message as it was sent."""
    layer = await opened(redis_url, prefix="mine")
    await layer.send("jobs", {"type": "test"})
    assert keys(client) == {"minejobs"}
    (payload,) = client.zrange("minejobs", 0, -1)
    assert msgspec.msgpack.decode(payload[12:]) == {"type": "test"}


async def test_group_message_is_addressed_with_a_list(opened, redis_url, client):
    """Each inbox gets one payload with all its receivers, and plain channels get one too."""
    layer = await opened(redis_url)
    for name in ("specific.a!1", "specific.a!2", "specific.b!1", "jobs"):
        await layer.group_add("room", name)
    await layer.group_send("room", {"type": "test"})
    found = {}
    for key in ("specific.a!", "specific.b!", "jobs"):
        (payload,) = client.zrange(f"asgi{key}", 0, -1)
        found[key] = msgspec.msgpack.decode(payload[12:])[ADDRESS_KEY]
    assert found == {
        "specific.a!": ["specific.a!1", "specific.a!2"],
        "specific.b!": ["specific.b!1"],
        "jobs": ["jobs"],
    }


@pytest.fixture
def commands(monkeypatch):
    """How many commands each write had, on every control."""
    written = []
    write = CommandProtocol.write

    def recording(wire, asked):
        written.append(len(asked))
        write(wire, asked)

    monkeypatch.setattr(CommandProtocol, "write", recording)
    return written


async def test_broadcast_is_one_command(opened, redis_url, commands):
    """However many processes are in the group; several at once are one write."""
    layer, *peers = [await opened(redis_url) for _ in range(4)]
    mailboxes = [await peer.open_channel() for peer in peers]
    for peer, mailbox in zip(peers, mailboxes, strict=True):
        await peer.group_add("room", mailbox.name)
    for peer in peers:
        await peer.close()
    # A script that the server does not know takes one more.
    await layer.group_send("other", MESSAGE)
    await layer.group_send("room", MESSAGE)
    commands.clear()
    await layer.group_send("room", MESSAGE)
    assert commands == [1]
    await layer.group_send_many("room", [MESSAGE] * 5)
    assert commands == [1, 5]


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_members_of_every_kind_receive_a_broadcast(opened, redis_url, client, format):
    """Many channels of one process, addresses of processes, plain channels, names that are none."""
    layer = await opened(redis_url, serializer_format=format)
    inboxes = {
        f"specific.{n:032x}!": [f"{m:032x}" for m in range(count)]
        for n, count in enumerate([1, 15, 16, 40, 300])
    }
    inboxes["specific.peer!"] = ["group.room"]
    every = [inbox + local for inbox, parts in inboxes.items() for local in parts]
    odd = [b"\xff\xfe!abc", b"two words!abc", b""]
    client.zadd("asgi:group:room", dict.fromkeys([*every, *odd, "plain"], time.time()))
    await layer.group_send("room", MESSAGE)
    for inbox, parts in inboxes.items():
        ((payload, score),) = client.zrange(f"asgi{inbox}", 0, -1, withscores=True)
        to = [inbox + local for local in parts]
        assert layer.deserialize(payload) == {ADDRESS_KEY: sorted(to), **MESSAGE}
        assert payload[12:] == layer._serializer.as_bytes({ADDRESS_KEY: sorted(to), **MESSAGE})
        assert abs(score - time.time()) < 60
        assert 0 < client.pttl(f"asgi{inbox}") <= 60_000
    assert await received(layer, "plain") == MESSAGE


async def test_messages_sent_together_are_one_command(opened, redis_url, client, commands):
    """Until there are so many that others would have to wait for them."""
    layer = await opened(redis_url, capacity=10_000)
    await layer.send_many("jobs", [MESSAGE])
    commands.clear()
    await layer.send_many("jobs", [MESSAGE] * 1000)
    assert commands == [1]
    await layer.send_many("jobs", [MESSAGE] * 2500)
    assert commands == [1] * 4
    await layer.send_many("jobs", [{**MESSAGE, "text": "x" * 400_000}] * 5)
    assert commands == [1] * 7
    assert client.zcard("asgijobs") == 3506


async def test_nothing_is_sent_after_a_message_that_was_refused(opened, redis_url, commands):
    """Otherwise later messages might find room again, and follow a hole."""
    layer = await opened(redis_url, capacity=1500)
    await layer.send_many("jobs", [MESSAGE])
    commands.clear()
    with pytest.raises(ChannelFull) as caught:
        await layer.send_many("jobs", [MESSAGE] * 3500)
    assert caught.value.accepted == 1499
    assert commands == [1, 1]


async def test_messages_sent_together_fill_the_inbox_of_a_process_that_hangs(
    opened, redis_url, monkeypatch
):
    """The sender learns how many were accepted, as for a shared channel."""
    monkeypatch.setattr(core, "INBOX_CAPACITY", 3)
    layer = await opened(redis_url)
    with pytest.raises(ChannelFull) as caught:
        await layer.send_many("specific.hanging!abc", [MESSAGE] * 5)
    assert caught.value.accepted == 3
    assert "after 3 of the messages" in str(caught.value)


async def test_keys_expire(opened, redis_url, client):
    """An inbox after `expiry`, a group after `group_expiry`, a heartbeat after a moment."""
    layer = await opened(redis_url, expiry=7, group_expiry=70)
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    await layer.send("jobs", MESSAGE)
    await layer.send("specific.abc!def", MESSAGE)
    assert 0 < client.pttl("asgi:group:room") <= 70_000
    for key in ("asgijobs", "asgispecific.abc!"):
        assert 0 < client.pttl(key) <= 7_000
    # Nothing stays for ever.
    assert all(client.pttl(key) > 0 for key in client.keys("*"))


async def test_what_a_peer_writes_is_delivered(opened, redis_url, client):
    """With a string as address, with a list, and with names it does not know."""
    layer = await opened(redis_url)
    first, second = await layer.open_channel(), await layer.open_channel()
    key = f"asgi{names.inbox_of(first.name)}"
    client.zadd(key, {packed(n=1, **{ADDRESS_KEY: first.name}): 1})
    client.zadd(key, {packed(n=2, **{ADDRESS_KEY: [first.name, second.name, "specific.x!y"]}): 2})
    assert [(await arrives(first))["n"] for _ in range(2)] == [1, 2]
    assert await arrives(second) == {"type": "test", "n": 2}


async def test_garbage_in_the_inbox_is_skipped(opened, redis_url, client):
    """Such payloads are counted, and later messages arrive."""
    layer = await opened(redis_url)
    inbox = await layer.open_channel()
    key = f"asgi{names.inbox_of(inbox.name)}"
    garbage = [b"", b"x", bytes(12), bytes(12) + b"\xc1", packed(**{ADDRESS_KEY: 5})]
    for payload in garbage:
        client.zadd(key, {payload: 1})
    client.zadd(key, {packed(**{ADDRESS_KEY: inbox.name}): 2})
    assert await arrives(inbox) == MESSAGE
    assert layer.statistics().undecodable == len(garbage)


async def test_prefix_of_the_random_bytes_may_be_turned_off(opened, redis_url, client):
    """Then a member is the payload itself."""
    layer = await opened(redis_url, random_prefix_length=0)
    await layer.send("jobs", MESSAGE)
    assert client.zrange("asgijobs", 0, -1) == [msgspec.msgpack.encode(MESSAGE)]


async def test_flush_deletes_this_prefix_only(opened, redis_url, client):
    """A prefix may look like a pattern, and have more keys than fit into one call."""
    layer = await opened(redis_url, prefix="a[b]*?")
    client.set("a-other", 1)
    client.set("ab*?x", 1)
    client.mset({f"a[b]*?{n}": n for n in range(12_000)})
    await layer.flush()
    assert keys(client) == {"a-other", "ab*?x"}


# -- groups --------------------------------------------------------------------


async def test_process_is_one_member_of_a_group(opened, redis_url, client):
    """However many of its channels are in it."""
    layer = await opened(redis_url)
    inboxes = [await layer.open_channel() for _ in range(10)]
    for inbox in inboxes:
        await layer.group_add("room", inbox.name)
    address = names.group_address(f"specific.{layer.process}!", "room")
    assert members(client) == {address}
    peer = await opened(redis_url)
    await peer.group_send("room", MESSAGE)
    for inbox in inboxes:
        assert await arrives(inbox) == MESSAGE
    assert client.zcard(f"asgispecific.{layer.process}!") == 0


async def test_process_leaves_a_group_with_its_last_channel(opened, redis_url, client):
    """The channel leaves, or is closed."""
    layer = await opened(redis_url)
    first, second = await layer.open_channel(), await layer.open_channel()
    for inbox in (first, second):
        await layer.group_add("room", inbox.name)
    await layer.group_discard("room", first.name)
    assert len(members(client)) == 1
    await layer.close_channel(second.name)
    await becomes(lambda: members(client) == set())
    assert not client.exists("asgi:group:room")


async def test_member_that_did_not_leave_is_forgotten(opened, redis_url, client):
    """After group_expiry."""
    layer = await opened(redis_url, group_expiry=60)
    now = time.time()
    client.zadd("asgi:group:room", {"specific.old!x": now - 61, "specific.young!x": now - 50})
    await layer.group_send("room", MESSAGE)
    assert members(client) == {"specific.young!x"}
    assert keys(client, "asgispecific*") == {"asgispecific.young!"}


async def test_joining_again_renews_a_membership(opened, redis_url, client):
    """The score is the time, for a channel of another process."""
    layer = await opened(redis_url)
    client.zadd("asgi:group:room", {"specific.a!x": 1})
    await layer.group_add("room", "specific.a!x")
    assert client.zscore("asgi:group:room", "specific.a!x") > time.time() - 60


async def test_name_of_a_group_may_be_of_full_length(opened, redis_url):
    """The address of the process in it is longer than a name may be, and works."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    inbox = await layer.open_channel()
    await layer.group_add("g" * 99, inbox.name)
    await peer.group_send("g" * 99, MESSAGE)
    assert await arrives(inbox) == MESSAGE


# -- inboxes -------------------------------------------------------------------


async def test_channels_with_a_new_prefix_are_read_at_once(opened, redis_url):
    """The reader is not left waiting on the inboxes of a moment ago."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    for prefix in ("specific", "custom", "other", "a.b"):
        inbox = await layer.open_channel(prefix)
        await peer.send(inbox.name, MESSAGE)
        assert await arrives(inbox) == MESSAGE


async def test_messages_that_waited_for_the_reader_are_all_delivered(opened, redis_url, client):
    """More than one batch of them, in order."""
    layer = await opened(redis_url)
    name = f"specific.{layer.process}!waiting"
    key = f"asgi{names.inbox_of(name)}"
    for n in range(75):
        client.zadd(key, {packed(n=n, **{ADDRESS_KEY: name}): n})
    for n in range(75):
        assert (await received(layer, name))["n"] == n


async def test_inbox_of_a_process_that_hangs_is_bounded(opened, redis_url, client, monkeypatch):
    """The bound protects the server, and the sender of one message more is told."""
    monkeypatch.setattr(core, "INBOX_CAPACITY", 5)
    layer = await opened(redis_url, capacity=2)
    for n in range(5):
        await layer.send(f"specific.abc!{n}", MESSAGE)
    with pytest.raises(ChannelFull):
        await layer.send("specific.abc!x", MESSAGE)
    assert client.zcard("asgispecific.abc!") == 5
    await layer.group_add("room", "specific.abc!y")
    await layer.group_send("room", MESSAGE)
    assert layer.statistics().refused == 2


async def test_expired_messages_make_room_in_an_inbox(opened, redis_url, client, monkeypatch):
    """The process of the inbox need not read it."""
    monkeypatch.setattr(core, "INBOX_CAPACITY", 2)
    layer = await opened(redis_url, expiry=60)
    old = time.time() - 61
    client.zadd("asgispecific.abc!", {b"old-1": old, b"old-2": old})
    await layer.send("specific.abc!x", MESSAGE)
    assert client.zcard("asgispecific.abc!") == 1


async def test_two_layers_share_a_plain_queue(opened, redis_url):
    """Each message goes to one of them."""
    layers = [await opened(redis_url) for _ in range(2)]
    seen = []

    async def read(layer):
        while True:
            seen.append((await layer.receive("jobs"))["n"])

    readers = [asyncio.create_task(read(layer)) for layer in layers for _ in range(2)]
    sender = await opened(redis_url)
    for n in range(60):
        await sender.send("jobs", {"type": "test", "n": n})
    await becomes(lambda: len(seen) >= 60)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    assert sorted(seen) == list(range(60))


async def test_layer_that_only_sends_has_one_connection(opened, redis_url):
    """A receiving layer has three, so that a stuck publish delays nothing else."""
    layer = await opened(f"{redis_url}?client_name=layer")
    await layer.group_send("room", MESSAGE)
    await layer.send("jobs", MESSAGE)
    assert names_of_clients(redis_url).count("layer") == 1
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    await becomes(lambda: names_of_clients(redis_url).count("layer") == 3)
    await layer.close()
    await becomes(lambda: "layer" not in names_of_clients(redis_url))


async def test_options_of_a_url_that_would_break_us_do_no_harm(opened, redis_url):
    """Silence that is longer than a timeout in them does no harm either."""
    layer = await opened(f"{redis_url}?decode_responses=True&protocol=3&socket_timeout=0.05")
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    shared = asyncio.create_task(layer.receive("jobs"))
    silence = asyncio.create_task(inbox.get())
    await asyncio.wait([silence, shared], timeout=0.3)
    peer = await opened(redis_url)
    await peer.group_send("room", MESSAGE)
    await peer.send("jobs", MESSAGE)
    assert await silence == MESSAGE
    assert await shared == MESSAGE
    assert layer.statistics().reconnects == 0


# -- order ---------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.0, -5.0, 1e-9])
def test_scores_increase_although_the_clock_does_not(monkeypatch, step):
    """The clock may stand still, or be set back."""
    now = [1_700_000_000.0]

    class Standing:
        @staticmethod
        def time():
            now[0] += step
            return now[0]

    monkeypatch.setattr(core, "time", Standing)
    clock = ScoreClock()
    scores = [clock.score() for _ in range(10_000)]
    assert all(earlier < later for earlier, later in itertools.pairwise(scores))
    # As the server sees them, too.
    assert len({float(repr(score)) for score in scores}) == 10_000
    assert scores[-1] - scores[0] < 1


def test_score_is_the_time(monkeypatch):
    """Peers compare it with their own."""
    assert abs(ScoreClock().score() - time.time()) < 1


async def test_order_is_kept_although_the_clock_stands_still(opened, redis_url, monkeypatch):
    """Random prefixes do not decide which message is first."""
    layer = await opened(redis_url)
    now = time.time()
    monkeypatch.setattr(core.time, "time", lambda: now)
    for n in range(50):
        await layer.send("jobs", {"type": "test", "n": n})
    assert [(await received(layer, "jobs"))["n"] for _ in range(50)] == list(range(50))


# -- outages -------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2])
async def test_server_that_does_not_answer_fails_the_opening(redis_url, hosts):
    """Another server that answers changes nothing, and nothing is left open."""
    before = asyncio.all_tasks()
    bad = f"redis://127.0.0.1:{free_port()}"
    layer = RedisChannelLayer([bad, f"{redis_url}?client_name=layer"][:hosts])
    with pytest.raises(LayerUnavailable, match=bad):
        await layer.open()
    assert asyncio.all_tasks() == before
    await becomes(lambda: "layer" not in names_of_clients(redis_url))


async def test_restart_of_the_server_is_one_gap_and_memberships_return(opened, server, caplog):
    """Although it has lost all its data."""
    caplog.set_level(logging.INFO)
    before = time.time()
    layer, peer = await opened(server.url), await opened(server.url)
    first, second = await layer.open_channel(), await layer.open_channel()
    for group, inbox in [("b", first), ("a", first), ("a", second)]:
        await layer.group_add(group, inbox.name)
    server.kill()
    await becomes(lambda: outages(caplog))
    server.start()
    await until_back(layer)
    for inbox, groups in [(first, ["a", "b"]), (second, ["a"])]:
        gap = await arrives(inbox)
        assert (gap["type"], gap["groups"], gap["recovered"]) == ("layer.gap", groups, False)
        assert before <= gap["since"] <= gap["until"] <= time.time()
        assert len(inbox) == 0
    await peer.group_send("a", {"type": "test", "n": 1})
    await peer.group_send("b", {"type": "test", "n": 2})
    assert [(await arrives(first))["n"] for _ in range(2)] == [1, 2]
    assert (await arrives(second))["n"] == 1
    assert [level for level, _ in outages(caplog)] == ["WARNING", "INFO"]


async def test_channel_without_a_group_is_told_of_a_gap(opened, redis_url, client):
    """Direct messages may be missing as well."""
    layer = await opened(redis_url)
    inbox = await layer.open_channel()
    await becomes(lambda: "subscribe" in last_commands(redis_url))
    cut(client)
    await until_back(layer)
    gap = await arrives(inbox)
    assert (gap["type"], gap["groups"]) == ("layer.gap", [])


async def test_lost_connection_loses_no_waiting_message(opened, redis_url, client):
    """They wait in Redis for the reader to come back."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    for number in (1, 2, 3):
        await becomes(lambda: "subscribe" in last_commands(redis_url))
        cut(client)
        with contextlib.suppress(LayerUnavailable):
            await peer.group_send("room", {"type": "test", "n": 0})
        await peer.group_send("room", {"type": "test", "n": number})
        await until_back(layer, number)
        while (await arrives(inbox)).get("n") != number:
            pass


async def test_sending_fails_during_an_outage(opened, server):
    """To groups, to channels elsewhere and to shared ones; and works afterwards."""
    layer = await opened(server.url)
    server.kill()
    for call in (
        layer.group_send("room", MESSAGE),
        layer.send("jobs", MESSAGE),
        layer.send("specific.abc!def", MESSAGE),
    ):
        with pytest.raises(LayerUnavailable):
            await call
    server.start()
    await layer.send("jobs", MESSAGE)
    assert await received(layer, "jobs") == MESSAGE


async def test_join_during_an_outage_completes_afterwards(opened, server, caplog):
    """A consumer sees no error, and the group is really joined."""
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    server.kill()
    await becomes(lambda: outages(caplog))
    joining = asyncio.create_task(layer.group_add("room", inbox.name))
    await turns()
    assert not joining.done()
    server.start()
    async with asyncio.timeout(5):
        await joining
    peer = await opened(server.url)
    await peer.group_send("room", MESSAGE)
    while await arrives(inbox) != MESSAGE:
        pass


async def test_leaving_during_an_outage_is_fine(opened, server, caplog):
    """A consumer sees no error, and the group is not joined again."""
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    for group in ("left", "kept"):
        await layer.group_add(group, inbox.name)
    server.kill()
    await becomes(lambda: outages(caplog))
    try:
        await layer.group_discard("left", inbox.name)
    finally:
        server.start()
        await until_back(layer)
    assert (await arrives(inbox))["groups"] == ["kept"]


async def test_group_that_was_left_during_an_outage_is_left_at_the_server(
    opened, redis_url, client
):
    """As soon as it can be told, if the server has kept its data."""
    layer = await opened(redis_url)
    first, second = await layer.open_channel(), await layer.open_channel()
    await layer.group_add("room", first.name)
    await layer.group_add("kept", second.name)
    await becomes(lambda: "subscribe" in last_commands(redis_url))
    broker = inspect.broker(layer)
    broker.inboxes[0].joined.discard("room")
    broker.inboxes[0].left.add("room")
    cut(client)
    await until_back(layer)
    assert members(client) == set()
    assert len(members(client, "kept")) == 1


async def test_closing_a_channel_during_an_outage_is_fine(opened, server, caplog):
    """The channel leaves its groups as far as that is possible."""
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    server.kill()
    await becomes(lambda: outages(caplog))
    async with asyncio.timeout(4):
        await layer.close_channel(inbox.name)
    assert layer.statistics().channels == 0
    server.start()


async def test_layer_closes_quickly_during_an_outage(opened, server, caplog):
    """With a join that waits for its end."""
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    server.kill()
    await becomes(lambda: outages(caplog))
    joining = asyncio.create_task(layer.group_add("room", inbox.name))
    await turns()
    async with asyncio.timeout(4):
        await layer.close()
    with pytest.raises(RuntimeError):
        await joining


async def test_join_that_the_server_refuses_is_told(opened, redis_url, client):
    """A key of another type does not change by waiting."""
    layer = await opened(redis_url)
    inbox = await layer.open_channel()
    client.set("asgi:group:room", "text")
    async with asyncio.timeout(4):
        with pytest.raises(LayerUnavailable, match=r"WRONGTYPE|wrong kind"):
            await layer.group_add("room", inbox.name)
    assert layer.statistics().members == 0


async def test_membership_outlives_group_expiry(opened, redis_url, client):
    """A process renews its membership, for channels that join later too."""
    # Renewed after a third of that.
    layer = await opened(redis_url, group_expiry=4.5)
    first = await layer.open_channel()
    await layer.group_add("room", first.name)
    (member,) = members(client)
    joined = client.zscore("asgi:group:room", member)
    await becomes(lambda: (client.zscore("asgi:group:room", member) or joined) > joined + 1)
    second = await layer.open_channel()
    await layer.group_add("room", second.name)
    await layer.group_send("room", MESSAGE)
    assert [await arrives(inbox) for inbox in (first, second)] == [MESSAGE, MESSAGE]


async def test_group_that_is_refused_keeps_no_other_from_coming_back(opened, redis_url, client):
    """A refused group is forgotten, even if the connection is lost afterwards."""
    layer = await opened(redis_url)
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    client.set("asgi:group:taken", "no sorted set")
    with pytest.raises(BrokerRefused, match="refused"):
        await layer.group_add("taken", inbox.name)
    await becomes(lambda: "subscribe" in last_commands(redis_url))
    cut(client)
    await until_back(layer)
    assert (await arrives(inbox))["type"] == "layer.gap"
    await layer.group_send("room", MESSAGE)
    assert await arrives(inbox) == MESSAGE


async def test_opening_that_was_cancelled_leaves_the_next_one_able_to_hear(opened, redis_url):
    """The step at which it is cancelled does not matter."""
    for steps in range(12):
        layer = await opened(redis_url)
        opening = asyncio.create_task(layer.open_channel())
        await turns(steps)
        opening.cancel()
        await asyncio.wait([opening])
        inbox = await layer.open_channel()
        other = await opened(redis_url)
        await other.send(inbox.name, MESSAGE)
        assert await arrives(inbox) == MESSAGE


async def test_batch_that_was_on_its_way_keeps_nothing_from_coming_after_it(opened, redis_url):
    """No notice tells of messages from before the connection was back."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    channel = await layer.open_channel()
    inbox = inspect.broker(layer).inboxes[0]
    await becomes(lambda: layer.health().state == "ready" and inbox._held)
    await inbox.tracker.reader.stop()
    for number in (1, 2, 3):
        await peer.send(channel.name, {"type": "test", "n": number})
    # The server has handed out the first; its answer was lost.
    args = [inbox._batches.arrived, 1, 60_000]
    await inbox._control.run(TAKE, [inbox._batch_key, *inbox.inboxes], args)
    inbox.tracker.reader.start()
    assert [(await arrives(channel))["n"] for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("succeeded", [False, True])
async def test_what_a_successor_hands_out_again_comes_once(opened, redis_url, client, succeeded):
    """A promoted replica may not know yet which messages its predecessor handed out."""
    layer = await opened(redis_url)
    channel = await layer.open_channel()
    inbox = inspect.broker(layer).inboxes[0]
    await becomes(lambda: inbox.run_id)
    payload = bytes(12) + msgspec.msgpack.encode({**MESSAGE, ADDRESS_KEY: channel.name})
    client.zadd(inbox.inboxes[0], {payload: time.time()})
    assert await arrives(channel) == MESSAGE
    if succeeded:
        inbox.run_id = b"that of the predecessor"
    await inbox.tracker.reader.stop()
    later = packed(n=2, **{ADDRESS_KEY: channel.name})
    client.zadd(inbox.inboxes[0], {payload: time.time(), later: time.time() + 1})
    inbox.tracker.reader.start()
    # No outage was told of before, so there is one now.
    first = await arrives(channel)
    assert first["type"] == "layer.gap" if succeeded else first == MESSAGE
    assert (await arrives(channel))["n"] == 2


async def test_everybody_who_begins_to_read_is_told_that_it_is_refused(redis_url, monkeypatch):
    """Every caller is told, or the channels of the others would receive nothing."""
    asked, answer = [], asyncio.Event()

    async def refuse(inbox):
        asked.append(inbox)
        await answer.wait()
        raise BrokerRefused(inbox, "NOPERM")

    monkeypatch.setattr(Inbox, "check_access", refuse)
    async with RedisChannelLayer([redis_url]) as layer:
        opening = [asyncio.create_task(layer.open_channel()) for _ in range(3)]
        await becomes(lambda: asked)
        await turns()
        answer.set()
        results = await asyncio.gather(*opening, return_exceptions=True)
        assert [type(result) for result in results] == [BrokerRefused] * 3
        assert layer.statistics().channels == 0


async def test_server_without_memory_is_read_on(opened, server, caplog):
    """Senders are refused, waiting messages arrive, and no process loses its lease."""
    options = {"lease": 5, "heartbeat_interval": 0.5}
    layer, peer = await opened(server.url, **options), await opened(server.url)
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    reader = inspect.broker(layer).inboxes[0]
    await becomes(lambda: layer.health().state == "ready" and reader.run_id)
    await reader.tracker.reader.stop()
    for number in range(40):
        await peer.group_send("room", {"type": "test", "n": number})
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("maxmemory", 1)
        with pytest.raises(BrokerRefused, match="memory"):
            await peer.group_send("room", MESSAGE)
        reader.tracker.reader.start()
        assert [(await arrives(inbox))["n"] for _ in range(40)] == list(range(40))
        ends = admin.zscore("asgi:leases", layer.process)
        await becomes(lambda: admin.zscore("asgi:leases", layer.process) > ends + 1)
        admin.config_set("maxmemory", 0)
    await peer.group_send("room", MESSAGE)
    assert await arrives(inbox) == MESSAGE
    # Joining once more was refused, for a membership that is there still.
    assert "WARNING" not in [level for level, _ in outages(caplog)]
