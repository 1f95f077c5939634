"""Subscriptions ask the broker at the right time, and report its answers to all waiting calls."""

from __future__ import annotations

import asyncio
import random

import pytest

from fast_channels.exceptions import LayerClosed, LayerUnavailable
from fast_channels.layers.membership import Subscriptions
from tests.layers.support import RecordingBroker, turns


@pytest.fixture
def broker():
    return RecordingBroker()


@pytest.fixture
def wanted():
    """Topics with members; the tests join and leave by changing this set."""
    return set()


@pytest.fixture
async def subscriptions(wanted, broker):
    subscriptions = Subscriptions(wanted, broker)
    yield subscriptions
    await subscriptions.stop()
    assert not subscriptions._tasks


async def test_settling_asks_the_broker_once(subscriptions, wanted, broker):
    """The answer is remembered."""
    wanted.add("room")
    await subscriptions.settle(["room"])
    await subscriptions.settle(["room"])
    assert broker.calls == [("subscribe", "room")]
    assert len(subscriptions) == 1


async def test_concurrent_first_joins_are_one_question(subscriptions, wanted, broker):
    """All calls wait for one answer."""
    answer = broker.hold("room")
    wanted.add("room")
    joining = [asyncio.create_task(subscriptions.settle(["room"])) for _ in range(20)]
    await turns()
    assert not any(task.done() for task in joining)
    answer.set()
    await asyncio.gather(*joining)
    assert broker.calls == [("subscribe", "room")]


async def test_last_leave_ends_the_subscription(subscriptions, wanted, broker):
    """Settling an unwanted topic asks nothing."""
    wanted.add("room")
    await subscriptions.settle(["room"])
    wanted.discard("room")
    await subscriptions.settle(["room"])
    await subscriptions.settle(["room", "unknown"])
    assert broker.calls == [("subscribe", "room"), ("unsubscribe", "room")]
    assert len(subscriptions) == 0


async def test_join_while_the_last_member_leaves_ends_subscribed(subscriptions, wanted, broker):
    """The joining call waits until the broker was asked again."""
    wanted.add("room")
    await subscriptions.settle(["room"])
    answer = broker.hold("room")
    wanted.discard("room")
    leaving = asyncio.create_task(subscriptions.settle(["room"]))
    await turns()
    assert broker.calls[-1] == ("unsubscribe", "room")
    wanted.add("room")
    joining = asyncio.create_task(subscriptions.settle(["room"]))
    await turns()
    assert not joining.done()
    answer.set()
    await asyncio.gather(leaving, joining)
    assert broker.calls[-1] == ("subscribe", "room")
    assert len(subscriptions) == 1


async def test_leave_while_joining_ends_unsubscribed(subscriptions, wanted, broker):
    """The broker gets both requests, in this order."""
    answer = broker.hold("room")
    wanted.add("room")
    joining = asyncio.create_task(subscriptions.settle(["room"]))
    await turns()
    wanted.discard("room")
    leaving = asyncio.create_task(subscriptions.settle(["room"]))
    answer.set()
    await asyncio.gather(joining, leaving)
    assert broker.calls == [("subscribe", "room"), ("unsubscribe", "room")]
    assert len(subscriptions) == 0


async def test_join_and_leave_between_two_steps_ask_nothing(subscriptions, wanted, broker):
    """Only the last state counts."""
    answer = broker.hold("room")
    wanted.add("room")
    joining = asyncio.create_task(subscriptions.settle(["room"]))
    await turns()
    for _ in range(5):
        wanted.discard("room")
        subscriptions.settle_later("room")
        wanted.add("room")
        subscriptions.settle_later("room")
    answer.set()
    await joining
    assert broker.calls == [("subscribe", "room")]


async def test_slow_answer_delays_no_other_topic(subscriptions, wanted, broker):
    """Each topic has its own task."""
    answer = broker.hold("slow")
    wanted.update(["slow", "quick"])
    slow = asyncio.create_task(subscriptions.settle(["slow"]))
    await turns()
    async with asyncio.timeout(5):
        await subscriptions.settle(["quick"])
    assert not slow.done()
    answer.set()
    await slow
    assert len(subscriptions) == 2


async def test_settling_several_topics_waits_for_all(subscriptions, wanted, broker):
    """The broker gets all requests at once."""
    answers = [broker.hold(topic) for topic in "abc"]
    wanted.update("abc")
    settling = asyncio.create_task(subscriptions.settle("abc"))
    await turns()
    assert len(broker.calls) == 3
    for answer in answers:
        assert not settling.done()
        answer.set()
        await turns()
    await settling


async def test_everybody_who_waits_gets_the_brokers_error(subscriptions, wanted, broker):
    """The next join asks again."""
    answer = broker.hold("room")
    broker.refuse("room")
    wanted.add("room")
    joining = [asyncio.create_task(subscriptions.settle(["room"])) for _ in range(3)]
    await turns()
    answer.set()
    results = await asyncio.gather(*joining, return_exceptions=True)
    assert results == [broker.refused["room"]] * 3
    assert len(subscriptions) == 0
    broker.refused.clear()
    await subscriptions.settle(["room"])
    assert broker.count("subscribe", "room") == 2
    assert len(subscriptions) == 1


