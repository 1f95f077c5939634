"""The public layer object: options, checks, and the state after a failure."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from fast_channels.exceptions import (
    ForeignChannel,
    InvalidMessage,
    LayerClosed,
    LayerUnavailable,
    MessageTooLarge,
    MissingCapability,
)
from fast_channels.layers import BaseChannelLayer, InMemoryChannelLayer, RedisChannelLayer
from fast_channels.layers.addressing import InboxAddressing
from fast_channels.layers.broker import Outage
from fast_channels.layers.mailbox import Mailbox
from fast_channels.testing import inspect
from tests.layers.support import RecordingLayer, arrives, becomes, received, turns


@pytest.mark.parametrize("overflow", ["drop", None, "", "DROP_OLDEST", 5])
def test_unknown_overflow_policy_is_refused(overflow):
    """The error comes when the layer is made, with the known policies."""
    with pytest.raises(ValueError, match="drop_oldest, drop_newest or close"):
        InMemoryChannelLayer(overflow=overflow)


async def test_base_class_alone_says_that_it_has_no_broker():
    """The error names a class with a broker."""
    layer = BaseChannelLayer()
    with pytest.raises(MissingCapability, match="InMemoryChannelLayer"):
        await layer.open()


def test_options_can_be_read():
    """The attributes have the names of the parameters."""
    layer = BaseChannelLayer(expiry=30, capacity=5, channel_capacity={"a*": 1})
    assert (layer.expiry, layer.capacity, layer.get_capacity("abc")) == (30, 5, 1)


async def test_layer_is_its_context_manager(recording):
    """`async with` gives the layer itself."""
    layer = RecordingLayer()
    async with layer as entered:
        assert entered is layer


async def test_mailbox_has_the_policy_of_the_layer_or_its_own():
    """The capacity depends on the channel's name."""
    async with InMemoryChannelLayer(
        capacity=5, overflow="close", channel_capacity={"few.*": 2}
    ) as layer:
        inbox, other = await layer.open_channel(), await layer.open_channel(overflow="drop_newest")
        few = await layer.open_channel("few")
        assert [m.overflow for m in (inbox, other, few)] == ["close", "drop_newest", "close"]
        assert [m.capacity for m in (inbox, other, few)] == [5, 5, 2]


async def test_mailbox_on_the_home_loop_is_a_plain_one(recording):
    """Mailboxes on other loops are made for threads."""
    assert type(await recording.open_channel()) is Mailbox


async def test_wrong_prefix_of_a_channel_is_refused(recording):
    """No channel is opened."""
    for prefix in ("two words", "", "a" * 99):
        if prefix:
            with pytest.raises(TypeError):
                await recording.open_channel(prefix)
    assert recording.statistics().channels == 0


async def test_checks_come_before_anything_is_sent(recording):
    """An invalid message does not even open a layer."""
    layer = RecordingLayer(max_message_size=50)
    for message, error in [
        ("text", InvalidMessage),
        ({5: 1}, InvalidMessage),
        ({"__asgi_channel__": "x"}, InvalidMessage),
        ({"text": "x" * 100}, MessageTooLarge),
    ]:
        with pytest.raises(error):
            await layer.group_send("room", message)
        with pytest.raises(error):
            await layer.send("specific.abc!def", message)
    assert layer.brokers == []


async def test_size_limit_is_exact():
    """A message of just this size is sent."""
    message = {"type": "x" * 100}
    size = len(inspect.encode(BaseChannelLayer(), message))
    inspect.encode(BaseChannelLayer(max_message_size=size), message)
    with pytest.raises(MessageTooLarge) as caught:
        inspect.encode(BaseChannelLayer(max_message_size=size - 1), message)
    assert (caught.value.size, caught.value.limit) == (size, size - 1)


# -- groups --------------------------------------------------------------------


