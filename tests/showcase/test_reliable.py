"""The reliable chat: a client that was disconnected receives the lines that it missed."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.client import connect
from fast_channels.layers import RedisStreamsChannelLayer
from sandbox.apps.showcase.consumer import LATEST_LINES, RELIABLE_GROUP, line_message
from sandbox.layers import LAYERS
from tests.showcase.support import PATIENCE

pytestmark = pytest.mark.usefixtures("calm")


@pytest.fixture
def reliable(showcase):
    """Connect to the reliable chat as a client that resumes."""

    def enter(query="name=ada", **options):
        return connect(showcase.address(f"reliable?{query}"), json=True, **options)

    return enter


@pytest.fixture
async def queue(showcase):
    """The layer of the reliable chat, in another process than the server."""
    async with LAYERS["queue"](showcase.redis_url) as layer:
        assert isinstance(layer, RedisStreamsChannelLayer)
        yield layer


def message(text):
    return line_message("script", text)


def texts(messages):
    """Return the texts of frames that are lines."""
    assert {m.data["type"] for m in messages} <= {"line"}
    return [m.data["text"] for m in messages]


async def following(socket):
    """Return the next message of a socket."""
    async with asyncio.timeout(PATIENCE):
        return await anext(socket)


async def places_of_an_earlier_client(reliable):
    async with reliable() as socket:
        await socket.send({"text": "before"})
        assert texts([await following(socket)]) == ["ada: before"]
        return socket.places


async def test_missed_lines_are_sent_before_anything_newer(reliable, queue):
    """Missed lines come in order, each once, marked as replayed, with the time of sending."""
    places = await places_of_an_earlier_client(reliable)
    missed = [f"missed {number}" for number in range(5)]
    sent_at = []
    for text in missed:
        sent = message(text)
        sent_at.append(sent["sent_at"])
        await queue.group_send(RELIABLE_GROUP, sent)
    async with reliable(places=places) as socket:
        await socket.send({"text": "after"})
        arrived = [await following(socket) for _ in [*missed, "after"]]
    assert texts(arrived) == [*(f"script: {text}" for text in missed), "ada: after"]
    assert [m.data["sent_at"] for m in arrived[:-1]] == sent_at
    assert [m.replayed for m in arrived] == [True] * len(missed) + [False]


async def test_new_client_receives_nothing_old_unless_it_asks(reliable, queue):
    """A client without a position begins with new lines."""
    await queue.group_send(RELIABLE_GROUP, message("old"))
    async with reliable() as socket:
        await socket.send({"text": "new"})
        first = await following(socket)
    assert (texts([first]), first.replayed) == (["ada: new"], False)


async def test_new_client_that_asks_for_it_receives_the_history_first(reliable, queue):
    """Each line has its author, its time and its position; live lines come afterwards."""
    await queue.flush()
    for text in ("1", "2"):
        await queue.group_send(RELIABLE_GROUP, message(text))
    kept = (await queue.history(RELIABLE_GROUP, limit=LATEST_LINES)).messages
    async with reliable("name=ada&history=1") as socket:
        first = await following(socket)
        await socket.send({"text": "new"})
        after = await following(socket)
    assert first.data["type"] == "history"
    assert [each["text"] for each in first.data["lines"]] == ["script: 1", "script: 2"]
    assert [each["sent_at"] for each in first.data["lines"]] == [k.message["sent_at"] for k in kept]
    assert [each["position"] for each in first.data["lines"]] == [str(k.position) for k in kept]
    assert texts([after]) == ["ada: new"]


async def test_client_that_was_away_for_too_long_receives_the_latest_lines(reliable, queue):
    """A snapshot has the latest lines with their positions, and the chat goes on after it."""
    places = await places_of_an_earlier_client(reliable)
    # More lines than the layer keeps.
    sent = [f"line {number}" for number in range(250)]
    await queue.group_send_many(RELIABLE_GROUP, map(message, sent))
    kept = (await queue.history(RELIABLE_GROUP, limit=LATEST_LINES)).messages
    resumed = []
    async with reliable(places=places, on_resumed=resumed.append) as socket:
        snapshot = (await following(socket)).data
        await socket.send({"text": "after"})
        after = await following(socket)
    assert [(each.recovered, each.missed) for each in resumed] == [(False, 0)]
    expected = [f"script: {text}" for text in sent[-LATEST_LINES:]]
    assert [each["text"] for each in snapshot["lines"]] == expected
    assert [each["position"] for each in snapshot["lines"]] == [str(k.position) for k in kept]
    assert snapshot["type"] == "snapshot"
    assert (texts([after]), after.replayed) == (["ada: after"], False)


async def test_places_of_a_chat_that_was_flushed_lead_to_an_empty_snapshot(reliable, queue):
    """The snapshot is empty, because no line is left."""
    places = await places_of_an_earlier_client(reliable)
    await queue.flush()
    async with reliable(places=places) as socket:
        assert (await following(socket)).data == {"type": "snapshot", "lines": []}
