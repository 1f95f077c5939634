"""The keys, types and bytes in Redis, read without any layer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json

import msgspec
import pytest
import redis.asyncio
from cryptography.fernet import Fernet

from fast_channels.layers import names
from fast_channels.layers.redis import _inbox
from tests.interop.support import FORMATS, LAYERS, PATIENCE, Setup, fresh, received

PLAIN = {"a": True, "b": None, "c": {"d": []}}

# A random prefix, which makes equal messages different members of a sorted set.
RANDOM_PREFIX = 12

QUEUE = Setup("queue", "msgpack", 1)
PUBSUB = Setup("pubsub", "msgpack", 1)

EXPIRY, GROUP_EXPIRY = 40, 400


@pytest.fixture
def raw(servers):
    return servers.raw[0]


@pytest.fixture(params=["sent_by_us", "sent_by_peer"])
async def sender(request, peer, servers):
    """A queue layer of either side; each test below holds for both."""
    expiry = {"expiry": EXPIRY, "group_expiry": GROUP_EXPIRY}
    if request.param == "sent_by_peer":
        yield await QUEUE.peer_layer(peer, servers, **expiry)
        return
    async with QUEUE.our_layer(servers, **expiry) as layer:
        yield layer


@pytest.fixture
def unread():
    """A channel in an inbox without a reader, so that tests can look at its messages."""
    return f"specific.{fresh('x')[2:]}!local"


def waiting(raw, key):
    """Return the messages in an inbox, decoded without this library."""
    assert raw.type(key) == b"zset"
    return [msgspec.msgpack.decode(member[RANDOM_PREFIX:]) for member in raw.zrange(key, 0, -1)]


class TestInbox:
    async def test_direct_message_waits_under_the_name_of_the_inbox(self, sender, raw, unread):
        """The key is the prefix and the name up to `!`; the full name is in the message."""
        await sender.send(unread, PLAIN)
        key = "interop" + names.inbox_of(unread)
        assert waiting(raw, key) == [{**PLAIN, "__asgi_channel__": unread}]

    async def test_plain_message_waits_under_the_full_name(self, sender, raw):
        """A named channel's key is the prefix and the name, and the message has no address."""
        name = fresh("jobs")
        await sender.send(name, PLAIN)
        assert waiting(raw, f"interop{name}") == [PLAIN]

    async def test_group_message_names_all_its_receivers(self, sender, raw, unread):
        """Several members in one inbox share one message with a list of their full names."""
        group, other = fresh("room"), unread + "2"
        for channel in (unread, other):
            await sender.group_add(group, channel)
        await sender.group_send(group, PLAIN)
        (message,) = waiting(raw, "interop" + names.inbox_of(unread))
        assert sorted(message.pop("__asgi_channel__")) == [unread, other]
        assert message == PLAIN

    async def test_group_message_to_a_plain_channel_has_a_list_too(self, sender, raw):
        """A named channel that is a member gets a list of its one name."""
        group, name = fresh("room"), fresh("log")
        await sender.group_add(group, name)
        await sender.group_send(group, PLAIN)
        assert waiting(raw, f"interop{name}") == [{**PLAIN, "__asgi_channel__": [name]}]

    async def test_equal_messages_stay_two(self, sender, raw):
        """The random prefix keeps the second of two equal messages from replacing the first."""
        name = fresh("jobs")
        for _ in range(2):
            await sender.send(name, PLAIN)
        first, second = raw.zrange(f"interop{name}", 0, -1)
        assert first[:RANDOM_PREFIX] != second[:RANDOM_PREFIX]
        assert first[RANDOM_PREFIX:] == second[RANDOM_PREFIX:]

    async def test_score_is_the_time_of_sending(self, sender, raw):
        """Scores are Unix time in seconds and grow from message to message."""
        name = fresh("jobs")
        before = seconds(raw)
        for number in range(5):
            await sender.send(name, {"number": number})
        stored = raw.zrange(f"interop{name}", 0, -1, withscores=True)
        scores = [score for _, score in stored]
        assert before - 1 <= scores[0] <= scores[-1] <= seconds(raw) + 1
        assert [message["number"] for message in waiting(raw, f"interop{name}")] == [0, 1, 2, 3, 4]

    async def test_inbox_is_forgotten_after_expiry(self, sender, raw):
        """Redis deletes an inbox without a reader `expiry` seconds after the last message."""
        name = fresh("jobs")
        await sender.send(name, PLAIN)
        assert EXPIRY - 5 < raw.ttl(f"interop{name}") <= EXPIRY