async def test_join_returns_when_the_broker_has_confirmed(recording):
    """The call does not return earlier."""
    answer = recording.broker.hold("room")
    inbox = await recording.open_channel()
    joining = asyncio.create_task(recording.group_add("room", inbox.name))
    await turns()
    assert not joining.done()
    answer.set()
    await joining
    assert recording.statistics().subscriptions == 1


async def test_message_that_arrives_before_the_confirmation_is_delivered(recording):
    """The layer adds the member before it asks the broker."""
    recording.broker.hold("room")
    inbox = await recording.open_channel()
    joining = asyncio.create_task(recording.group_add("room", inbox.name))
    await becomes(lambda: recording.broker.count("subscribe", "room"))
    recording.broker.deliver("room", inspect.encode(recording, {"type": "test"}))
    assert await arrives(inbox) == {"type": "test"}
    joining.cancel()


async def test_second_member_asks_the_broker_nothing(recording):
    """A process has one subscription, not each channel."""
    for _ in range(10):
        inbox = await recording.open_channel()
        await recording.group_add("room", inbox.name)
    assert recording.broker.count("subscribe", "room") == 1
    statistics = recording.statistics()
    assert (statistics.groups, statistics.members, statistics.subscriptions) == (1, 10, 1)


async def test_last_member_ends_the_subscription(recording):
    """The member may leave or be closed."""
    first, second = await recording.open_channel(), await recording.open_channel()
    for inbox in (first, second):
        await recording.group_add("room", inbox.name)
    await recording.group_discard("room", first.name)
    assert recording.broker.count("unsubscribe", "room") == 0
    await recording.close_channel(second.name)
    assert recording.broker.count("unsubscribe", "room") == 1


async def test_refused_join_leaves_nothing(recording):
    """The caller gets the error, and may try again."""
    inbox = await recording.open_channel()
    recording.broker.refuse("room")
    with pytest.raises(LayerUnavailable):
        await recording.group_add("room", inbox.name)
    assert recording.statistics().members == 0
    recording.broker.refused.clear()
    await recording.group_add("room", inbox.name)
    assert recording.statistics().members == 1


async def test_refused_second_join_keeps_the_first(recording):
    """A channel that was a member already stays one."""
    inbox = await recording.open_channel()
    await recording.group_add("room", inbox.name)
    recording.broker.refuse("room")
    await recording.group_add("room", inbox.name)
    assert recording.statistics().members == 1


async def test_cancelled_join_is_taken_back(recording):
    """The broker is unsubscribed once it has answered."""
    answer = recording.broker.hold("room")
    inbox = await recording.open_channel()
    joining = asyncio.create_task(recording.group_add("room", inbox.name))
    await becomes(lambda: recording.broker.count("subscribe", "room"))
    joining.cancel()
    await turns()
    assert recording.statistics().members == 0
    answer.set()
    await becomes(lambda: recording.broker.count("unsubscribe", "room"))
    assert recording.statistics().subscriptions == 0


async def test_join_that_is_cancelled_by_one_goes_on_for_another(recording):
    """The subscription stays for the remaining member."""
    answer = recording.broker.hold("room")
    first, second = await recording.open_channel(), await recording.open_channel()
    joining = [
        asyncio.create_task(recording.group_add("room", inbox.name)) for inbox in (first, second)
    ]
    await becomes(lambda: recording.broker.count("subscribe", "room"))
    joining[0].cancel()
    answer.set()
    await joining[1]
    assert recording.broker.count("unsubscribe", "room") == 0
    assert list(inspect.hub(recording).members["room"]) == [second.name]


async def test_cancelled_join_leaves_a_concurrent_one_of_the_same_channel_alone(recording):
    """The membership stays as long as one call waits for it."""
    inbox = await recording.open_channel()
    answer = recording.broker.hold("room")
    joining = [asyncio.create_task(recording.group_add("room", inbox.name)) for _ in range(3)]
    await turns()
    joining[0].cancel()
    joining[2].cancel()
    await turns()
    answer.set()
    await joining[1]
    assert recording.statistics().members == 1
    assert inspect.table_sizes(recording)["unconfirmed memberships"] == 0