async def test_error_of_one_topic_leaves_the_others_alone(subscriptions, wanted, broker):
    """The other topics are subscribed, although the call for all of them fails."""
    broker.refuse("bad")
    wanted.update(["bad", "good"])
    with pytest.raises(LayerUnavailable):
        await subscriptions.settle(["bad", "good"])
    await subscriptions.settle(["good"])
    assert broker.count("subscribe", "good") == 1


async def test_failed_unsubscribe_is_asked_again_by_the_next_member(subscriptions, wanted, broker):
    """The broker's state is unknown then, so its old answer is not trusted."""
    wanted.add("room")
    await subscriptions.settle(["room"])
    broker.refuse("room")
    wanted.discard("room")
    with pytest.raises(LayerUnavailable):
        await subscriptions.settle(["room"])
    assert len(subscriptions) == 0
    broker.refused.clear()
    wanted.add("room")
    await subscriptions.settle(["room"])
    assert broker.count("subscribe", "room") == 2


async def test_failed_unsubscribe_does_not_reach_who_has_joined_meanwhile(
    subscriptions, wanted, broker
):
    """The joining call gets the answer to its own request only."""
    wanted.add("room")
    await subscriptions.settle(["room"])
    broker.hold("room")
    broker.refuse("room")
    wanted.discard("room")
    leaving = asyncio.create_task(subscriptions.settle(["room"]))
    await turns()
    wanted.add("room")
    joining = asyncio.create_task(subscriptions.settle(["room"]))
    await turns()
    unsubscribe, subscribe = broker.held.pop("room"), broker.hold("room")
    unsubscribe.set()
    await turns()
    assert broker.calls[-1] == ("subscribe", "room")
    broker.refused.clear()
    subscribe.set()
    await asyncio.gather(leaving, joining)
    assert len(subscriptions) == 1


async def test_error_that_nobody_waits_for_is_no_warning(subscriptions, wanted, broker, caplog):
    """No caller waits for the result of settle_later."""
    broker.refuse("room")
    wanted.add("room")
    subscriptions.settle_later("room")
    await turns()
    assert broker.calls == [("subscribe", "room")]
    assert caplog.records == []


async def test_cancelling_one_who_waits_does_not_end_it_for_others(subscriptions, wanted, broker):
    """The task goes on for the other calls."""
    answer = broker.hold("room")
    wanted.add("room")
    first, second = (asyncio.create_task(subscriptions.settle(["room"])) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    assert first.cancelled()
    answer.set()
    await second
    assert broker.calls == [("subscribe", "room")]


async def test_cancelling_everybody_still_ends_in_the_wanted_state(subscriptions, wanted, broker):
    """A subscription that is not wanted any more is ended."""
    answer = broker.hold("room")
    wanted.add("room")
    joining = asyncio.create_task(subscriptions.settle(["room"]))
    await turns()
    wanted.discard("room")
    joining.cancel()
    await turns()
    answer.set()
    await turns()
    assert broker.calls == [("subscribe", "room"), ("unsubscribe", "room")]
    assert len(subscriptions) == 0


async def test_topic_may_be_joined_again_in_the_turn_after_its_answer(
    subscriptions, wanted, broker
):
    """A task that has just ended does not count as running."""
    for _ in range(50):
        wanted.add("room")
        await subscriptions.settle(["room"])
        assert len(subscriptions) == 1
        wanted.discard("room")
        await subscriptions.settle(["room"])
        assert len(subscriptions) == 0
    assert len(broker.calls) == 100


async def test_stopping_tells_those_who_wait(subscriptions, wanted, broker):
    """Every waiting call raises."""
    broker.hold("room")
    wanted.add("room")
    joining = asyncio.create_task(subscriptions.settle(["room"]))
    await turns()
    await subscriptions.stop()
    with pytest.raises(LayerClosed):
        await joining
    assert len(subscriptions) == 0


async def test_stopping_twice_or_unused_is_fine(subscriptions):
    """Stopping has nothing to do then."""
    await subscriptions.stop()
    await subscriptions.stop()


async def test_random_joins_and_leaves_end_in_agreement(subscriptions, wanted, broker):
    """Finally the broker has exactly the wanted topics, and was asked one thing at a time."""
    chance = random.Random(4)
    topics = [f"t{n}" for n in range(8)]
    pending = set()

    async def join_or_leave(topic):
        (wanted.discard if topic in wanted else wanted.add)(topic)
        await subscriptions.settle([topic])

    for _ in range(2000):
        task = asyncio.create_task(join_or_leave(chance.choice(topics)))
        pending.add(task)
        task.add_done_callback(pending.discard)
        if chance.random() < 0.3:
            task.cancel()
        await turns(chance.randrange(4))
    await asyncio.gather(*pending, return_exceptions=True)
    await turns()
    for topic in topics:
        asked = [call for call, *about in broker.calls if about == [topic]]
        assert asked[::2] == ["subscribe"] * len(asked[::2])
        assert asked[1::2] == ["unsubscribe"] * len(asked[1::2])
        assert bool(len(asked) % 2) == (topic in wanted)
