"""docs/recipes/server-sent-events.md. The page of the recipe is in test_browser.py."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.recipes.support import PATIENCE


class Events:
    """`async with Events(server)` parses the response like a browser's EventSource."""

    def __init__(self, server, last=None, path="/events"):
        self.client = httpx.AsyncClient(base_url=server.url, timeout=PATIENCE)
        headers = {"last-event-id": last} if last else {}
        self.streaming = self.client.stream("GET", path, headers=headers)

    async def __aenter__(self):
        self.response = await self.streaming.__aenter__()
        self.lines = self.response.aiter_lines()
        assert (await self.next()).keys() == {"retry"}
        return self

    async def __aexit__(self, *exc_info):
        await self.streaming.__aexit__(*exc_info)
        await self.client.aclose()

    async def next(self):
        """Return the fields of the next event, or a comment."""
        fields = {}
        async for line in self.lines:
            if not line:
                return fields
            name, _, value = line.partition(": ")
            fields[name] = value
        return None

    async def texts(self, number):
        return [json.loads((await self.next())["data"])["text"] for _ in range(number)]


@pytest.fixture
async def server(serve):
    return await serve("server-sent-events")


async def publish(server, *texts):
    for text in texts:
        await server.request("POST", "/news", params={"text": text})


async def test_news_are_events_with_positions_as_ids(server):
    """Events come in order, and response headers keep proxies from buffering them."""
    async with Events(server) as events:
        assert events.response.headers["content-type"] == "text/event-stream"
        assert events.response.headers["x-accel-buffering"] == "no"
        sent = await server.module.channel_layers["news"].group_send(
            "news", {"type": "news.item", "text": "line\nbreak"}
        )
        event = await events.next()
        assert (event["event"], event["id"]) == ("news", str(sent))
        assert json.loads(event["data"])["text"] == "line\nbreak"
        await publish(server, "one", "two")
        assert await events.texts(2) == ["one", "two"]


@pytest.mark.parametrize("presented", ["header", "query"])
async def test_who_comes_back_gets_what_it_missed_and_then_what_is_live(server, presented):
    """The id of the client's last event decides; events come once and in order."""
    async with Events(server) as events:
        await publish(server, "one")
        last = (await events.next())["id"]
    await publish(server, "two", "three")
    again = (
        Events(server, last)
        if presented == "header"
        else Events(server, path=f"/events?since={last}")
    )
    async with again as events:
        await publish(server, "four")
        assert await events.texts(3) == ["two", "three", "four"]


async def test_what_the_history_no_longer_has_is_told(server):
    """The client gets one event `reset`, with the client's present position as its id."""
    async with Events(server) as events:
        await publish(server, "one")
        last = (await events.next())["id"]
    layer = server.module.channel_layers["news"]
    await layer.group_send_many("news", [{"type": "news.item", "text": "x"}] * 1001)
    async with Events(server, last) as events:
        reset = await events.next()
        assert reset["event"] == "reset"
        await publish(server, "after")
        assert await events.texts(1) == ["after"]
    async with Events(server, reset["id"]) as events:
        assert await events.texts(1) == ["after"]


async def test_id_that_is_none_begins_anew(server):
    """A client may send anything as the id."""
    async with Events(server, "nonsense") as events:
        await publish(server, "one")
        assert await events.texts(1) == ["one"]


async def test_silent_stream_shows_signs_of_life(server, monkeypatch):
    """The response has comments, which EventSource ignores."""
    monkeypatch.setattr(server.module, "HEARTBEAT_SECONDS", 0.01)
    async with Events(server) as events:
        assert [await events.next(), await events.next()] == [{"": "here"}] * 2


async def test_client_that_is_too_slow_is_closed_and_loses_nothing(server, monkeypatch):
    """
    The response breaks off; messages beyond the mailbox come after the client has reconnected.
    """
    layer, room = server.module.channel_layers["news"], asyncio.Event()
    consumer = server.module.NewsEvents
    send_event = consumer.send_event

    async def slow(self, *event):
        await room.wait()
        await send_event(self, *event)

    monkeypatch.setattr(consumer, "send_event", slow)
    texts = [str(n) for n in range(200)]
    first = await layer.group_send("news", {"type": "news.item", "text": "first"})
    async with Events(server) as events:
        await layer.group_send_many("news", [{"type": "news.item", "text": text} for text in texts])
        room.set()
        with pytest.raises(httpx.RemoteProtocolError):
            await events.texts(200)
    async with Events(server, str(first)) as events:
        assert await events.texts(200) == texts


async def test_loss_that_cannot_be_made_up_for_ends_the_response(server):
    """The client reconnects and is told; a gap without losses ends nothing."""
    consumer = server.module.NewsEvents
    gap = {"type": "layer.gap", "groups": ["news"], "since": 0.0, "until": 1.0}
    found = []

    class Telling(consumer):
        async def handle(self, body):
            await self.layer_gap({**gap, "recovered": True})
            found.append("goes on")
            await self.layer_gap({**gap, "recovered": False})

    with pytest.raises(server.module.StopConsumer):
        await Telling().handle(b"")
    assert found == ["goes on"]


async def test_leaving_ends_the_signs_of_life(server, monkeypatch):
    """A client that has left keeps no task running."""
    tasks = asyncio.all_tasks()

    def left():
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks() - tasks]
        return [name for name in names if name.startswith("NewsEvents")]

    async with Events(server) as events:
        await publish(server, "one")
        await events.next()
    async with asyncio.timeout(PATIENCE):
        while server.module.channel_layers["news"].statistics().channels or left():
            await asyncio.sleep(0.01)