class TestGroup:
    async def test_group_is_a_sorted_set_of_full_names(self, sender, raw, unread):
        """The key is prefix, `:group:` and the group; members are scored with the time."""
        group = fresh("room")
        await sender.group_add(group, unread)
        key = f"interop:group:{group}"
        assert raw.type(key) == b"zset"
        ((member, score),) = raw.zrange(key, 0, -1, withscores=True)
        assert member == unread.encode()
        assert abs(score - seconds(raw)) < 5

    async def test_group_is_forgotten_after_group_expiry(self, sender, raw, unread):
        """Redis deletes a group `group_expiry` seconds after the last join."""
        group = fresh("room")
        await sender.group_add(group, unread)
        assert GROUP_EXPIRY - 5 < raw.ttl(f"interop:group:{group}") <= GROUP_EXPIRY

    async def test_group_without_members_is_gone(self, sender, raw, unread):
        """The key disappears with the last member."""
        group = fresh("room")
        await sender.group_add(group, unread)
        await sender.group_discard(group, unread)
        assert not raw.exists(f"interop:group:{group}")


class TestOneProcess:
    """Many channels of one process cost Redis as much as one."""

    CHANNELS = 50

    @pytest.fixture
    async def ours(self, servers):
        async with QUEUE.our_layer(servers) as layer:
            yield layer

    async def test_process_is_one_member_however_many_channels_joined(self, ours, raw):
        """The group's key has one name per process, and none after the last channel left."""
        group = fresh("room")
        channels = [await ours.new_channel() for _ in range(self.CHANNELS)]
        for channel in channels:
            await ours.group_add(group, channel)
        (member,) = raw.zrange(f"interop:group:{group}", 0, -1)
        assert names.inbox_of(member.decode()) == names.inbox_of(channels[0])

        for channel in channels:
            await ours.group_discard(group, channel)
        assert not raw.exists(f"interop:group:{group}")

    @pytest.mark.parametrize("by", ["us", "peer"])
    async def test_broadcast_is_one_write_into_one_inbox(self, ours, peer, servers, raw, by):
        """Fifty members receive a broadcast that was written to Redis once, from either side."""
        theirs = await QUEUE.peer_layer(peer, servers)
        group = fresh("room")
        channels = [await ours.new_channel() for _ in range(self.CHANNELS)]
        for channel in channels:
            await ours.group_add(group, channel)

        inbox = f"__keyspace@0__:interop{names.inbox_of(channels[0])}"
        # Let Redis publish the commands that change a key (z: commands of sorted sets) on a
        # channel named after the key (K).
        raw.config_set("notify-keyspace-events", "Kz")
        async with redis.asyncio.from_url(servers.urls[0]) as client, client.pubsub() as events:
            await events.subscribe(inbox)
            # The confirmation comes first; without waiting for it, a message sent on another
            # connection could be published before the subscription.
            await anext(events.listen())
            await (ours if by == "us" else theirs).group_send(group, PLAIN)
            for channel in channels:
                assert await received(ours, channel) == [PLAIN]
            # Comes after everything that the broadcast causes.
            await client.publish(inbox, "end")
            assert await commands(events) == ["zadd", "zpopmin"]
        raw.config_set("notify-keyspace-events", "")

    async def test_layer_that_closes_leaves_nothing(self, servers, raw, monkeypatch):
        """The group has one member less, and no sender writes to the inbox without a reader."""
        monkeypatch.setattr(_inbox, "CLOSE_TIMEOUT_SECONDS", PATIENCE)
        group = fresh("room")
        async with QUEUE.our_layer(servers) as layer:
            channel = await layer.new_channel()
            await layer.group_add(group, channel)
            assert raw.zcard(f"interop:group:{group}") == 1
        left = [key.decode() for key in raw.scan_iter("*")]
        assert not [key for key in left if group in key or layer.process in key]


async def commands(events):
    """Return the commands on a key until "end" is published on its channel."""
    found = []
    async with asyncio.timeout(PATIENCE):
        async for event in events.listen():
            if event["type"] == "message":
                if event["data"] == b"end":
                    return found
                found.append(event["data"].decode())
    return found