async def test_concurrent_joins_of_one_channel_that_are_all_cancelled_are_taken_back(recording):
    """The last cancelled call takes it back."""
    inbox = await recording.open_channel()
    answer = recording.broker.hold("room")
    joining = [asyncio.create_task(recording.group_add("room", inbox.name)) for _ in range(3)]
    await turns()
    for task in joining:
        task.cancel()
    await turns()
    answer.set()
    await becomes(lambda: recording.broker.calls[-1] == ("unsubscribe", "room"))
    assert recording.statistics().members == 0
    assert inspect.table_sizes(recording)["unconfirmed memberships"] == 0


async def test_cancelled_join_leaves_what_was_joined_after_a_discard_alone(recording):
    """The cancelled call takes back only its own membership, which has ended already."""
    inbox = await recording.open_channel()
    answer = recording.broker.hold("room")
    first = asyncio.create_task(recording.group_add("room", inbox.name))
    await turns()
    leaving = asyncio.create_task(recording.group_discard("room", inbox.name))
    await turns()
    second = asyncio.create_task(recording.group_add("room", inbox.name))
    await turns()
    first.cancel()
    await turns()
    answer.set()
    await asyncio.gather(leaving, second)
    assert recording.statistics().members == 1


@pytest.fixture
async def slow_layer():
    """A layer that opens its channels when the event `opening` is set."""
    async with RecordingLayer(addressing=InboxAddressing(inboxes_are_topics=True)) as layer:
        layer.opening = layer.broker.hold(f"test.{layer.process}!")
        yield layer


async def test_receiver_that_gives_up_does_not_close_the_channel_for_another(slow_layer):
    """The channel opens for the second receiver although the first one had begun to open it."""
    name = f"test.{slow_layer.process}!1"
    receiving = [asyncio.create_task(slow_layer.receive(name)) for _ in range(2)]
    await turns()
    receiving[0].cancel()
    await turns()
    slow_layer.opening.set()
    await becomes(lambda: not inspect.table_sizes(slow_layer)["opening channels"])
    await slow_layer.send(name, {"type": "hello"})
    assert await receiving[1] == {"type": "hello"}


async def test_layer_that_is_closed_while_a_receiver_opens_a_channel_says_so(slow_layer):
    """Every receiver that waits for the channel gets the error."""
    name = f"test.{slow_layer.process}!1"
    receiving = [asyncio.create_task(slow_layer.receive(name)) for _ in range(2)]
    await turns()
    await slow_layer.close()
    for task in receiving:
        with pytest.raises(LayerClosed):
            await task


async def test_channel_closes_although_its_broker_is_gone(recording):
    """No subscription is left at a broker that is gone."""
    inbox = await recording.open_channel()
    await recording.group_add("room", inbox.name)
    recording.broker.refuse("room")
    await recording.close_channel(inbox.name)
    assert recording.statistics().channels == 0


async def test_channel_of_another_process_cannot_join_where_nothing_is_kept(recording):
    """The error names the process that can."""
    for name in ("specific.abc!def", "plain"):
        with pytest.raises(ForeignChannel, match="another process"):
            await recording.group_add("room", name)


async def test_plain_channel_needs_a_broker_that_keeps_messages(recording):
    """The sentence names layers with such a broker."""
    with pytest.raises(MissingCapability, match="RedisChannelLayer"):
        await recording.send("plain", {"type": "test"})
    with pytest.raises(MissingCapability, match="RedisChannelLayer"):
        await recording.receive("plain")


async def test_channel_of_another_process_cannot_be_received_from(recording):
    """Only the process that made the channel can."""
    with pytest.raises(ForeignChannel):
        await recording.receive("specific.abc!def")


# -- outages -------------------------------------------------------------------


