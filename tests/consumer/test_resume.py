"""Consumers replay the messages that a client has missed, by the rows of the protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, RateLimit
from fast_channels.consumer.resume.protocol import SUBPROTOCOL, Place, presented
from fast_channels.consumer.resume.resume import Resume
from fast_channels.exceptions import (
    ConsumerStateError,
    InvalidPosition,
    LayerUnavailable,
    MissingCapability,
)
from fast_channels.layers import InMemoryChannelLayer, channel_layers
from fast_channels.layers.broker import Outage
from fast_channels.testing import ResumingCommunicator, WebsocketCommunicator, inspect
from fast_channels.testing.resuming import Received
from tests.consumer.support import ALIAS, closes, drained, errors, rest, settled, until


class Room(AsyncWebsocketConsumer):
    """Sends the text of every message in its room, and echoes its client's frames."""

    channel_layer_alias = ALIAS
    groups = ("room",)
    resumable = True

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data, bytes_data=bytes_data)

    async def chat_message(self, message):
        await self.send(text_data=message["text"])


class Snapshots(Room):
    async def not_recovered(self, group):
        await self.send(text_data=f"snapshot of {group}")


class Pairs(Room):
    """Sends two frames for every message."""

    async def chat_message(self, message):
        await self.send(text_data=message["text"] + " 1")
        await self.send(text_data=message["text"] + " 2")


@pytest.fixture(autouse=True)
def positions_at_once(monkeypatch):
    """Tell clients without delay up to where they have everything."""
    monkeypatch.setattr(Resume, "position_delay_seconds", 0.0)


@pytest.fixture
def say(durable_layer):
    async def say(*texts, group="room"):
        for text in texts:
            position = await durable_layer.group_send(
                group, {"type": "chat.message", "text": str(text)}
            )
        return position

    return say


async def texts(client, count):
    return [await client.receive_from() for _ in range(count)]


async def told(client, key):
    """Return the next frame of the protocol itself, which must have this key."""
    content = await client.receive_told()
    assert key in content, content
    return content[key]


# -- the handshake ------------------------------------------------------------


async def test_protocol_that_is_offered_is_chosen(durable_layer, resume):
    """A resumable consumer chooses the protocol among those that the client offers."""
    client = await resume(Room.as_asgi(), subprotocols=["other"])
    assert client.speaks


async def test_protocol_is_not_chosen_by_a_consumer_that_is_not_resumable(durable_layer, resume):
    """The client gets plain frames."""

    class Plain(Room):
        resumable = False

    client = await resume(Plain.as_asgi())
    assert not client.speaks
    await client.send_to("hello")
    assert await client.receive_from() == "hello"


async def test_subprotocol_of_the_application_is_chosen_instead(say, resume):
    """Frames are plain then, and nothing is replayed."""

    class Own(Room):
        async def connect(self):
            await self.accept(self.chosen)

        chosen = "own"

    client = await resume(Own.as_asgi(), subprotocols=["own"])
    await say("first")
    assert (client.speaks, await client.receive_from()) == (False, "first")
    position = await say("second")
    await client.receive_from()
    await client.cut()
    client.places["room"] = str(position._replace(offset=1))
    again = await client.again()
    await say("third")
    assert await again.receive_from() == "third"
    await again.disconnect()


async def test_nothing_is_lost_to_an_own_subprotocol_that_is_chosen_late(say, resume):
    """Messages before accept() that waited to keep the order are handled."""

    class Late(Room):
        async def connect(self):
            pass

        async def go_on(self, message):
            await self.accept("own")

    communicator = ResumingCommunicator(Late.as_asgi(), "/", subprotocols=["own"])
    connecting = asyncio.ensure_future(communicator.connect())
    layer = channel_layers.require(ALIAS)
    await until(lambda: layer.statistics().members)
    await say("one", "two")
    await settled()
    (channel,) = layer.channels
    await layer.send(channel, {"type": "go.on"})
    assert await connecting == (True, "own")
    await say("three")
    assert await texts(communicator, 3) == ["one", "two", "three"]
    await communicator.disconnect()


@pytest.mark.parametrize(
    "rubbish",
    [
        "%",
        "",
        "e30=",
        "a",
        "W10",
        base64.urlsafe_b64encode(b"{").decode(),
        base64.urlsafe_b64encode(b'{"room": 1}').decode().rstrip("="),
        base64.urlsafe_b64encode(b'{"room": "x"}').decode().rstrip("="),
        base64.urlsafe_b64encode(b'{"room": "0123456789abcdef-1-2+"}').decode().rstrip("="),
        base64.urlsafe_b64encode(b'{"room": "0123456789abcdef-0-0+1"}').decode().rstrip("="),
        base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("="),
        base64.urlsafe_b64encode(b"{}" + b" " * 8000).decode().rstrip("="),
        "e30&resume=e30",
    ],
)
async def test_what_is_no_place_closes_with_1008(durable_layer, resume, rubbish):
    """The connection is accepted first, so the client sees the code."""
    client = await resume(Room.as_asgi(), f"/?resume={rubbish}")
    assert client.speaks
    assert closes(await rest(client)) == [(1008, "invalid resume")]


