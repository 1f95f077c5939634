"""The Python client reacts as documented to every behavior of a server."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.exceptions import InvalidStatus, InvalidURI

from fast_channels import client
from fast_channels.client import SUBPROTOCOL, Message, Resumed
from fast_channels.exceptions import SocketClosed
from tests.layers.support import becomes


def connect(url, **options):
    """Connect with short pauses, so that the client reconnects at once."""
    return client.connect(url, **{"retry_base": 0.005, "retry_cap": 0.02, **options})


def joined(position, **more):
    return ["send", {"resume": {"lobby": {"position": position, "missed": 0, **more}}}]


def frame(text, offset, k=0, **more):
    return ["send", {"t": text, "p": ["lobby", f"e-{offset}", k], **more}]


def sets_when_waiting(event):
    """Return an `on_state` that sets `event` when the socket waits for its next attempt."""
    return lambda state: event.set() if state == "waiting" else None


async def take(socket, count):
    return [await anext(socket) for _ in range(count)]


async def test_message_says_where_it_stands_in_its_group(scripted):
    """A message of a group has its position; another message has none."""
    url, run = scripted.add({"steps": [joined("e-3"), frame("four", 4), ["send", {"t": "hello"}]]})
    resumed = []
    async with connect(url, on_resumed=resumed.append) as socket:
        assert await take(socket, 2) == [
            Message("four", "lobby", "e-4", replayed=False),
            Message("hello", None, None, replayed=False),
        ]
        assert socket.resumable
        assert socket.places == {"lobby": "e-4+1"}
    assert resumed == [Resumed("lobby", None, 0, "e-3")]
    assert run.visits[0].offered == [SUBPROTOCOL]


async def test_client_that_comes_back_presents_its_places(scripted):
    """
    The client continues at its position, and learns at that point whether its group recovered.
    """
    url, run = scripted.add(
        {"steps": [joined("e-3"), frame("4.0", 4), frame("4.1", 4, 1), ["cut"]]},
        {
            "steps": [
                joined("e-4+2", recovered=True, missed=1),
                frame("five", 5, replay=True),
                ["send", {"at": {"lobby": "e-6"}}],
                ["cut"],
            ]
        },
        {"steps": [joined("f-1", recovered=False), ["send", {"t": "here"}]]},
    )
    stream = []
    async with connect(url, on_resumed=stream.append) as socket:
        for _ in range(4):
            stream.append(await anext(socket))  # noqa: PERF401 - other tasks append, too
    assert stream == [
        Resumed("lobby", None, 0, "e-3"),
        Message("4.0", "lobby", "e-4", replayed=False),
        Message("4.1", "lobby", "e-4", replayed=False),
        Resumed("lobby", recovered=True, missed=1, position="e-4+2"),
        Message("five", "lobby", "e-5", replayed=True),
        Resumed("lobby", recovered=False, missed=0, position="f-1"),
        Message("here", None, None, replayed=False),
    ]
    assert [v.resume for v in run.visits] == [None, {"lobby": "e-4+2"}, {"lobby": "e-6"}]


async def test_places_count_what_the_application_took(scripted):
    """Received messages that the application has not taken are sent to the next socket."""
    url, run = scripted.add(
        {"steps": [frame("one", 1), frame("two", 2), ["cut"]]}, {"steps": [["receive", 1]]}
    )
    opened_again = asyncio.Event()
    async with connect(url) as socket:
        socket.on_state = lambda state: opened_again.set() if state == "open" else None
        assert (await anext(socket)).data == "one"
        await opened_again.wait()
        places = socket.places
    assert (places, run.visits[1].resume) == ({"lobby": "e-1+1"}, {"lobby": "e-2+1"})
    url, run = scripted.add({"steps": [["send", {"t": "here"}]]})
    async with connect(url, places=places) as socket:
        await anext(socket)
    assert run.visits[0].resume == places


async def test_text_json_and_bytes_arrive_as_what_they_were(scripted):
    """This holds with and without `json`."""
    steps = [["send", {"j": {"a": [1]}}], ["send", {"t": '"text"'}], ["send", {"b": "AP+A"}]]
    for as_json, expected in (
        (True, [{"a": [1]}, "text", b"\x00\xff\x80"]),
        (False, ['{"a": [1]}', '"text"', b"\x00\xff\x80"]),
    ):
        url, _ = scripted.add({"steps": steps})
        async with connect(url, json=as_json) as socket:
            assert [message.data for message in await take(socket, 3)] == expected


async def test_frame_that_is_no_json_is_an_error_and_stops_nothing(scripted):
    """The next message can be taken."""
    url, _ = scripted.add({"steps": [frame("no JSON", 4), frame('"yes"', 5)]})
    async with connect(url, json=True) as socket:
        with pytest.raises(json.JSONDecodeError):
            await anext(socket)
        assert (await anext(socket)).data == "yes"


async def test_frames_that_nobody_knows_are_passed_over(scripted):
    """Unknown frames of any kind are ignored."""
    unknown = [["text", text] for text in ("[]", "null", "no JSON", '{"new": 1}')]
    url, _ = scripted.add({"steps": [*unknown, ["bytes", "AAA="], ["send", {"t": "here"}]]})
    async with connect(url) as socket:
        assert (await anext(socket)).data == "here"


async def test_server_without_the_protocol_is_spoken_to_in_plain_frames(scripted):
    """Both directions use plain frames."""
    steps = [["receive", 2], ["text", '{"t": "as it is"}'], ["bytes", "AAE="]]
    url, run = scripted.add({"plain": True, "steps": steps})
    async with connect(url) as socket:
        await socket.send("text")
        await socket.send(b"\x01\x02")
        assert [m.data for m in await take(socket, 2)] == ['{"t": "as it is"}', b"\x00\x01"]
        assert not socket.resumable
    assert run.visits[0].frames == ["text", [1, 2]]


async def test_what_is_sent_waits_for_a_connection(scripted):
    """The message is sent on the next connection."""
    url, run = scripted.add(
        {"steps": [["cut"]]}, {"refuse": 503}, {"steps": [["receive", 2], ["send", {"t": "1"}]]}
    )
    lost = asyncio.Event()
    async with connect(url, json=True, on_state=sets_when_waiting(lost)) as socket:
        await lost.wait()
        await socket.send({"a": 1})
        await socket.send(b"\x07")
        await anext(socket)
    assert run.visits[2].frames == [{"t": '{"a": 1}'}, [7]]


async def test_server_that_is_not_there_yet_is_waited_for(scripted):
    """Entering the context returns once a connection is open."""
    url, run = scripted.add({"refuse": 503}, {"refuse": 503}, {})
    states = []
    async with connect(url, on_state=states.append):
        assert states == ["connecting", "waiting", "connecting", "waiting", "connecting", "open"]
    assert states[-1] == "closed"
    # The server notices the end a little later than the client.
    await becomes(lambda: run.visits[2].code is not None)
    assert run.visits[2].code == 1000


async def test_refused_handshake_is_an_error_of_entering(scripted):
    """The next attempt would be refused as well."""
    url, run = scripted.add({"refuse": 403})
    with pytest.raises(InvalidStatus):
        await connect(url).__aenter__()
    assert len(run.visits) == 1


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 4000, 4999])
async def test_close_code_that_forbids_to_come_back_ends_the_iteration(scripted, code):
    """Earlier messages come first; then the iteration and `send` raise an error with the code."""
    url, run = scripted.add({"steps": [["send", {"t": "last"}], ["close", code, "no"]]})
    async with connect(url) as socket:
        assert (await anext(socket)).data == "last"
        with pytest.raises(SocketClosed, match=f"was closed with {code} \\('no'\\)") as raised:
            await anext(socket)
        assert (raised.value.code, raised.value.reason, socket.state) == (code, "no", "closed")
        with pytest.raises(SocketClosed):
            await socket.send("text")
    assert len(run.visits) == 1


async def test_normal_close_ends_the_iteration(scripted):
    """The iteration raises no error."""
    url, _ = scripted.add({"steps": [["send", {"t": "last"}], ["close", 1000, ""]]})
    async with connect(url) as socket:
        assert [message.data async for message in socket] == ["last"]


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 3000])
async def test_client_comes_back_after_other_close_codes(scripted, code):
    """The client reconnects by itself."""
    url, _ = scripted.add({"steps": [["close", code, ""]]}, {"steps": [["send", {"t": "here"}]]})
    async with connect(url) as socket:
        assert (await anext(socket)).data == "here"


async def test_client_waits_as_long_as_the_server_says(scripted):
    """The client reconnects only after that pause."""
    url, run = scripted.add(
        {"steps": [["send", {"retry": 2}], ["close", 1012, ""]]}, {"steps": [["send", {"t": ""}]]}
    )
    loop, lost = asyncio.get_running_loop(), asyncio.Event()
    async with connect(url, on_state=sets_when_waiting(lost)) as socket:
        await lost.wait()
        lost_at = loop.time()
        await anext(socket)
    assert loop.time() - lost_at > 0.1
    assert len(run.visits) == 2


async def test_ping_is_answered_whoever_listens(scripted):
    """The application need not read anything for that."""
    url, run = scripted.add({"steps": [["send", {"ping": 7}], ["receive", 1], ["close", 1000, ""]]})
    async with connect(url) as socket:
        assert [message async for message in socket] == []
    assert run.visits[0].frames == [{"pong": 7}]


async def test_cancelled_iteration_loses_nothing(scripted):
    """The next step returns the next message."""
    url, _ = scripted.add({"steps": [["receive", 1], ["send", {"t": "one"}]]})
    async with connect(url) as socket:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(socket), 0.01)
        await socket.send("now")
        assert (await anext(socket)).data == "one"


async def test_full_inbox_stops_reading_and_loses_nothing(scripted):
    """A slow application gets all messages in order."""
    count = 50
    url, _ = scripted.add({"steps": [frame(str(n), n) for n in range(count)]})
    async with connect(url, inbox_size=2) as socket:
        texts = []
        for _ in range(count):
            assert len(socket._inbox) <= 2
            texts.append((await anext(socket)).data)
    assert texts == [str(n) for n in range(count)]


async def test_of_too_many_places_those_are_presented_that_changed_last(scripted):
    """The other groups are not recovered, and the client is told so."""
    url, run = scripted.add(
        {"steps": [["send", {"resume": {"group-0": {"position": "e-1"}}}], ["send", {"t": ""}]]}
    )
    places = {f"group-{n}": "0123456789abcdef-1" for n in range(500)}
    resumed = []
    async with connect(url, places=places, on_resumed=resumed.append) as socket:
        await anext(socket)
    shown = list(run.visits[0].resume)
    assert (shown[0], "group-0" in shown, len(shown) > 50) == ("group-499", False, True)
    assert [each.recovered for each in resumed] == [False]


async def test_callback_of_states_that_fails_is_logged_and_nothing_else(scripted, caplog):
    """The socket continues."""
    url, _ = scripted.add({"steps": [["send", {"t": "here"}]]})
    async with connect(url, on_state=lambda _: 1 / 0) as socket:
        assert (await anext(socket)).data == "here"
    assert {record.message for record in caplog.records} == {"on_state failed"}


@pytest.mark.parametrize("option", ["retry_base", "retry_cap", "heartbeat_interval", "inbox_size"])
def test_option_without_sense_is_refused_with_a_sentence(option):
    """The error comes from the call that passes it."""
    with pytest.raises(ValueError, match=f"{option} is 0; give a number above 0"):
        connect("ws://x", **{option: 0})


def test_address_of_something_else_is_refused():
    """The error comes from the call that passes it."""
    with pytest.raises(InvalidURI):
        connect("https://example.org")