async def test_interruption_is_told_to_each_channel_once(recording):
    """The notice has the affected groups of the channel."""
    first, second, other = [await recording.open_channel() for _ in range(3)]
    for group, inbox in [("b", first), ("a", first), ("a", second), ("c", other)]:
        await recording.group_add(group, inbox.name)
    recording.broker.report_outage(Outage(1.0, 2.5, recovered=["a", "b", "unknown"]))
    gap = {"type": "layer.gap", "since": 1.0, "until": 2.5, "recovered": True}
    assert await arrives(first) == {**gap, "groups": ["a", "b"]}
    assert await arrives(second) == {**gap, "groups": ["a"]}
    assert (len(first), len(second), len(other)) == (0, 0, 0)
    statistics = recording.statistics()
    assert (statistics.gaps, statistics.reconnects) == (1, 1)


async def test_gap_is_not_seen_by_receive(memory):
    """Gaps are for consumers; receive() waits for a sent message."""
    name = await memory.new_channel()
    await memory.group_add("room", name)
    inspect.report_outage(memory, Outage(1.0, 2.0, lost=["room"]))
    await memory.send(name, {"type": "test"})
    assert await memory.receive(name) == {"type": "test"}


# -- statistics ----------------------------------------------------------------


async def test_statistics_are_frozen_and_plain_numbers(recording):
    """The result is a snapshot that can be passed on."""
    statistics = recording.statistics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.delivered = 5
    assert all(type(value) is int for value in dataclasses.asdict(statistics).values())


async def test_consumers_count_through_the_layer(recording):
    """Only consumers know these numbers."""
    recording.count_unknown_type()
    recording.count_sent_after_close()
    statistics = recording.statistics()
    assert (statistics.unknown_type, statistics.sent_after_close) == (1, 1)


async def test_losses_of_open_and_closed_channels_are_added():
    """The sum stays when the layer closes."""
    async with InMemoryChannelLayer(capacity=1) as layer:
        closed, stays = await layer.open_channel(), await layer.open_channel()
        for inbox in (closed, stays):
            await layer.group_add("room", inbox.name)
        for _ in range(3):
            await layer.group_send("room", {"type": "test"})
        assert (closed.dropped, stays.dropped) == (2, 2)
        await layer.close_channel(closed.name)
        assert layer.statistics().dropped == 4
    assert layer.statistics().dropped == 4


class TestMessageThatComesBack:
    """A receiver on another loop gave up while the message was in transit to it."""

    @pytest.fixture(params=["memory", "queue"])
    async def layer(self, request, redis_url):
        layer = (
            InMemoryChannelLayer() if request.param == "memory" else RedisChannelLayer([redis_url])
        )
        async with layer:
            yield layer

    async def test_it_goes_before_everything_that_waits(self, layer):
        """This holds at any time, and for several messages."""
        for n in range(3):
            await layer.send("jobs", {"type": "test", "n": n})
        session = inspect.session(layer)
        taken = [await session.receive("jobs") for _ in range(2)]
        for one in reversed(taken):
            session.put_back(one)
        assert [(await received(layer, "jobs"))["n"] for _ in range(3)] == [0, 1, 2]

    async def test_a_receiver_who_waits_gets_it(self, layer):
        """The receiver gets it at once."""
        await layer.send("jobs", {"type": "test"})
        session = inspect.session(layer)
        taken = await session.receive("jobs")
        receiving = asyncio.create_task(received(layer, "jobs"))
        await turns(5)
        session.put_back(taken)
        assert await receiving == {"type": "test"}


@pytest.mark.parametrize("many", [False, True], ids=["group_send", "group_send_many"])
async def test_refusals_of_concurrent_sends_are_all_counted(recording, many):
    """No call overwrites the count of another call that waits for the broker meanwhile."""
    message = {"type": "test"}
    async with recording as layer:
        layer.broker.full_receivers = 1
        answer = layer.broker.hold("room")
        if many:
            sends = [layer.group_send_many("room", [message]) for _ in range(3)]
        else:
            sends = [layer.group_send("room", message) for _ in range(3)]
        sending = asyncio.gather(*sends)
        await becomes(lambda: layer.broker.count("publish", "room") == 3)
        answer.set()
        await sending
        assert layer.statistics().refused == 3
