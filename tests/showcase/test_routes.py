"""Every route of the showcase, over real sockets."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest
import websockets

from sandbox.apps.room_chat.consumer import room_group
from sandbox.tasks import JOBS

pytestmark = pytest.mark.usefixtures("calm")

TEXT_ROUTES = ["system", "room/lobby", "chat", "reliable", "analytics"]
JSON_ROUTES = ["notifications", "backgroundjob"]


def test_page_and_its_files_are_served_with_a_strict_policy(showcase):
    """The page may load only its own files."""
    client = "/static/fast-channels/fast-channels.js"
    for path in ("/", client, "/static/js/main.js", "/static/css/style.css", "/static/icon.svg"):
        with urllib.request.urlopen(showcase.url + path) as response:
            assert response.status == 200
            assert "default-src 'none'" in response.headers["content-security-policy"]


def test_health_of_every_layer_is_told(showcase):
    """The server and its layers are up."""
    with urllib.request.urlopen(f"{showcase.url}/healthz") as response:
        layers = json.load(response)["layers"]
    assert {"memory", "chat", "queue", "notifications", "analytics"} <= layers.keys()
    assert set(layers.values()) == {"ready"}


def test_page_learns_which_sockets_there_are(showcase):
    """The page shows the panels of these."""
    with urllib.request.urlopen(f"{showcase.url}/sockets") as response:
        sockets = json.load(response)
    # In the order of the tutorial.
    assert sockets == [
        "/system",
        "/room/{room_name:path}",
        "/backgroundjob",
        "/chat",
        "/reliable",
        "/notifications",
        "/analytics",
    ]


async def test_system_socket_answers_its_own_client_only(showcase):
    """No other client gets the echo, because it uses no layer."""
    async with showcase.socket("system") as one, showcase.socket("system") as other:
        assert (await one.next()).startswith("welcome")
        assert (await other.next()).startswith("welcome")
        await one.send("first")
        await other.send("second")
        assert await one.next() == "echo: first"
        assert await other.next() == "echo: second"


async def test_room_announces_who_comes_and_goes(showcase):
    """Both members see typed lines, and the remaining one sees the other leave."""
    async with showcase.socket("room/tea.room-1") as one:
        await one.until("joined tea.room-1")
        async with showcase.socket("room/tea.room-1") as other:
            guest = (await one.until("joined")).split()[0]
            await other.send("hello")
            assert await one.next() == f"{guest}: hello"
            assert f"{guest}: hello" == await other.until("hello")
        assert await one.next() == f"{guest} left"


async def test_rooms_are_apart(showcase):
    """A message stays in its room."""
    async with showcase.socket("room/north") as north, showcase.socket("room/south") as south:
        await north.until("joined")
        await south.until("joined")
        await north.send("only north")
        await north.until("only north")
        await south.send("only south")
        assert "only south" in await south.next()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("two%20words", "two words"),
        ("%E2%98%95", "☕"),
        ("half!", "half!"),
        ("north%2Fsouth", "north/south"),
        ("north/south", "north/south"),
        ("%C3%A9t%C3%A9.2024", "été.2024"),
    ],
)
async def test_room_may_have_any_name(showcase, path, name):
    """Spaces, slashes, periods and letters of any language are fine; the room is told its name."""
    async with showcase.socket(f"room/{path}?name=ada") as client:
        assert await client.next() == f"ada joined {name}"


@pytest.mark.parametrize("name", ["a" * 95, "%F0%9F%98%80" * 60])
async def test_room_name_that_is_too_long_is_refused_with_a_reason(showcase, name):
    """The close frame gives the limit."""
    async with showcase.socket(f"room/{name}") as client:
        code, reason = await client.closed()
        assert code == 4400
        assert reason.startswith("room name '")
        limit = "94 letters or digits fit, fewer of other characters"
        assert reason.endswith(f"is too long: {limit}")


def test_no_two_rooms_share_a_group():
    """The escape is unambiguous, because it also escapes its own period."""
    names = ["a b", "a.20.b", "a%20b", "a.b", "ab", "a/b", "A B", "a\u00a0b", "a_b", "a-b"]
    assert len({room_group(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("query", "author"),
    [
        ("name=ada", "ada"),
        ("name=J%C3%BCrgen-42", "Jürgen-42"),
        ("", "guest-"),
        ("name=", "guest-"),
        ("name=two%20words", "guest-"),
        ("name=" + "x" * 25, "guest-"),
        ("name=root%3A", "guest-"),
    ],
)
async def test_author_is_the_name_in_the_address_or_a_guest(showcase, query, author):
    """A name that would make lines ambiguous is not used."""
    async with showcase.socket(f"chat?{query}") as chat:
        await chat.send("hello")
        line = await chat.next()
    assert line == f"{author}: hello" or (
        author == "guest-" and re.fullmatch(r"guest-\S+: hello", line)
    )


async def test_longest_room_name_works(showcase):
    """A name of 94 characters makes a room."""
    async with showcase.socket(f"room/{'a' * 94}") as client:
        await client.until("joined")


async def test_chat_reaches_everybody_and_keeps_its_order(showcase):
    """Every message of one connection arrives, in the order of sending."""
    lines = [f"line {number}" for number in range(20)]
    said = [f"ada: {line}" for line in lines]
    async with showcase.socket("chat?name=ada") as one, showcase.socket("chat") as other:
        for line in lines:
            await one.send(line)
        assert [await one.next() for _ in lines] == said
        assert [await other.next() for _ in lines] == said


async def test_reliable_chat_reaches_everybody_and_keeps_its_order(showcase):
    """Clients without the resume protocol get the lines, too."""
    lines = [f"line {number}" for number in range(20)]
    said = [f"ada: {line}" for line in lines]
    async with showcase.socket("reliable?name=ada") as one, showcase.socket("reliable") as other:
        for line in lines:
            await one.send(line)
        assert [await one.next() for _ in lines] == said
        assert [await other.next() for _ in lines] == said


async def test_chat_layers_are_apart(showcase):
    """A line on one layer is not seen on the other."""
    async with (
        showcase.socket("chat?name=ada") as chat,
        showcase.socket("reliable?name=ada") as reliable,
    ):
        await chat.send("on pub/sub")
        await chat.until("on pub/sub")
        await reliable.send("on streams")
        assert await reliable.next() == "ada: on streams"
        await chat.send("again")
        assert await chat.next() == "ada: again"


async def test_notification_reaches_everybody(showcase):
    """Title and level have defaults, and the text arrives as typed."""
    text = "<b>text</b> ☕"
    async with showcase.socket("notifications") as one, showcase.socket("notifications") as other:
        await one.send_json({"message": text})
        expected = {
            "type": "notification",
            "title": "Notification",
            "message": text,
            "level": "info",
        }
        assert await one.next_json() == expected
        assert await other.next_json() == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "a notification is an object"),
        ({}, "a notification is an object"),
        ({"message": 3}, "a notification is an object"),
        ({"message": "m", "level": "loud"}, "level is 'loud', accepted are info, warning, error"),
        ({"message": "m", "level": ["info"]}, "level is ['info']"),
        ({"message": "m", "title": None}, "title is None, accepted is a string"),
        ({"message": "  "}, "the message is empty"),
        ({"message": "x" * 2001}, "the message has 2001 characters, at most 2000 fit"),
    ],
)
async def test_unusable_notification_is_answered_with_a_sentence(showcase, content, said):
    """The sender gets the reason, and the connection continues."""
    async with showcase.socket("notifications") as client:
        await client.send_json(content)
        answer = await client.next_json()
        assert answer["type"] == "error"
        assert said in answer["message"]
        await client.send_json({"message": "fine"})
        assert (await client.next_json())["message"] == "fine"


async def test_analytics_announces_a_connection_and_passes_events_on(showcase):
    """All watching clients see new watchers and every event, as the clients typed it."""
    async with showcase.socket("analytics") as one:
        assert await one.next() == "📊 Analytics tracking started!"
        async with showcase.socket("analytics") as other:
            for client in (one, other):
                assert await client.until("started") == "📊 Analytics tracking started!"
            for event in ("page_view /pricing", "Page-View ☕", '{"type": "page_view"}'):
                await other.send(event)
                assert await one.until("📊") == f"📊 Analytics: {event}"


async def test_worker_counts_each_event_besides(showcase):
    """Every watching client learns of it."""
    async with showcase.socket("analytics") as one, showcase.socket("analytics") as other:
        # Events of an earlier test may be counted meanwhile.
        await other.send("page_view /once")
        for client in (one, other):
            await client.until("counted: page_view /once")


async def test_burst_of_events_arrives_whole(showcase):
    """The analytics layer holds a thousand events at once."""
    expected = sorted(f"burst {number}" for number in range(1000))
    async with showcase.socket("analytics") as sender, showcase.socket("analytics") as watcher:
        for number in range(1000):
            await sender.send(f"burst {number}")
        for client in (watcher, sender):
            announced, counted = [], []
            while len(announced) + len(counted) < 2000:
                _, event = (text := await client.until("burst")).split(": ", 1)
                (counted if text.startswith("counted") else announced).append(event)
            # The worker counts several events at a time.
            assert sorted(counted) == sorted(announced) == expected


async def test_killed_analytics_worker_loses_no_event(showcase, analytics_worker):
    """Another worker counts its events, and the page is told of each event once."""
    async with showcase.socket("analytics") as client:
        await client.until("started")
        for number in range(200):
            await client.send(f"kept {number}")
            if number == 100:
                await client.until("counted: kept")
                analytics_worker.kill()
                analytics_worker.start()
        counted = [entry for entry in client.received if entry.startswith("counted: kept")]
        while len(counted) < 200:
            counted.append(await client.until("counted: kept"))
        assert sorted(counted) == sorted(f"counted: kept {number}" for number in range(200))


@pytest.mark.parametrize("route", TEXT_ROUTES)
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("   ", "not sent: the message is empty"),
        ("x" * 2001, "not sent: the message has 2001 characters, at most 2000 fit"),
    ],
)
async def test_line_that_does_not_fit_is_answered_with_a_sentence(showcase, route, line, said):
    """The connection stays open, and takes the next line."""
    async with showcase.socket(route) as client:
        await client.send(line)
        assert await client.until("not sent") == said
        await client.send("page_view fine")
        await client.until("page_view fine")


@pytest.mark.parametrize("route", [*TEXT_ROUTES, *JSON_ROUTES])
async def test_binary_frame_closes_that_connection_with_1003(showcase, route):
    """No other connection is closed."""
    async with showcase.socket(route) as neighbour, showcase.socket(route) as client:
        await client.send(b"\x00\x01")
        assert (await client.closed())[0] == 1003
        await neighbour.connection.ping()


@pytest.mark.parametrize("route", [*TEXT_ROUTES, *JSON_ROUTES])
async def test_frame_of_two_mebibytes_closes_that_connection_with_1009(showcase, route):
    """No other connection is closed."""
    async with showcase.socket(route) as neighbour, showcase.socket(route) as client:
        await client.send("x" * (2 * 1024 * 1024))
        assert (await client.closed())[0] == 1009
        await neighbour.connection.ping()


@pytest.mark.parametrize("route", JSON_ROUTES)
@pytest.mark.parametrize("text", ["{", "not json", "[" * 100_000])
async def test_invalid_json_closes_that_connection_with_1007(showcase, route, text):
    """No other connection is closed."""
    async with showcase.socket(route) as neighbour, showcase.socket(route) as client:
        await client.send(text)
        assert (await client.closed())[0] == 1007
        await neighbour.connection.ping()


async def test_unknown_route_is_refused(showcase):
    """No socket exists at this route."""
    with pytest.raises(websockets.InvalidStatus):
        async with showcase.socket("nowhere"):
            pass


async def test_client_that_drops_the_line_is_announced_as_gone(showcase):
    """A connection that breaks without a close frame leaves its room like any other."""
    async with showcase.socket("room/cut") as one:
        await one.until("joined")
        async with showcase.socket("room/cut") as other:
            await one.until("joined")
            other.connection.transport.abort()
            await one.until(" left")


def test_page_offers_the_jobs_that_there_are(showcase):
    """The page has exactly the existing jobs."""
    with urllib.request.urlopen(showcase.url) as response:
        offered = re.findall('<option value="(.+?)"', response.read().decode())
    assert sorted(offered) == sorted(JOBS)