async def test_rubbish_is_none_without_the_protocol(durable_layer, connect):
    """A parameter of that name may belong to the application."""
    client = await connect(Room.as_asgi(), "/?resume=%")
    await client.send_to("hello")
    assert await client.receive_from() == "hello"
    await client.disconnect()


def test_place_is_its_text():
    """A parsed place has the text that it was parsed from."""
    for text in ("0123456789abcdef-1-2", "0123456789abcdef-1-2+0", "0123456789abcdef-1-2+3"):
        assert str(Place.parse(text)) == text
    for text in ("", "+1", "0123456789abcdef-1-2+-1", "0123456789abcdef-1-2++1"):
        with pytest.raises(InvalidPosition):
            Place.parse(text)


def test_parameter_may_have_8192_characters():
    """A parameter of exactly this length is read."""
    place = "0123456789abcdef-1-2"
    places = {f"group{n:04}": place for n in range(165)}
    text = base64.urlsafe_b64encode(json.dumps(places).encode()).decode().rstrip("=")
    assert 8000 < len(text) <= 8192
    assert len(presented(f"resume={text}&other=1".encode())) == 165


# -- frames and places --------------------------------------------------------


async def test_frames_of_a_message_have_its_place(say, resume):
    """Such frames have group, position and number; frames outside of a message have none."""

    class Greeting(Pairs):
        async def connect(self):
            await self.accept()
            await self.send(text_data="welcome")

    client = await resume(Greeting.as_asgi())
    assert list(await told(client, "resume")) == ["room"]
    assert await client.receive_frame() == Received("welcome")
    position = str(await say("a"))
    assert await client.receive_frame() == Received("a 1", ("room", position, 0))
    assert await client.receive_frame() == Received("a 2", ("room", position, 1))
    await client.send_to(bytes_data=b"\x00echo")
    assert await client.receive_frame() in (Received(b"\x00echo"), {"at": {"room": position}})
    await client.disconnect()


async def test_resume_tells_where_a_group_is_joined(say, resume):
    """A group without a presented place has no `recovered`."""
    position = await say("before")
    client = await resume(Room.as_asgi())
    report = {"room": {"position": str(position), "missed": 0}}
    assert await told(client, "resume") == report
    await client.disconnect()


async def test_what_was_missed_comes_first(say, resume):
    """Missed messages come in order, marked, before newer ones; the client is told their number."""
    client = await resume(Room.as_asgi())
    await say("seen")
    assert await client.receive_from() == "seen"
    await client.cut()
    await say("one", "two")
    again = await client.again()
    await say("three")
    report = (await told(again, "resume"))["room"]
    assert (report["recovered"], report["missed"]) == (True, 2)
    assert report["position"] == client.places["room"]
    frames = [await again.receive_frame() for _ in range(3)]
    assert [(f.data, f.replay) for f in frames] == [("one", True), ("two", True), ("three", False)]
    await again.disconnect()


async def test_session_without_messages_resumes_recovered(durable_layer, resume):
    """A client without messages has missed nothing, even in a group that never had one."""
    client = await resume(Room.as_asgi())
    await client.receive_told()
    for _ in range(2):
        await client.cut()
        client = await client.again()
        report = (await told(client, "resume"))["room"]
        assert (report["recovered"], report["missed"]) == (True, 0)
    await client.cut()


async def test_connection_that_is_idle_tells_up_to_where_the_client_has_everything(say, resume):
    """The positions include messages that led to no frame."""

    class Quiet(Room):
        async def chat_message(self, message):
            pass

    client = await resume(Quiet.as_asgi())
    await client.receive_told()
    position = str(await say("one", "two"))
    assert await told(client, "at") == {"room": position}
    assert client.places == {"room": position}
    assert await client.receive_nothing()
    await client.disconnect()


async def test_at_is_told_before_a_close(say, resume, monkeypatch):
    """After the close, a message without frames is not handled a second time for the client."""

    monkeypatch.setattr(Resume, "position_delay_seconds", 1000.0)
    client = await resume(Room.as_asgi())
    await client.receive_told()
    position = str(await say("one"))
    await client.receive_from()
    await channel_layers.connections.drain(8, 0)
    assert await told(client, "at") == {"room": position}
    assert closes(await rest(client)) == [(1012, "restarting")]
    channel_layers.connections.resume()


