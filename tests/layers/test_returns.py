"""What comes back from a receiver who had given up is the next one's, or the broker's again."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers import returns
from fast_channels.layers.returns import Returns
from tests.layers.support import becomes, turns


class RecordingQueue:
    """Records what is pushed; refuses while `away`."""

    def __init__(self) -> None:
        self.pushed = []
        self.attempts = 0
        self.away = False

    async def push(self, name, payload, capacity):
        self.attempts += 1
        if self.away:
            raise LayerUnavailable(self, "refused by the test")
        self.pushed.append((name, msgspec.json.decode(payload)))
        return True


@pytest.fixture
def queue():
    return RecordingQueue()


@pytest.fixture
async def returned(queue):
    returned = Returns(queue, msgspec.json.encode)
    yield returned
    await returned.stop()
    assert len(returned) == 0
    assert not returned._tasks


async def test_message_that_came_back_is_the_next_ones(returned, queue):
    """And no one else's."""
    returned.put("jobs", {"n": 1})
    assert returned.take("others") is None
    assert returned.take("jobs") == {"n": 1}
    assert returned.take("jobs") is None
    await returned.stop()
    assert queue.pushed == []


async def test_messages_that_came_back_keep_their_order(returned):
    """The one that was taken last comes back first."""
    returned.put("jobs", {"n": 2})
    returned.put("jobs", {"n": 1})
    assert len(returned) == 2
    assert [returned.take("jobs"), returned.take("jobs")] == [{"n": 1}, {"n": 2}]


async def test_message_that_nobody_takes_goes_to_the_broker(returned, queue, monkeypatch):
    """Where receivers in other processes find it."""
    monkeypatch.setattr(returns, "GRACE", 0.01)
    returned.put("jobs", {"n": 1})
    await becomes(lambda: queue.pushed == [("jobs", {"n": 1})])
    assert len(returned) == 0


async def test_message_goes_to_the_broker_at_once_if_somebody_waits_there(returned, queue):
    """A receiver who waits there would not look here."""
    with returned.receiver("jobs"), returned.receiver("jobs"):
        returned.put("jobs", {"n": 1})
        returned.put("others", {"n": 2})
        await becomes(lambda: queue.pushed == [("jobs", {"n": 1})])
    assert not returned._receivers
    assert returned.take("others") == {"n": 2}


async def test_message_is_kept_while_the_broker_is_away(returned, queue, monkeypatch):
    """It is pushed when that is back."""
    monkeypatch.setattr(returns, "GRACE", 0.01)
    queue.away = True
    returned.put("jobs", {"n": 1})
    await becomes(lambda: queue.attempts > 2)
    queue.away = False
    await becomes(lambda: queue.pushed == [("jobs", {"n": 1})])


async def test_stopping_hands_everything_on_at_once(returned, queue):
    """Nobody here will receive any more."""
    returned.put("jobs", {"n": 2})
    returned.put("jobs", {"n": 1})
    await turns()
    async with asyncio.timeout(returns.GRACE / 2):
        await returned.stop()
    assert queue.pushed == [("jobs", {"n": 1}), ("jobs", {"n": 2})]


async def test_message_that_cannot_be_handed_on_is_an_error_in_the_log(returned, queue, caplog):
    """Nothing is lost in silence."""
    queue.away = True
    returned.put("jobs", {"n": 1})
    await returned.stop()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "lost a message of 'jobs'" in record.getMessage()


async def test_broker_that_is_away_is_not_asked_all_the_time(returned, queue, monkeypatch):
    """Also while somebody waits there, who would have the message at once."""
    pauses = []
    wait = Returns._wait

    async def recording(self, grace, channel):
        pauses.append(grace)
        await wait(self, 0, channel)

    monkeypatch.setattr(Returns, "_wait", recording)
    queue.away = True
    with returned.receiver("jobs"):
        returned.put("jobs", {"n": 1})
        await becomes(lambda: queue.attempts >= 2)
        queue.away = False
        await becomes(lambda: queue.pushed)
    assert pauses[:2] == [0, returns.GRACE]
