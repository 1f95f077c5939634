"""Messages cross between this library and channels_redis on the same servers."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import ChannelFull
from fast_channels.layers import names, register_channel_layer, unregister_channel_layer
from fast_channels.testing import WebsocketCommunicator
from tests.interop.support import (
    FORMATS,
    MATRIX,
    PATIENCE,
    PeerError,
    Setup,
    fresh,
    on_every_host,
    received,
)

QUEUES = [setup for setup in MATRIX if setup.kind == "queue"]


async def groups_on_every_host(setup):
    """Return group names that together use every host."""

    async def make():
        return fresh("room")

    def hashed(group):
        return group if setup.kind == "queue" else f"{setup.prefix}__group__{group}"

    return await on_every_host(setup.hosts, make, hashed)


async def test_message_reaches_a_channel_of_the_peer(setup, ours, theirs):
    """A message to a name that channels_redis made is received there, unchanged."""
    if setup.kind == "queue":
        # The inbox decides about the host, and a process has one per prefix.
        prefixes = (f"p{number}" for number in itertools.count())
        channels = await on_every_host(
            setup.hosts, lambda: theirs.new_channel(next(prefixes)), names.inbox_of
        )
    else:
        channels = await on_every_host(setup.hosts, theirs.new_channel)
    for channel in channels:
        await ours.send(channel, setup.format.message)
        assert await received(theirs, channel) == [setup.format.message]


async def test_message_of_the_peer_reaches_our_channel(setup, ours, theirs):
    """A message of channels_redis to a name that we made is received here, unchanged."""
    # The peer hashes the full name, so it may send to a host where its own kind would not look.
    for channel in await on_every_host(setup.hosts, ours.new_channel):
        await theirs.send(channel, setup.format.message)
        assert await received(ours, channel) == [setup.format.message]


@pytest.mark.parametrize("sender", ["sent_by_us", "sent_by_peer"])
async def test_group_message_reaches_members_on_both_sides_once(setup, ours, theirs, sender):
    """Two members here and two at the peer each receive two broadcasts, in order, once."""
    layer = ours if sender == "sent_by_us" else theirs
    for group in await groups_on_every_host(setup):
        members = [(side, await side.new_channel()) for side in (ours, ours, theirs, theirs)]
        for side, channel in members[:2]:
            await side.group_add(group, channel)
        for side, channel in members[2:]:
            await side.group_add(group, channel, subscribers=2)

        messages = [{**setup.format.message, "number": number} for number in (1, 2)]
        for message in messages:
            await layer.group_send(group, message)

        # A duplicate would be in the place of the next message.
        for side, channel in members:
            assert await received(side, channel, 2) == messages


@pytest.mark.parametrize("sender", ["sent_by_us", "sent_by_peer"])
async def test_member_that_left_receives_nothing(setup, ours, theirs, sender):
    """After group_discard on either side, the next message of a channel is a direct one."""
    layer = ours if sender == "sent_by_us" else theirs
    group = fresh("room")
    stays, leaves = await ours.new_channel(), await ours.new_channel()
    their_stays, their_leaves = await theirs.new_channel(), await theirs.new_channel()
    for channel in (stays, leaves):
        await ours.group_add(group, channel)
    for channel in (their_stays, their_leaves):
        await theirs.group_add(group, channel, subscribers=2)

    await ours.group_discard(group, leaves)
    await theirs.group_discard(group, their_leaves)
    # On either side, the members in one process get a message at the same moment.
    await layer.group_send(group, {"type": "for.members"})
    assert await received(ours, stays) == [{"type": "for.members"}]
    assert await received(theirs, their_stays) == [{"type": "for.members"}]

    await ours.send(leaves, {"type": "direct"})
    await ours.send(their_leaves, {"type": "direct"})
    assert await received(ours, leaves) == [{"type": "direct"}]
    assert await received(theirs, their_leaves) == [{"type": "direct"}]


@pytest.mark.parametrize("setup", QUEUES, ids=str)
class TestQueue:
    """Features that only the queue layer has: shared names, and memberships of foreign channels."""

    async def test_peer_sends_to_a_named_channel(self, setup, ours, theirs):
        """We receive messages that channels_redis puts into a named channel, from every host."""
        name = fresh("jobs")
        messages = [{**setup.format.message, "number": number} for number in range(4)]
        for message in messages:
            await theirs.send(name, message)
        taken = await received(ours, name, 4)
        if setup.hosts == 1:
            assert taken == messages
        else:
            # The peer sends to its hosts in turn, and no order spans two servers.
            assert sorted(taken, key=lambda message: message["number"]) == messages

    @pytest.mark.parametrize("sender", ["sent_by_us", "sent_by_peer"])
    async def test_named_channel_in_a_group_receives(self, setup, ours, theirs, sender):
        """A named channel that either side added to a group gets the group's messages."""
        layer = ours if sender == "sent_by_us" else theirs
        for adder in (ours, theirs):
            for group in await groups_on_every_host(setup):
                name = fresh("log")
                await adder.group_add(group, name)
                await layer.group_send(group, setup.format.message)
                assert await received(ours, name) == [setup.format.message]

    @pytest.mark.parametrize("sender", ["sent_by_us", "sent_by_peer"])
    async def test_channels_added_by_the_other_side_receive(self, setup, ours, theirs, sender):
        """Each side adds a channel of the other to a group, and both receive."""
        layer = ours if sender == "sent_by_us" else theirs
        group, channel, their_channel = fresh("room"), *await both_channels(ours, theirs)
        await theirs.group_add(group, channel)
        await ours.group_add(group, their_channel)
        await layer.group_send(group, setup.format.message)
        assert await received(ours, channel) == [setup.format.message]
        assert await received(theirs, their_channel) == [setup.format.message]

    @pytest.mark.parametrize("sender", ["sent_by_us", "sent_by_peer"])
    async def test_channel_added_by_both_sides_receives_once(self, setup, ours, theirs, sender):
        """A channel that is in a group twice, by its own process and by a peer, gets one copy."""
        layer = ours if sender == "sent_by_us" else theirs
        group, channel = fresh("room"), await ours.new_channel()
        await ours.group_add(group, channel)
        await theirs.group_add(group, channel)
        messages = [{"type": "chat.message", "number": number} for number in (1, 2)]
        for message in messages:
            await layer.group_send(group, message)
        assert await received(ours, channel, 2) == messages

    async def test_we_end_a_membership_that_the_peer_made(self, setup, ours, theirs):
        """group_discard here undoes a group_add of the same channel at the peer."""
        group, stays, leaves = fresh("room"), await ours.new_channel(), await ours.new_channel()
        for channel in (stays, leaves):
            await theirs.group_add(group, channel)
        await ours.group_discard(group, leaves)

        # One payload carries the names of all receivers in this process. Therefore once one
        # receiver has the message, no other receiver will get it any more.
        await theirs.group_send(group, {"type": "for.members"})
        assert await received(ours, stays) == [{"type": "for.members"}]
        await ours.send(leaves, {"type": "direct"})
        assert await received(ours, leaves) == [{"type": "direct"}]


