"""The reliable chat: who was away is sent what was said meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.client import connect
from fast_channels.layers import RedisStreamsChannelLayer
from sandbox.apps.showcase.consumer import RELIABLE_GROUP, SNAPSHOT_SIZE
from sandbox.layers import LAYERS
from tests.showcase.support import PATIENCE

pytestmark = pytest.mark.usefixtures("calm")


@pytest.fixture
def reliable(showcase):
    """Connects to the reliable chat as somebody who resumes."""

    def enter(**options):
        return connect(showcase.address("reliable"), json=True, **options)

    return enter


@pytest.fixture
async def queue(showcase):
    """The layer of the reliable chat, of another process."""
    async with LAYERS["queue"](showcase.redis_url) as layer:
        assert isinstance(layer, RedisStreamsChannelLayer)
        yield layer


def message(text):
    return {"type": "reliable.message", "text": text}


def line(text):
    return {"type": "line", "text": text}


async def following(socket):
    """Return the next message of a socket."""
    async with asyncio.timeout(PATIENCE):
        return await anext(socket)


async def places_of_somebody_who_was_there(reliable):
    async with reliable() as socket:
        await socket.send({"text": "before"})
        assert (await following(socket)).data == line("before")
        return socket.places


async def test_what_was_said_while_somebody_was_away_is_sent_before_anything_newer(reliable, queue):
    """In order, each once, and marked as replayed."""
    places = await places_of_somebody_who_was_there(reliable)
    missed = [f"missed {number}" for number in range(5)]
    for text in missed:
        await queue.group_send(RELIABLE_GROUP, message(text))
    async with reliable(places=places) as socket:
        await socket.send({"text": "after"})
        arrived = [await following(socket) for _ in [*missed, "after"]]
    assert [m.data for m in arrived] == [line(text) for text in [*missed, "after"]]
    assert [m.replayed for m in arrived] == [True] * len(missed) + [False]


async def test_who_comes_for_the_first_time_is_sent_nothing_old(reliable, queue):
    """The past is for those who were there."""
    await queue.group_send(RELIABLE_GROUP, message("old"))
    async with reliable() as socket:
        await socket.send({"text": "new"})
        first = await following(socket)
    assert (first.data, first.replayed) == (line("new"), False)


async def test_who_was_away_for_too_long_is_sent_the_last_messages(reliable, queue):
    """In one frame that says what it is, with the position of each; after it the chat goes on."""
    places = await places_of_somebody_who_was_there(reliable)
    # More than the layer keeps.
    sent = [f"line {number}" for number in range(250)]
    await queue.group_send_many(RELIABLE_GROUP, map(message, sent))
    kept = (await queue.history(RELIABLE_GROUP, limit=SNAPSHOT_SIZE)).messages
    resumed = []
    async with reliable(places=places, on_resumed=resumed.append) as socket:
        snapshot = (await following(socket)).data
        await socket.send({"text": "after"})
        after = await following(socket)
    assert [(each.recovered, each.missed) for each in resumed] == [(False, 0)]
    assert [each["text"] for each in snapshot["lines"]] == sent[-SNAPSHOT_SIZE:]
    assert [each["position"] for each in snapshot["lines"]] == [str(k.position) for k in kept]
    assert snapshot["type"] == "snapshot"
    assert (after.data, after.replayed) == (line("after"), False)


async def test_places_of_a_chat_that_was_forgotten_lead_to_a_snapshot_without_lines(
    reliable, queue
):
    """There is nothing left that could be in it."""
    places = await places_of_somebody_who_was_there(reliable)
    await queue.flush()
    async with reliable(places=places) as socket:
        assert (await following(socket)).data == {"type": "snapshot", "lines": []}