async def test_client_that_has_a_part_of_a_message_gets_the_other(say, resume, monkeypatch):
    """A client that is cut off between two frames of a message gets only the second one."""
    held = asyncio.Event()

    monkeypatch.setattr(Resume, "position_delay_seconds", 1000.0)

    class Held(Pairs):
        async def send(self, text_data=None, bytes_data=None, close=False):
            if text_data == "b 2" and not held.is_set():
                await held.wait()
            await super().send(text_data, bytes_data, close)

    client = await resume(Held.as_asgi())
    await say("a", "b", "c")
    assert await texts(client, 3) == ["a 1", "a 2", "b 1"]
    client.stop()
    await settled()
    held.set()
    again = await client.again()
    report = (await told(again, "resume"))["room"]
    assert (report["recovered"], report["missed"]) == (True, 1)
    frames = [await again.receive_frame() for _ in range(3)]
    assert [(f.data, f.place[2]) for f in frames] == [("b 2", 1), ("c 1", 0), ("c 2", 1)]
    await again.cut()


async def test_whole_message_that_is_not_known_to_be_whole_leads_to_nothing(
    say, resume, monkeypatch
):
    """The message is handled again, and its frames are left out."""

    monkeypatch.setattr(Resume, "position_delay_seconds", 1000.0)
    client = await resume(Room.as_asgi())
    position = await say("a")
    await client.receive_from()
    assert client.places["room"] == f"{position}+1"
    client.stop()
    again = await client.again()
    await say("b")
    assert await again.receive_from() == "b"
    assert again.resumed["room"]["missed"] == 0
    await again.cut()


async def test_tasks_of_a_handler_send_within_its_message_while_it_runs(say, resume):
    """Later they do not, and tasks that were begun elsewhere never do."""
    later, beside, asked = asyncio.Event(), asyncio.Event(), asyncio.Event()
    sent = asyncio.Event()

    class Tasks(Room):
        async def connect(self):
            await self.accept()
            self.other = asyncio.create_task(self.send_beside())

        async def send_beside(self):
            await asked.wait()
            await self.send(text_data="beside")
            beside.set()

        async def chat_message(self, message):
            await asyncio.gather(self.send(text_data="1"), self.send(text_data="2"))
            asked.set()
            await beside.wait()
            self.task = asyncio.create_task(self.send_later())

        async def send_later(self):
            await later.wait()
            await self.send(text_data="later")
            sent.set()

    client = await resume(Tasks.as_asgi())
    position = str(await say("a"))
    frames = [await client.receive_frame() for _ in range(3)]
    assert frames == [
        Received("1", ("room", position, 0)),
        Received("2", ("room", position, 1)),
        Received("beside"),
    ]
    later.set()
    assert await client.receive_frame() == Received("later")
    await client.cut()


async def test_handler_that_sends_by_way_of_another_connection_gives_it_no_place(say, resume):
    """A frame has the place of a message only on the connection that handles it."""
    others = []

    class Other(Room):
        groups = ()

        async def connect(self):
            others.append(self)
            await self.accept()

    class Sends(Room):
        async def chat_message(self, message):
            await others[0].send(text_data="to the other")

    other = await resume(Other.as_asgi())
    client = await resume(Sends.as_asgi())
    await say("a")
    assert await other.receive_frame() == Received("to the other")
    await client.cut()
    await other.cut()


async def test_forwarded_messages_have_places_as_well(durable_layer, say, resume, connect):
    """Clients without the protocol get the same forwarded frames as ever."""

    class Forwards(AsyncJsonWebsocketConsumer):
        channel_layer_alias = ALIAS
        groups = ("room",)
        forwards = ("news", "chat.message")
        resumable = True

        @classmethod
        def forwarded_frame(cls, message):
            return message["text"]

    client, plain = await resume(Forwards.as_asgi()), await connect(Forwards.as_asgi())
    position = str(await say("a"))
    assert await client.receive_frame() == Received("a", ("room", position, 0))
    assert await plain.receive_from() == "a"
    await durable_layer.group_send("room", {"type": "news"})
    position = str(await say("b"))
    await client.cut()
    client = await client.again()
    assert await client.receive_frame() == Received("b", ("room", position, 0), replay=True)
    assert await plain.receive_from() == "b"
    await asyncio.gather(client.cut(), plain.disconnect())
    assert durable_layer.statistics().unknown_type


async def test_forwarded_message_to_the_channel_alone_has_no_place(durable_layer, resume):
    """A message that was sent to no group is in no log."""

    class Forwards(Room):
        forwards = ("news",)

    client = await resume(Forwards.as_asgi())
    (channel,) = durable_layer.channels
    await durable_layer.send(channel, {"type": "news", "text": "direct"})
    assert await client.receive_frame() == Received("direct")
    await client.cut()


# -- groups -------------------------------------------------------------------


class Joiner(Snapshots):
    """Joins and leaves the groups that its client names."""

    groups = ()

    async def receive(self, text_data=None, bytes_data=None):
        what, group = text_data.split()
        await (self.join_group(group) if what == "join" else self.leave_group(group))
        await self.send(text_data=text_data)