async def both_channels(ours, theirs):
    return await ours.new_channel(), await theirs.new_channel()


# channels_redis receives a named channel on one of its hosts until something
# arrives there, and only then looks at the next one. We send all of a channel
# to the host of its name, where with two hosts it may not look for ever.
@pytest.mark.parametrize("setup", [queue for queue in QUEUES if queue.hosts == 1], ids=str)
class TestQueueOnOneHost:
    async def test_peer_receives_from_a_named_channel(self, setup, ours, theirs):
        """channels_redis receives our messages to a named channel, in order."""
        name = fresh("jobs")
        messages = [{**setup.format.message, "number": number} for number in range(3)]
        for message in messages:
            await ours.send(name, message)
        assert await received(theirs, name, 3) == messages

    async def test_named_channel_shared_by_both_sides_delivers_once(self, setup, ours, theirs):
        """A receiver here and one at the peer share a queue: each message goes to one of them."""
        name = fresh("jobs")
        receivers = [asyncio.create_task(received(side, name)) for side in (ours, theirs)]
        for number in range(2):
            await ours.send(name, {"type": "job", "number": number})
        (first,), (second,) = await asyncio.gather(*receivers)
        assert {first["number"], second["number"]} == {0, 1}


@pytest.fixture
def one_queue():
    return Setup("queue", "msgpack", 1)