class TestPayload:
    @pytest.mark.parametrize(
        ("setup", "prefix"), [(QUEUE, RANDOM_PREFIX), (PUBSUB, 0)], ids=["queue", "pubsub"]
    )
    async def test_msgpack_payload_equals_the_peers(self, peer, servers, setup, prefix):
        """Equal messages become equal bytes on both sides: plain MessagePack."""
        theirs = await setup.peer_layer(peer, servers)
        ours = setup.our_layer(servers).serialize(PLAIN)
        assert ours[prefix:] == b"\x83\xa1a\xc3\xa1b\xc0\xa1c\x81\xa1d\x90"
        assert ours[prefix:] == (await theirs.serialize(PLAIN))[prefix:]

    async def test_json_payload_is_plain_json(self, servers):
        """Any JSON parser reads the payload of serializer_format="json"."""
        layer = Setup("pubsub", "json", 1).our_layer(servers)
        assert json.loads(layer.serialize(PLAIN)) == PLAIN

    @pytest.mark.parametrize("format_name", FORMATS)
    @pytest.mark.parametrize("kind", LAYERS)
    async def test_each_side_deserializes_the_other(self, peer, servers, kind, format_name):
        """deserialize undoes the serialize of the other side, in every format."""
        setup = Setup(kind, format_name, 1)
        theirs, ours = await setup.peer_layer(peer, servers), setup.our_layer(servers)
        message = setup.format.message
        assert await theirs.deserialize(ours.serialize(message)) == message
        assert ours.deserialize(await theirs.serialize(message)) == message

    @pytest.mark.parametrize(
        ("kind", "prefix"), [("queue", RANDOM_PREFIX), ("pubsub", 0)], ids=["queue", "pubsub"]
    )
    def test_encrypted_payload_is_a_fernet_token(self, servers, kind, prefix):
        """The first key encrypts, as base64 of its SHA-256; the random prefix stays outside."""
        layer = Setup(kind, "rotated_keys", 1).our_layer(servers)
        fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"new key").digest()))
        token = layer.serialize(PLAIN)[prefix:]
        assert msgspec.msgpack.decode(fernet.decrypt(token)) == PLAIN


class TestPubSub:
    """Redis channels carry the names of channels and groups, with nothing stored."""

    @pytest.fixture
    async def ours(self, servers):
        async with PUBSUB.our_layer(servers) as layer:
            yield layer

    async def test_channel_is_a_redis_channel_of_the_same_name(self, ours, servers, raw):
        """A new channel's name is the prefix, `specific.` and 32 hex digits, and is subscribed."""
        channel = await ours.new_channel()
        await servers.subscribed(channel, 1)
        assert raw.publish(channel, msgspec.msgpack.encode(PLAIN)) == 1
        assert await received(ours, channel) == [PLAIN]
        prefix, digits = channel.rsplit(".", 1)
        assert prefix == "interopspecific"
        assert len(bytes.fromhex(digits)) == 16

    async def test_group_is_one_redis_channel_for_the_whole_process(self, ours, raw):
        """A group's Redis channel is prefix, `__group__` and its name, subscribed once."""
        group = fresh("room")
        channels = [await ours.new_channel() for _ in range(3)]
        for channel in channels:
            await ours.group_add(group, channel)
        assert raw.publish(f"interop__group__{group}", msgspec.msgpack.encode(PLAIN)) == 1
        for channel in channels:
            assert await received(ours, channel) == [PLAIN]

    async def test_payload_is_the_message_alone(self, ours, servers):
        """The payload is the serialized message, without an address or a random prefix."""
        group = fresh("room")
        async with redis.asyncio.from_url(servers.urls[0]) as client, client.pubsub() as listener:
            await listener.subscribe(f"interop__group__{group}")
            # The confirmation comes first.
            await anext(listener.listen())
            await ours.group_send(group, PLAIN)
            async with asyncio.timeout(PATIENCE):
                event = await anext(listener.listen())
        assert msgspec.msgpack.decode(event["data"]) == PLAIN


def seconds(raw):
    """Return the server's clock."""
    whole, microseconds = raw.time()
    return whole + microseconds / 1e6