async def test_group_that_is_joined_later_is_resumed_then(say, resume):
    """The presented place is kept until the group is joined."""
    client = await resume(Joiner.as_asgi())
    await client.send_to("join room")
    await client.receive_from()
    await client.cut()
    await say("a")
    again = await client.again()
    await again.send_to("join room")
    assert (await told(again, "resume"))["room"]["recovered"]
    assert await texts(again, 2) == ["join room", "a"]
    await again.cut()


async def test_group_that_is_joined_anew_goes_on_from_there(say, resume):
    """Messages sent in between are not for this connection."""
    client = await resume(Joiner.as_asgi())
    await client.send_to("join room")
    await client.send_to("join room")
    assert await texts(client, 2) == ["join room", "join room"]
    await say("a")
    assert await client.receive_from() == "a"
    await client.send_to("leave room")
    await client.receive_from()
    position = await say("b")
    await client.send_to("join room")
    assert await client.receive_from() == "join room"
    assert client.resumed["room"] == {"position": str(position), "missed": 0}
    await say("c")
    assert await client.receive_from() == "c"
    await client.cut()


async def test_place_in_a_group_that_is_left_before_it_is_joined_is_forgotten(say, resume):
    """A client that leaves has not missed the messages after that."""
    client = await resume(Joiner.as_asgi())
    await client.send_to("join room")
    await client.receive_from()
    await client.cut()
    await say("a")
    again = await client.again()
    for what in ("leave room", "join room"):
        await again.send_to(what)
        assert await again.receive_from() == what
    assert "recovered" not in again.resumed["room"]
    await say("b")
    assert await again.receive_from() == "b"
    await again.cut()


async def test_positions_open_no_doors(say, resume):
    """A place in a group that the consumer does not join gives no access."""
    position = await say("secret", group="other")
    place = str(position._replace(offset=0, tag=0))
    client = await resume(Room.as_asgi(), places={"other": place, "room": place})
    await say("public")
    await client.receive_told()
    assert list(client.resumed) == ["room"]
    assert await client.receive_from() == "public"
    await client.cut()


async def test_rejected_client_gets_nothing(say):
    """Only connect() decides about access."""

    class Rejects(Room):
        async def connect(self):
            await self.close(4403)

    position = await say("secret", "more")
    place = str(position._replace(offset=0, tag=0))
    client = ResumingCommunicator(Rejects.as_asgi(), "/", places={"room": place})
    assert await client.connect() == (False, 4403)
    assert await rest(client) == []


async def test_join_is_group_add_for_a_client_without_the_protocol(say, connect):
    """The client gets the messages sent from then on."""
    client = await connect(Joiner.as_asgi())
    await say("before")
    await client.send_to("join room")
    await client.receive_from()
    await say("a")
    assert await client.receive_from() == "a"
    await client.send_to("leave room")
    await client.receive_from()
    await say("b")
    assert await client.receive_nothing()
    await client.disconnect()


async def test_group_added_by_the_application_has_no_places(durable_layer, say, resume):
    """Messages of the group arrive as with any consumer."""

    class Adds(Room):
        groups = ()

        async def connect(self):
            await self.channel_layer.group_add("room", self.channel_name)
            await self.accept()

    client = await resume(Adds.as_asgi())
    await say("a")
    assert await client.receive_frame() == Received("a")
    await client.cut()


