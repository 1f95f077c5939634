"""Redis pub/sub: its names on the wire, its subscriptions, and its outages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time

import msgspec
import pytest
import redis

from fast_channels.exceptions import InvalidChannelLayerError, LayerUnavailable
from fast_channels.layers import RedisPubSubChannelLayer
from fast_channels.layers.redis import _reader
from fast_channels.testing.server import free_port
from tests.layers.redis.support import cut, names_of_clients, outages, paused, subscribers
from tests.layers.support import arrives, becomes, received, turns

MESSAGE = {"type": "test"}


@pytest.fixture
async def opened():
    """Makes layers, and closes them after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(url, **options):
            return await stack.enter_async_context(RedisPubSubChannelLayer([url], **options))

        yield make


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Outages of tests are short."""
    monkeypatch.setattr(_reader, "MIN_RECONNECT_DELAY_SECONDS", 0.01)


def topics(client):
    """Return the subscriptions, without the channels of heartbeats."""
    return {t.decode() for t in client.pubsub_channels() if b"heartbeat" not in t}


async def until_back(layer, gaps=1):
    await becomes(lambda: layer.statistics().gaps == gaps)


# -- the wire ------------------------------------------------------------------


async def test_channels_and_groups_are_redis_channels(opened, redis_url, client):
    """A channel under its own name, a group under the prefix and its name."""
    layer = await opened(redis_url, prefix="mine")
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    assert inbox.name.startswith("minespecific.")
    assert topics(client) == {inbox.name, "mine__group__room"}
    for topic in topics(client):
        client.publish(topic, msgspec.msgpack.encode({"type": "test", "topic": topic}))
    assert {(await arrives(inbox))["topic"] for _ in range(2)} == {inbox.name, "mine__group__room"}


async def test_payload_is_what_the_serializer_makes(opened, redis_url, client):
    """Nothing around it."""
    layer = await opened(redis_url)
    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("asgi__group__room")
        listener.get_message(timeout=5)
        await layer.group_send("room", {"type": "test", "n": 1})
        data = listener.get_message(timeout=5)["data"]
    assert data == msgspec.msgpack.encode({"type": "test", "n": 1})


async def test_prefixes_keep_layers_apart(opened, redis_url):
    """Groups of the same name on one server are different groups."""
    one, other = await opened(redis_url, prefix="one"), await opened(redis_url, prefix="other")
    inbox = await one.open_channel()
    await one.group_add("room", inbox.name)
    await other.group_send("room", {"type": "test", "from": "other"})
    await one.group_send("room", {"type": "test", "from": "one"})
    assert (await arrives(inbox))["from"] == "one"


async def test_garbage_on_the_wire_is_skipped(opened, redis_url, client):
    """Such payloads are counted, and later messages arrive."""
    layer = await opened(redis_url)
    inbox = await layer.open_channel()
    for payload in (b"", b"\xc1", b"text", b"\x05"):
        client.publish(inbox.name, payload)
    await layer.send(inbox.name, MESSAGE)
    assert await arrives(inbox) == MESSAGE
    await becomes(lambda: layer.statistics().undecodable == 4)


async def test_any_process_may_receive_on_a_name_it_was_given(opened, redis_url):
    """A name is a Redis channel, which every process can subscribe to."""
    layer, peer = await opened(redis_url), await opened(redis_url)
    receiving = asyncio.create_task(received(layer, "some-name"))
    await becomes(lambda: layer.statistics().subscriptions)
    await peer.send("some-name", MESSAGE)
    assert await receiving == MESSAGE


# -- subscriptions -------------------------------------------------------------


async def test_one_subscription_serves_all_members(opened, redis_url, client):
    """The server sends each message to a process once."""
    layer = await opened(redis_url)
    for _ in range(20):
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
    assert client.pubsub_numsub("asgi__group__room") == [(b"asgi__group__room", 1)]
    assert client.publish("asgi__group__room", layer.serialize(MESSAGE)) == 1


async def test_closed_channels_leave_no_subscription(opened, redis_url, client):
    """Neither at the server nor here."""
    layer = await opened(redis_url)
    inboxes = [await layer.open_channel() for _ in range(5)]
    for inbox in inboxes:
        await layer.group_add("room", inbox.name)
        await layer.group_add(f"own-{inbox.name[-5:]}", inbox.name)
    for inbox in inboxes:
        await layer.close_channel(inbox.name)
    await becomes(lambda: topics(client) == set())
    assert layer.statistics().subscriptions == 0


async def test_layer_that_only_publishes_has_one_connection(opened, redis_url, client):
    """Such a layer has no subscription."""
    layer = await opened(f"{redis_url}?client_name=layer")
    for n in range(10):
        await layer.group_send(f"room-{n}", MESSAGE)
    assert names_of_clients(redis_url).count("layer") == 1
    assert subscribers(client) == 0


async def test_layer_that_receives_has_two_connections(opened, redis_url, client):
    """However many channels and groups there are; none when it is closed."""
    layer = await opened(f"{redis_url}?client_name=layer")
    for n in range(10):
        inbox = await layer.open_channel()
        await layer.group_add(f"room-{n}", inbox.name)
    assert names_of_clients(redis_url).count("layer") == 2
    assert subscribers(client) == 1
    await layer.close()
    await becomes(lambda: "layer" not in names_of_clients(redis_url))


async def test_options_of_a_url_that_would_break_us_do_no_harm(opened, redis_url):
    """Silence that is longer than a timeout in them does no harm either."""
    url = f"{redis_url}?decode_responses=True&protocol=3&socket_timeout=0.05"
    layer = await opened(url)
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    silence = asyncio.create_task(inbox.get())
    await asyncio.wait([silence], timeout=0.3)
    await layer.group_send("room", MESSAGE)
    assert await silence == MESSAGE
    assert layer.statistics().reconnects == 0


# -- outages -------------------------------------------------------------------


async def test_server_that_does_not_answer_fails_the_opening():
    """Nothing is left open."""
    before = asyncio.all_tasks()
    layer = RedisPubSubChannelLayer([f"redis://127.0.0.1:{free_port()}"])
    with pytest.raises(LayerUnavailable, match="is the server running"):
        await layer.open()
    assert asyncio.all_tasks() == before


async def test_restart_of_the_server_is_one_gap_per_channel(opened, server, caplog):
    """With its groups and the time; then everything is subscribed again."""
    caplog.set_level(logging.INFO)
    layer, peer = await opened(server.url), await opened(server.url)
    first, second, alone = [await layer.open_channel() for _ in range(3)]
    for group, inbox in [("b", first), ("a", first), ("a", second)]:
        await layer.group_add(group, inbox.name)
    before = time.time()
    server.kill()
    await becomes(lambda: outages(caplog))
    server.start()
    await until_back(layer)
    gaps = [await arrives(inbox) for inbox in (first, second, alone)]
    assert [gap["groups"] for gap in gaps] == [["a", "b"], ["a"], []]
    for gap in gaps:
        assert gap["type"] == "layer.gap"
        assert gap["recovered"] is False
        assert before - 1 <= gap["since"] <= gap["until"] <= time.time()
    assert [len(inbox) for inbox in (first, second, alone)] == [0, 0, 0]
    await peer.group_send("a", {"type": "test", "n": 1})
    await peer.group_send("b", {"type": "test", "n": 2})
    await peer.send(alone.name, {"type": "test", "n": 3})
    assert [(await arrives(first))["n"] for _ in range(2)] == [1, 2]
    assert (await arrives(second))["n"] == 1
    assert (await arrives(alone))["n"] == 3
    assert layer.statistics().reconnects == 1
    assert [level for level, _ in outages(caplog)] == ["WARNING", "INFO"]


async def test_each_outage_is_a_gap_of_its_own(opened, redis_url, client):
    """A lost connection is enough."""
    layer = await opened(redis_url)
    inbox = await layer.open_channel()
    for number in (1, 2, 3):
        await becomes(lambda: subscribers(client) == 1)
        cut(client, "pubsub")
        await until_back(layer, number)
    assert [(await arrives(inbox))["type"] for _ in range(3)] == ["layer.gap"] * 3


async def test_gap_stands_between_what_came_before_and_after(opened, redis_url, client):
    """The gap is at the place of the missing messages."""
    layer = await opened(redis_url)
    inbox = await layer.open_channel()
    client.publish(inbox.name, layer.serialize({"type": "before"}))
    await becomes(lambda: len(inbox) == 1)
    cut(client, "pubsub")
    await until_back(layer)
    client.publish(inbox.name, layer.serialize({"type": "after"}))
    assert [(await arrives(inbox))["type"] for _ in range(3)] == ["before", "layer.gap", "after"]


async def test_sending_fails_during_an_outage(opened, server):
    """Within the timeout, and works afterwards without anybody's help."""
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    server.kill()
    for _ in range(3):
        with pytest.raises(LayerUnavailable):
            await layer.group_send("room", MESSAGE)
    server.start()
    await until_back(layer)
    await layer.group_send("room", MESSAGE)
    assert [(await arrives(inbox))["type"] for _ in range(2)] == ["layer.gap", "test"]


