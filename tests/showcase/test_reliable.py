"""The reliable chat: a client that was disconnected receives the lines that it missed."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from fast_channels.client import connect
from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.layers import RedisStreamsChannelLayer
from sandbox.apps.showcase.consumer import RELIABLE_GROUP, ReliableChatConsumer, reliable_line
from sandbox.apps.showcase.history import LATEST_LINES
from sandbox.layers import layer_table
from tests.showcase.support import PATIENCE

pytestmark = pytest.mark.usefixtures("calm")


@pytest.fixture
def reliable(showcase):
    """Connect to the reliable chat as a client that resumes."""

    def enter(query="name=ada", **options):
        return connect(showcase.address(f"reliable?{query}"), **options)

    return enter


@pytest.fixture
async def queue(showcase):
    """The layer of the reliable chat, in another process than the server."""
    async with layer_table(showcase.redis_url)["queue"]["layer"] as layer:
        assert isinstance(layer, RedisStreamsChannelLayer)
        yield layer


def message(text):
    return reliable_line(f"script: {text}")


@pytest.fixture
async def lines(showcase):
    """Fetch the history as a page does."""
    async with httpx.AsyncClient(base_url=showcase.url) as http:

        async def fetch(**parameters):
            response = await http.get("/reliable/lines", params=parameters)
            assert response.status_code == 200, response.text
            return response.json()

        yield fetch


def texts(messages):
    return [m.data for m in messages]


async def following(socket):
    """Return the next message of a socket."""
    async with asyncio.timeout(PATIENCE):
        return await anext(socket)


async def places_of_an_earlier_client(reliable):
    async with reliable() as socket:
        await socket.send("before")
        assert texts([await following(socket)]) == ["ada: before"]
        return socket.places


async def test_missed_lines_are_sent_before_anything_newer(reliable, queue, lines):
    """Missed lines come in order, each once, marked as replayed; the history has their times."""
    places = await places_of_an_earlier_client(reliable)
    missed = [f"missed {number}" for number in range(5)]
    sent_at = []
    for text in missed:
        sent = message(text)
        sent_at.append(sent["sent_at"])
        await queue.group_send(RELIABLE_GROUP, sent)
    async with reliable(places=places) as socket:
        await socket.send("after")
        arrived = [await following(socket) for _ in [*missed, "after"]]
    assert texts(arrived) == [*(f"script: {text}" for text in missed), "ada: after"]
    times = {line["position"]: line["sent_at"] for line in await lines()}
    assert [times[m.position] for m in arrived[:-1]] == sent_at
    assert [m.replayed for m in arrived] == [True] * len(missed) + [False]


async def test_new_client_receives_nothing_old_unless_it_asks(reliable, queue):
    """A client without a position begins with new lines."""
    await queue.group_send(RELIABLE_GROUP, message("old"))
    async with reliable() as socket:
        await socket.send("new")
        first = await following(socket)
    assert (texts([first]), first.replayed) == (["ada: new"], False)


async def test_history_has_the_lines_with_their_authors_times_and_positions(reliable, queue, lines):
    """A line that arrives over the socket has the same position as in the history."""
    await queue.flush()
    assert await lines() == []
    sent = [message(text) for text in ("1", "2")]
    for each in sent:
        await queue.group_send(RELIABLE_GROUP, each)
    async with reliable() as socket:
        await socket.send("new")
        live = await following(socket)
    kept = await lines()
    assert [line["text"] for line in kept] == ["script: 1", "script: 2", "ada: new"]
    assert [line["sent_at"] for line in kept[:2]] == [each["sent_at"] for each in sent]
    assert kept[2]["position"] == live.position
    assert await lines(limit=1) == kept[2:]


async def test_line_of_a_script_that_sends_no_time_is_in_the_history(queue, lines):
    """The page shows such a line without the time of sending."""
    await queue.flush()
    await queue.group_send(RELIABLE_GROUP, {"type": "reliable_chat_message", "message": "old"})
    (line,) = await lines()
    assert (line["text"], line["sent_at"]) == ("old", None)


@pytest.mark.parametrize("limit", [0, 201, "many"])
async def test_history_is_limited(showcase, limit):
    """A client cannot ask for more than the layer keeps."""
    async with httpx.AsyncClient(base_url=showcase.url) as http:
        response = await http.get("/reliable/lines", params={"limit": limit})
    assert response.status_code == 422


async def test_client_that_was_away_for_too_long_finds_the_latest_lines_in_the_history(
    reliable, queue, lines
):
    """The client learns of its loss, and the chat goes on."""
    places = await places_of_an_earlier_client(reliable)
    # More lines than the layer keeps.
    sent = [f"line {number}" for number in range(250)]
    await queue.group_send_many(RELIABLE_GROUP, map(message, sent))
    resumed = []
    async with reliable(places=places, on_resumed=resumed.append) as socket:
        latest = await lines()
        await socket.send("after")
        after = await following(socket)
    assert [(each.recovered, each.missed) for each in resumed] == [(False, 0)]
    assert [each["text"] for each in latest] == [f"script: {text}" for text in sent[-LATEST_LINES:]]
    assert (texts([after]), after.replayed) == (["ada: after"], False)


async def test_places_of_a_chat_that_was_flushed_are_lost(reliable, queue):
    """The client learns of it, and the chat goes on."""
    places = await places_of_an_earlier_client(reliable)
    await queue.flush()
    resumed = []
    async with reliable(places=places, on_resumed=resumed.append) as socket:
        await socket.send("after")
        assert texts([await following(socket)]) == ["ada: after"]
    assert [(each.recovered, each.missed) for each in resumed] == [(False, 0)]


async def test_client_without_the_protocol_gets_plain_text(showcase):
    """A frame is a line, as in the plain chat; no frame comes before the first one."""
    async with showcase.socket("reliable?name=ada") as client:
        await client.send("hello")
        assert await client.next() == "ada: hello"


def test_group_is_joined_and_left_by_hand():
    """The consumer receives text and lists no groups."""
    assert issubclass(ReliableChatConsumer, AsyncWebsocketConsumer)
    assert not issubclass(ReliableChatConsumer, AsyncJsonWebsocketConsumer)
    assert list(ReliableChatConsumer.groups) == []