async def test_join_without_a_layer_says_so(connect):
    """The error names the remedy."""
    failures = []

    class Alone(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            await self.join_group("room")

        async def on_error(self, exc, message):
            failures.append(exc)

    client = await connect(Alone.as_asgi())
    await client.send_to("x")
    assert closes(await rest(client)) == [(1011, "")]
    assert "set channel_layer_alias" in str(failures[0])


# -- places without recovery ---------------------------------------------------


@pytest.mark.parametrize("how", ["too short", "epoch", "tag", "future", "part"])
async def test_place_that_is_of_no_use_is_not_recovered(durable_layer, say, resume, how):
    """The client is told, the snapshot comes before newer messages, and nothing is replayed."""
    position = await say(*range(15))
    place = {
        "too short": str(position._replace(offset=2)),
        "epoch": str(position._replace(epoch="0" * 16)),
        "tag": str(position._replace(tag=position.tag ^ 1)),
        "future": str(position._replace(offset=10**17)),
        # Another message has this position.
        "part": f"{position._replace(tag=position.tag ^ 1)}+1",
    }[how]
    client = await resume(Snapshots.as_asgi(), places={"room": place})
    await say("new")
    report = {"recovered": False, "position": str(position), "missed": 0}
    assert await told(client, "resume") == {"room": report}
    assert await client.receive_frame() == Received("snapshot of room")
    frame = await client.receive_frame()
    assert (frame.data, frame.replay) == ("new", False)
    await client.cut()


async def test_position_of_another_group_is_not_recovered(say, resume):
    """Each group has its own epoch."""
    await say("a", "b")
    other = await say("a", group="other")
    client = await resume(Snapshots.as_asgi(), places={"room": str(other)})
    assert await client.receive_from() == "snapshot of room"
    assert client.resumed["room"]["recovered"] is False
    await client.cut()


async def test_history_as_long_as_the_absence_is_recovered(say, resume):
    """Ten messages were missed, and ten are kept."""
    client = await resume(Room.as_asgi())
    await client.receive_told()
    await client.cut()
    await say(*range(10))
    again = await client.again()
    assert await texts(again, 10) == [str(n) for n in range(10)]
    assert again.resumed["room"]["missed"] == 10
    await again.cut()
    await say(*range(11))
    third = await again.again()
    await third.receive_told()
    assert third.resumed["room"]["recovered"] is False
    await third.cut()


async def test_gap_that_cannot_be_made_up_for_is_told_while_connected(durable_layer, say, resume):
    """The consumer gets `layer.gap` as usual; then the log is read."""
    gaps = []

    class Told(Snapshots):
        async def layer_gap(self, message):
            gaps.append(message["recovered"])

    client = await resume(Told.as_asgi())
    await say("a")
    await client.receive_from()
    inspect.broker(durable_layer)._log.clear()
    inspect.report_outage(durable_layer, Outage(1.0, 2.0, lost=["room"]))
    assert await client.receive_from() == "snapshot of room"
    assert client.resumed["room"]["recovered"] is False
    await say("b")
    assert await client.receive_from() == "b"
    assert gaps == [False]
    await client.cut()


async def test_gap_that_the_log_has_no_hole_at_is_none(durable_layer, say, resume):
    """The log shows that nothing is missing, although the layer reported a gap."""
    client = await resume(Snapshots.as_asgi())
    await say("a")
    inspect.report_outage(durable_layer, Outage(1.0, 2.0, lost=["room"]))
    await say("b")
    assert await texts(client, 2) == ["a", "b"]
    assert "recovered" not in client.resumed["room"]
    await client.cut()


# -- between missed and live messages -----------------------------------------


async def test_nothing_is_lost_or_doubled_while_others_send_at_full_speed(resume):
    """A client that comes and goes gets each of 600 messages once and in order."""
    layer = InMemoryChannelLayer(history_size=1000, capacity=2)
    channel_layers.register(ALIAS, layer)
    async with layer:

        async def send():
            for n in range(600):
                await layer.group_send("room", {"type": "chat.message", "text": str(n)})

        client = await resume(Pairs.as_asgi())
        await client.receive_told()
        sending = asyncio.create_task(send())
        got = []
        for _ in range(20):
            got += await texts(client, 17)
            client.stop()
            client = await client.again()
        while len(got) < 1200:
            got.append(await client.receive_from())
        await sending
        assert got == [f"{n} {k}" for n in range(600) for k in (1, 2)]
        await client.cut()
    channel_layers.unregister(ALIAS)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_what_a_full_mailbox_drops_is_read_from_the_log(resume, overflow):
    """A slow consumer loses no message of a group that is joined with its positions."""
    layer = InMemoryChannelLayer(history_size=100, capacity=3, overflow=overflow)
    channel_layers.register(ALIAS, layer)
    async with layer:
        gate = asyncio.Event()

        class Slow(Room):
            async def chat_message(self, message):
                await gate.wait()
                await super().chat_message(message)

        client = await resume(Slow.as_asgi())
        for n in range(50):
            await layer.group_send("room", {"type": "chat.message", "text": str(n)})
        gate.set()
        frames = [await client.receive_frame() for _ in range(50)]
        assert [f.data for f in frames] == [str(n) for n in range(50)]
        assert not any(f.replay for f in frames)
        assert layer.statistics().dropped
        await client.cut()
    channel_layers.unregister(ALIAS)


async def test_slow_client_that_the_history_leaves_behind_is_told(say, resume):
    """While its handler was busy, more was sent than is kept."""
    gate = asyncio.Event()

    class Slow(Snapshots):
        async def chat_message(self, message):
            await gate.wait()
            await super().chat_message(message)

    client = await resume(Slow.as_asgi())
    await say(*range(30))
    gate.set()
    assert await texts(client, 2) == ["0", "snapshot of room"]
    assert client.resumed["room"]["recovered"] is False
    await say("new")
    assert await client.receive_from() == "new"
    await client.cut()


async def test_frames_of_the_client_are_handled_between_what_it_missed(say, resume):
    """Frames need not wait for the end of a long replay."""
    client = await resume(Room.as_asgi())
    await client.receive_told()
    await client.cut()
    await say(*range(10))
    again = ResumingCommunicator(Room.as_asgi(), "/", places=client.places)
    await again.send_input({"type": "websocket.connect"})
    await again.send_input({"type": "websocket.receive", "text": '{"t":"hello"}'})
    await until(lambda: again.output_queue.qsize() > 12)
    data = [json.loads(event.get("text", "{}")) for event in drained(again.output_queue)]
    # accept, resume, and then frames and messages in turn.
    assert {"t": '{"t":"hello"}'} in data[2:6]
    await again.cut()


async def test_message_to_the_channel_is_handled_between_what_was_missed(
    durable_layer, say, resume
):
    """A message outside any log does not wait for the replay, and the mailbox keeps it."""

    class Told(Room):
        async def connect(self):
            await self.accept()
            for n in range(3):
                await self.channel_layer.send(
                    self.channel_name, {"type": "chat.message", "text": f"direct {n}"}
                )

    client = await resume(Room.as_asgi())
    await client.receive_told()
    await client.cut()
    await say(*range(10))
    again = await resume(Told.as_asgi(), places=client.places)
    got = await texts(again, 13)
    assert [t for t in got if t.startswith("direct")] == ["direct 0", "direct 1", "direct 2"]
    assert got.index("direct 2") < 8
    await again.cut()


async def test_join_by_another_task_keeps_the_order(say, resume, durable_layer):
    """Live messages that arrive during the replay are handled after it."""
    joining = asyncio.Event()

    class Beside(Room):
        groups = ()

        async def connect(self):
            await self.accept()
            self.task = asyncio.create_task(self.join_when_told())

        async def join_when_told(self):
            await joining.wait()
            await self.join_group("room")

    looked_at, go_on = asyncio.Event(), asyncio.Event()
    read = inspect.broker(durable_layer).read

    async def reading(*args):
        stretch = await read(*args)
        looked_at.set()
        await go_on.wait()
        return stretch

    position = await say("seen", "missed 1", "missed 2")
    first = position._replace(offset=0, tag=0)
    client = await resume(Beside.as_asgi(), places={"room": str(first)})
    inspect.broker(durable_layer).read = reading
    joining.set()
    await looked_at.wait()
    await say("live 1", "live 2")
    await settled()
    assert client.output_queue.empty()
    go_on.set()
    assert await texts(client, 5) == ["seen", "missed 1", "missed 2", "live 1", "live 2"]
    assert client.resumed["room"]["missed"] == 3
    await client.cut()


async def test_undecodable_message_in_the_log_stops_nothing(durable_layer, say, resume):
    """The message is left out, as it is when it is live, and later ones arrive."""
    client = await resume(Room.as_asgi())
    await say("a")
    await inspect.broker(durable_layer).publish("room", b"\xc1")
    await say("b")
    assert await texts(client, 2) == ["a", "b"]
    await client.cut()
    await inspect.broker(durable_layer).publish("room", b"\xc1")
    await say("c")
    await inspect.broker(durable_layer).publish("room", b"\xc1")
    again = await client.again()
    assert await again.receive_from() == "c"
    assert again.resumed["room"]["recovered"]
    await say("d")
    assert await again.receive_from() == "d"
    await again.cut()


async def test_history_that_cannot_be_read_closes_with_1012(durable_layer, say, resume):
    """The client reconnects, and the history may be readable then."""
    client = await resume(Room.as_asgi())
    await client.receive_told()

    async def read(*args):
        raise LayerUnavailable(durable_layer, "it is away")

    inspect.broker(durable_layer).read = read
    inspect.report_outage(durable_layer, Outage(1.0, 2.0, lost=["room"]))
    assert closes(await rest(client)) == [(1012, "the history cannot be read")]


async def test_connection_with_much_to_make_up_for_lets_others_have_their_turn(
    remembering_layer, resume
):
    """Other tasks run in between, even if the handlers never wait."""
    handled, seen = [], []

    class Silent(Room):
        async def chat_message(self, message):
            handled.append(message["text"])

    async def look():
        while True:
            seen.append(len(handled))
            await asyncio.sleep(0)

    send = remembering_layer.group_send
    here = await send("room", {"type": "chat.message", "text": "first"})
    for number in range(100):
        await send("room", {"type": "chat.message", "text": str(number)})
    looking = asyncio.create_task(look())
    await resume(Silent.as_asgi(), places={"room": str(here)})
    await until(lambda: len(handled) == 100)
    looking.cancel()
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 20


# -- errors and ends ----------------------------------------------------------


async def test_handler_that_fails_at_what_was_missed_tries_again_on_the_next_resume(
    say, resume, caplog
):
    """The connection closes with 1011, and the client's place is before that message."""
    failing = [True]

    class Fails(Room):
        async def chat_message(self, message):
            if message["text"] == "b" and failing:
                raise ValueError(message["text"])
            await super().chat_message(message)

    client = await resume(Fails.as_asgi())
    await client.receive_told()
    await client.cut()
    await say("a", "b", "c")
    client = await client.again()
    assert await client.receive_from() == "a"
    for still in ([True], []):
        with pytest.raises(AssertionError, match="1011"):
            await client.receive_from()
        await client.wait()
        failing[:] = still
        client = await client.again()
    assert await texts(client, 2) == ["b", "c"]
    await client.cut()
    assert len(errors(caplog)) == 2


async def test_message_at_which_a_handler_fails_each_time_is_passed_over(say, resume, caplog):
    """After the third failure the client gets later messages; the frames of this one stay."""

    class Fails(Room):
        async def chat_message(self, message):
            await super().chat_message(message)
            if message["text"] == "b":
                raise ValueError(message["text"])

    client = await resume(Fails.as_asgi())
    await client.receive_told()
    await client.cut()
    await say("a", "b", "c")
    client = await client.again()
    assert await texts(client, 2) == ["a", "b"]
    for _ in range(3):
        with pytest.raises(AssertionError, match="1011"):
            await client.receive_from()
        await client.wait()
        client = await client.again()
    assert await client.receive_from() == "c"
    await client.cut()
    assert len(errors(caplog)) == 3
    assert "has failed 3 times" in caplog.text


@pytest.mark.parametrize("live", [True, False])
async def test_handler_that_closes_the_connection_does_so_once(say, resume, live):
    """The message counts as handled: the client comes back and gets the next ones."""

    class Closes(Room):
        async def chat_message(self, message):
            if message["text"] == "away":
                await self.close(code=1012)
            else:
                await super().chat_message(message)

    client = await resume(Closes.as_asgi())
    await client.receive_told()
    if live:
        await say("away")
    else:
        await client.cut()
        await say("away")
        client = await client.again()
    with pytest.raises(AssertionError, match="1012"):
        await client.receive_from()
    await client.wait()
    await say("back")
    client = await client.again()
    assert await client.receive_from() == "back"
    await client.cut()


async def test_not_recovered_that_fails_closes_with_1011(say, resume, caplog):
    """The hook is treated like any handler of the application."""

    class Fails(Room):
        async def not_recovered(self, group):
            raise ValueError(group)

    position = await say("a")
    place = str(position._replace(offset=7))
    client = await resume(Fails.as_asgi(), places={"room": place})
    await client.receive_told()
    assert closes(await rest(client)) == [(1011, "")]
    assert len(errors(caplog)) == 1


async def test_drained_client_resumes_elsewhere(say, resume):
    """The client is told when to reconnect, and misses nothing."""

    class Retries(Room):
        retry_after = 2.5

    client = await resume(Retries.as_asgi())
    await say("a")
    await client.receive_from()
    await channel_layers.connections.drain(8, 0)
    events = [client._note(json.loads(e["text"])) for e in drained(client.output_queue)[:-1]]
    await asyncio.gather(*events)
    await client.wait()
    assert client.retry == 2.5
    # Until a lifespan begins, all clients are turned away with the same delay.
    turned_away = await client.again()
    assert await told(turned_away, "retry") == 2.5
    assert closes(await rest(turned_away)) == [(1012, "restarting")]
    channel_layers.connections.resume()
    await say("b")
    again = await client.again()
    assert await again.receive_from() == "b"
    await again.cut()


@pytest.mark.parametrize(("code", "retries"), [(1000, False), (4000, False), (1013, True)])
async def test_retry_is_told_before_closes_that_a_client_comes_back_after(
    durable_layer, resume, code, retries
):
    """Other close codes are final, so `retry` does not precede them."""

    class Closes(Room):
        retry_after = 1.0

        async def receive(self, text_data=None, bytes_data=None):
            await self.close(code)

    client = await resume(Closes.as_asgi())
    await client.receive_told()
    await client.send_to("x")
    events = await rest(client)
    assert [e["type"] for e in events] == ["websocket.send"] * retries + ["websocket.close"]


async def test_client_for_whom_there_is_no_room_is_told_when_to_come(durable_layer, resume):
    """The connection is accepted with the protocol for that."""

    class Full(Room):
        max_connections = 1
        retry_after = 3.0

    one = await resume(Full.as_asgi())
    other = await resume(Full.as_asgi())
    assert await told(other, "retry") == 3.0
    assert closes(await rest(other)) == [(1013, "too many connections")]
    await one.cut()


# -- frames of clients --------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "{}",
        '{"t":1}',
        '{"ping":"1"}',
        '{"t":"a","ping":1}',
        '{"x":1}',
        "[" * 9999,
    ],
)
async def test_frame_that_is_none_of_the_protocol_closes_with_1007(durable_layer, resume, text):
    """Frames before it are handled first."""
    client = await resume(Room.as_asgi())
    await client.receive_told()
    await client.send_to("first")
    await client.send_input({"type": "websocket.receive", "text": text})
    assert await client.receive_from() == "first"
    assert [code for code, _ in closes(await rest(client))] == [1007]