async def test_sending_within_the_process_needs_no_server(opened, server):
    """A channel that is open here is reached."""
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    server.kill()
    await layer.send(inbox.name, MESSAGE)
    assert await arrives(inbox) == MESSAGE


async def test_join_during_an_outage_completes_afterwards(opened, server, caplog):
    """A consumer sees no error, and the group is really joined."""
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    server.kill()
    await becomes(lambda: outages(caplog))
    joining = asyncio.create_task(layer.group_add("room", inbox.name))
    opening = asyncio.create_task(layer.open_channel())
    await turns()
    assert not joining.done()
    server.start()
    await joining
    other = await opening
    await until_back(layer)
    await layer.group_send("room", MESSAGE)
    assert [(await arrives(inbox))["type"] for _ in range(2)] == ["layer.gap", "test"]
    await layer.send(other.name, MESSAGE)
    assert (await arrives(other))["type"] in ("layer.gap", "test")


async def test_leaving_during_an_outage_is_fine(opened, server, caplog):
    """The group is not joined again afterwards."""
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    for group in ("left", "kept"):
        await layer.group_add(group, inbox.name)
    server.kill()
    await becomes(lambda: outages(caplog))
    async with asyncio.timeout(4):
        await layer.group_discard("left", inbox.name)
    server.start()
    await until_back(layer)
    assert (await arrives(inbox))["groups"] == ["kept"]
    await layer.group_send("left", {"type": "test", "n": 1})
    await layer.group_send("kept", {"type": "test", "n": 2})
    assert (await arrives(inbox))["n"] == 2


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