async def test_queue_filled_by_us_is_full_for_the_peer(one_queue, peer, servers):
    """Both sides count the same messages against the capacity of a named channel."""
    theirs = await one_queue.peer_layer(peer, servers, capacity=2)
    async with one_queue.our_layer(servers, capacity=2) as ours:
        name = fresh("jobs")
        for _ in range(2):
            await ours.send(name, {"type": "job"})
        with pytest.raises(PeerError, match="ChannelFull"):
            await theirs.send(name, {"type": "job"})


async def test_queue_filled_by_the_peer_is_full_for_us(one_queue, peer, servers):
    """Both sides count the same messages against the capacity of a named channel."""
    theirs = await one_queue.peer_layer(peer, servers, capacity=2)
    async with one_queue.our_layer(servers, capacity=2) as ours:
        name = fresh("jobs")
        for _ in range(2):
            await theirs.send(name, {"type": "job"})
        with pytest.raises(ChannelFull):
            await ours.send(name, {"type": "job"})


@pytest.mark.parametrize("kind", ["queue", "pubsub"])
async def test_message_under_a_foreign_key_is_skipped_and_counted(kind, peer, servers):
    """A message with another encryption key reaches no channel and does no harm."""
    setup = Setup(kind, "encrypted", 1)
    stranger = await setup.peer_layer(peer, servers, symmetric_encryption_keys=["another key"])
    theirs = await setup.peer_layer(peer, servers)
    async with setup.our_layer(servers) as ours:
        channel = await ours.new_channel()
        await stranger.send(channel, {"type": "unreadable"})
        await theirs.send(channel, {"type": "readable"})
        assert await received(ours, channel) == [{"type": "readable"}]
        assert ours.statistics().undecodable == 1


class ChatConsumer(AsyncWebsocketConsumer):
    channel_layer_alias = "interop"
    groups = ("interop_room",)

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send(
            "interop_room", {"type": "chat.message", "text": text_data}
        )

    async def chat_message(self, event):
        await self.send(text_data=event["text"])


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("kind", ["queue", "pubsub"])
async def test_consumers_talk_with_a_peer(kind, format_name, peer, servers):
    """Two WebSockets and a channel of the peer are in one room and hear each other."""
    setup = Setup(kind, format_name, 1)
    theirs = await setup.peer_layer(peer, servers)
    channel = await theirs.new_channel()
    async with setup.our_layer(servers) as ours:
        register_channel_layer("interop", ours)
        clients = [WebsocketCommunicator(ChatConsumer.as_asgi(), "/") for _ in range(2)]
        try:
            for client in clients:
                assert await client.connect(PATIENCE) == (True, None)
            await theirs.group_add("interop_room", channel, subscribers=2)

            await theirs.group_send("interop_room", {"type": "chat.message", "text": "from afar"})
            for client in clients:
                assert await client.receive_from(PATIENCE) == "from afar"

            await clients[0].send_to(text_data="from here")
            for client in clients:
                assert await client.receive_from(PATIENCE) == "from here"
            assert [message["text"] for message in await received(theirs, channel, 2)] == [
                "from afar",
                "from here",
            ]
        finally:
            for client in clients:
                await client.disconnect(timeout=PATIENCE)
            await theirs.group_discard("interop_room", channel)
            unregister_channel_layer("interop")