async def test_ping_is_answered_while_a_handler_is_busy(durable_layer, resume):
    """A ping asks whether the server is alive, not whether it is idle."""
    gate = asyncio.Event()

    class Busy(Room):
        async def receive(self, text_data=None, bytes_data=None):
            await gate.wait()
            await super().receive(text_data, bytes_data)

    client = await resume(Busy.as_asgi())
    await client.receive_told()
    await client.send_to("x")
    await client.ping(7)
    assert await told(client, "pong") == 7
    gate.set()
    assert await client.receive_from() == "x"
    await client.cut()


async def test_pings_count_as_frames(durable_layer, resume):
    """The rate limit covers everything that the client sends."""

    class Limited(Room):
        rate_limit = RateLimit(per_second=0.001, burst=2)

    client = await resume(Limited.as_asgi())
    for n in range(3):
        await client.ping(n)
    await settled()
    assert closes(await rest(client)) == [(1008, "too many messages")]


async def test_frame_is_measured_as_it_comes(durable_layer, resume):
    """The envelope counts, too."""

    class Small(Room):
        max_frame_size = 20

    client = await resume(Small.as_asgi())
    await client.receive_told()
    await client.send_to("x" * 12)
    assert await client.receive_from() == "x" * 12
    await client.send_to("x" * 13)
    assert closes(await rest(client)) == [(1009, "a frame may have 20 bytes")]