async def test_outage_can_be_told_with_messages_of_ones_own(opened, redis_url, client):
    """One type when it begins and one when it ends, to every channel."""
    layer = await opened(redis_url, on_disconnect="gone", on_reconnect="back")
    inboxes = [await layer.open_channel() for _ in range(2)]
    await layer.group_add("room", inboxes[0].name)
    cut(client, "pubsub")
    await until_back(layer)
    for inbox in inboxes:
        messages = [await arrives(inbox) for _ in range(3)]
        assert [m["type"] for m in messages] == ["gone", "layer.gap", "back"]


async def test_many_subscriptions_are_restored(opened, redis_url, client):
    """More than fit into one command."""
    layer = await opened(redis_url)
    inbox = await layer.open_channel()
    await asyncio.gather(*(layer.group_add(f"room-{n}", inbox.name) for n in range(2500)))
    cut(client, "pubsub")
    await until_back(layer)
    assert len(topics(client)) == 2501
    gap = await arrives(inbox)
    assert len(gap["groups"]) == 2500


async def test_joins_and_leaves_while_subscriptions_are_restored(opened, redis_url, client):
    """The last call for each group counts."""
    layer = await opened(redis_url)
    inbox = await layer.open_channel()
    await asyncio.gather(*(layer.group_add(f"old-{n}", inbox.name) for n in range(300)))
    for _ in range(3):
        gaps = layer.statistics().gaps
        cut(client, "pubsub")
        await asyncio.gather(
            *(layer.group_add(f"new-{n}", inbox.name) for n in range(100)),
            *(layer.group_discard(f"old-{n}", inbox.name) for n in range(150)),
        )
        await until_back(layer, gaps + 1)
        expected = {f"asgi__group__old-{n}" for n in range(150, 300)}
        expected |= {f"asgi__group__new-{n}" for n in range(100)} | {inbox.name}
        await becomes(lambda e=expected: topics(client) == e)
        await asyncio.gather(
            *(layer.group_discard(f"new-{n}", inbox.name) for n in range(100)),
            *(layer.group_add(f"old-{n}", inbox.name) for n in range(150)),
        )


async def test_join_that_the_server_refuses_is_told(opened, server):
    """Waiting does not change access rules."""
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "default", "resetchannels", "&asgispecific*")
    layer = await opened(server.url)
    inbox = await layer.open_channel()
    async with asyncio.timeout(4):
        with pytest.raises(LayerUnavailable, match=r"(?i)permission"):
            await layer.group_add("room", inbox.name)
    await layer.send(inbox.name, MESSAGE)
    assert await arrives(inbox) == MESSAGE
    assert layer.statistics().members == 0


async def test_server_that_hangs_delays_messages_and_loses_none(opened, server):
    """A pause that is shorter than the timeouts is no outage."""
    layer, peer = await opened(server.url), await opened(server.url)
    inbox = await layer.open_channel()
    with paused(server):
        sending = [
            asyncio.create_task(peer.send(inbox.name, {"type": "test", "n": n})) for n in range(20)
        ]
        await asyncio.wait(sending, timeout=0.2)
    assert [(await arrives(inbox))["n"] for _ in range(20)] == list(range(20))
    assert layer.statistics().gaps == 0


async def test_prefix_may_be_any_string(redis_url):
    """Names of channels contain the prefix, and may not contain such strings elsewhere."""
    async with RedisPubSubChannelLayer([redis_url], prefix="my app:") as layer:
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        await layer.group_send("room", {"type": "test", "n": 1})
        await layer.send(inbox.name, {"type": "test", "n": 2})
        assert {(await arrives(inbox))["n"] for _ in range(2)} == {1, 2}


@pytest.mark.parametrize("type_", ["", "_private", 5])
def test_type_that_no_handler_can_have_is_refused_at_once(type_):
    """The first lost connection would be too late."""
    with pytest.raises(InvalidChannelLayerError, match=re.escape(repr(type_))):
        RedisPubSubChannelLayer(on_disconnect=type_)