async def test_heartbeat_asks_in_the_protocol(durable_layer, resume):
    """The answer is not a frame of the application, and does not count for the rate limit."""
    seen = []

    class Beats(Room):
        heartbeat_interval = 0.01
        heartbeat_timeout = 1.0
        rate_limit = RateLimit(per_second=0.001, burst=1)

        async def receive(self, text_data=None, bytes_data=None):
            seen.append(text_data)

    client = await resume(Beats.as_asgi())
    for _ in range(2):
        while "ping" not in await client.receive_told(timeout=15):
            pass
    await client.cut()
    assert seen == []


async def test_client_that_answers_no_ping_is_closed_with_1011(durable_layer, resume):
    """The rule is the same with and without the protocol."""

    class Beats(Room):
        heartbeat_interval = 0.01
        heartbeat_timeout = 0.01

    client = await resume(Beats.as_asgi())
    assert closes(await rest(client)) == [(1011, "heartbeat timeout")]


# -- clients without the protocol ---------------------------------------------


async def test_client_without_the_protocol_sees_no_difference(say, connect):
    """The client gets exactly the events of a consumer that is not resumable."""

    class Plain(Pairs):
        resumable = False

    seen = []
    for consumer in (Plain, Pairs):
        client = await connect(consumer.as_asgi(), subprotocols=["other"])
        await client.send_to('{"ping":1}')
        await settled()
        await say("a")
        await client.send_to('{"t":"b"}')
        await settled()
        events = drained(client.output_queue)
        await client.disconnect()
        seen.append([*events, client.response_headers])
    assert seen[0] == seen[1]
    assert len(seen[0]) == 5


async def test_client_without_the_protocol_shares_forwarded_frames(say, connect):
    """One frame for all members, as if the consumer were not resumable."""

    class Forwards(Room):
        forwards = ("news",)

    client = await connect(Forwards.as_asgi())
    await client.send_to("x")
    await client.receive_from()
    layer = channel_layers.require(ALIAS)
    (mailbox,) = layer.channels.values()
    assert mailbox.prepare is not None
    assert not mailbox.positioned
    await client.disconnect()


# -- configuration ------------------------------------------------------------


def test_resumable_without_a_layer_is_refused():
    """The error names the missing attribute."""

    class Alone(AsyncWebsocketConsumer):
        resumable = True

    with pytest.raises(ConsumerStateError, match=r"Alone is resumable .*set channel_layer_alias"):
        Alone.as_asgi()


@pytest.mark.parametrize("value", [0, -1, "1", True])
def test_retry_after_is_a_number_of_seconds(value):
    """Other values are refused when the class is mounted."""

    class Retries(AsyncWebsocketConsumer):
        retry_after = value

    with pytest.raises(ConsumerStateError, match="retry_after"):
        Retries.as_asgi()


async def test_layer_without_history_is_refused_where_the_application_starts(layer):
    """The error names the consumer, and layers with a history."""
    app = Starlette(routes=[WebSocketRoute("/", Room.as_asgi())])
    with pytest.raises(MissingCapability, match=r"Room\.resumable: .*history_size"):
        async with channel_layers.lifespan(app):
            pass


async def test_layer_without_history_is_refused_at_the_latest_by_a_connection(layer):
    """This is for consumers that the lifespan does not see; the channel is not left open."""
    client = WebsocketCommunicator(Room.as_asgi(), "/")
    with pytest.raises(MissingCapability):
        await client.connect()


async def test_layer_with_history_lets_the_application_start(durable_layer):
    """Nothing is logged, and the layer is unchanged."""
    app = Starlette(routes=[WebSocketRoute("/", Room.as_asgi())])
    async with channel_layers.lifespan(app):
        assert SUBPROTOCOL
