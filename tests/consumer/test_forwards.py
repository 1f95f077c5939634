"""Forwarded messages reach clients in order, are framed once, and affect no other connection."""

from __future__ import annotations

import asyncio
import contextvars
import random

import pytest

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.exceptions import ConsumerStateError
from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    channel_layers,
)
from fast_channels.layers.broker import Outage
from fast_channels.layers.codecs import MsgPackCodec
from fast_channels.testing import inspect
from tests.consumer.support import (
    ALIAS,
    CONNECT,
    LEAVE,
    Recorder,
    Wire,
    closes,
    errors,
    rest,
    settled,
    text,
    until,
)
from tests.layers.support import PATIENCE, becomes

GROUP = "room"
SEND = "websocket.send"


class Forwarder(Recorder):
    """Forwards notes; its handlers get chat messages and frames."""

    forwards = ("note",)


def note(content) -> dict:
    return {"type": "note", "text": content}


def chat(content) -> dict:
    return {"type": "chat.message", "text": content}


def deliver(layer, *messages) -> int:
    """
    Deliver payloads that came together, as a broker's reader does, without a turn of the loop.
    """
    return inspect.hub(layer).deliver(GROUP, *map(MsgPackCodec().encode, messages))


def texts(events) -> list:
    return [event.get("text", event.get("bytes")) for event in events if event["type"] == SEND]


async def connected(consumer, kind=Wire, **options) -> Wire:
    """Return an idle consumer, with a server around it."""
    wire = kind(consumer)
    wire.start(CONNECT)
    await until(lambda: wire.sent)
    await settled()
    for name, value in options.items():
        setattr(wire, name, value)
    return wire


async def leave(*wires) -> None:
    for wire in wires:
        wire.released.set()
        wire.put(LEAVE)
        await wire.ended()


# -- the frames -----------------------------------------------------------------


class TestFrames:
    async def test_note_is_sent_while_it_is_delivered(self, layer):
        """The connection is not woken for it, and no handler is looked up."""
        wire = await connected(Forwarder())
        assert deliver(layer, note("hello")) == 1
        assert wire.sent[1:] == [{"type": SEND, "text": "hello"}]
        assert layer.statistics().unknown_type == layer.statistics().waiting == 0
        await leave(wire)

    async def test_bytes_are_a_binary_frame(self, layer):
        """A message without text has bytes."""
        wire = await connected(Forwarder())
        deliver(layer, {"type": "note", "bytes": b"\0\1"})
        assert wire.sent[1:] == [{"type": SEND, "bytes": b"\0\1"}]
        await leave(wire)

    async def test_json_consumer_sends_the_message(self, layer, connect):
        """The frame has the whole message, including its type."""

        class Json(AsyncJsonWebsocketConsumer):
            channel_layer_alias = ALIAS
            groups = (GROUP,)
            forwards = ("note",)

        client = await connect(Json.as_asgi())
        message = {"type": "note", "text": "ü", "of": [1, None]}
        await layer.group_send(GROUP, message)
        assert await client.receive_json_from() == message
        await client.disconnect()

    async def test_message_is_framed_once_for_each_class(self, layer):
        """Fifty members of one class share an event; members of another class share another one."""
        framed = []

        class Counting(Forwarder):
            @classmethod
            def forwarded_frame(cls, message):
                framed.append(cls)
                return f"{cls.__name__} {message['text']}"

        class Other(Counting):
            pass

        wires = [await connected(kind()) for kind in [Counting] * 50 + [Other] * 50]
        assert deliver(layer, note("x")) == 100
        assert framed == [Counting, Other]
        assert [wire.sent[1]["text"] for wire in wires] == ["Counting x"] * 50 + ["Other x"] * 50
        assert len({id(wire.sent[1]) for wire in wires}) == 2
        await leave(*wires)

    async def test_note_to_a_channel_is_forwarded_too(self, layer):
        """A note to the channel's name needs no group."""
        consumer = Forwarder()
        wire = await connected(consumer)
        await layer.send(consumer.channel_name, note("you"))
        assert texts(wire.sent) == ["you"]
        await leave(wire)

    async def test_notes_before_accept_wait_for_it(self, layer):
        """Notes come in order, with later messages behind them."""
        asked = asyncio.Event()

        class Hesitant(Forwarder):
            async def connect(self):
                await asked.wait()
                await super().connect()

        wire = Wire(Hesitant())
        wire.start(CONNECT)
        await until(lambda: layer.groups)
        await settled()
        for message in (note("1"), chat("2"), note("3")):
            deliver(layer, message)
        assert wire.sent == []
        asked.set()
        await until(lambda: len(texts(wire.sent)) == 3)
        assert [event["type"] for event in wire.sent] == ["websocket.accept", SEND, SEND, SEND]
        assert texts(wire.sent) == ["1", "2", "3"]
        await leave(wire)

    async def test_note_after_the_clients_leaving_is_counted(self, layer):
        """The server gets no more frames."""
        wire = await connected(Forwarder(), failure=OSError("the client is gone"))
        for content in "abc":
            deliver(layer, note(content))
            await settled()
        assert texts(wire.sent) == []
        assert layer.statistics().sent_after_close == 3
        await leave(wire)


# -- order ----------------------------------------------------------------------


@pytest.fixture(params=["memory", "pubsub", "queue"])
async def any_layer(request):
    """A layer of each kind with capacity for all messages of these tests."""
    if request.param == "memory":
        made = InMemoryChannelLayer(capacity=1000)
    else:
        kind = {"pubsub": RedisPubSubChannelLayer, "queue": RedisChannelLayer}[request.param]
        made = kind(hosts=[request.getfixturevalue("redis_url")], capacity=1000)
    async with made as layer:
        channel_layers.register(ALIAS, layer)
        yield layer
        channel_layers.unregister(ALIAS)
        statistics = layer.statistics()
        assert (statistics.channels, statistics.groups, statistics.members) == (0, 0, 0)
        await becomes(lambda: layer.statistics().subscriptions <= 1)


class Pondering(Forwarder):
    """Handlers that take a few turns of the event loop, so that many messages arrive meanwhile."""

    def __init__(self, seed=0) -> None:
        super().__init__()
        self.random = random.Random(seed)

    async def chat_message(self, message):
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        await super().chat_message(message)


class Hesitating(Wire):
    """A server that sometimes takes a few turns of the event loop for a frame."""

    def __init__(self, application, seed) -> None:
        super().__init__(application)
        self.random = random.Random(seed)

    async def send(self, event):
        if self.random.random() < 0.3:
            for _ in range(self.random.randrange(1, 4)):
                await asyncio.sleep(0)
        await super().send(event)


async def hesitating_crowd(layer) -> list[Wire]:
    """Members with servers and handlers that wait now and then."""
    wires = [Hesitating(Pondering(seed), seed) for seed in range(8)]
    for wire in wires:
        wire.start(CONNECT)
    await becomes(lambda: layer.statistics().members == 8 and all(w.sent for w in wires))
    return wires


def mixed_batches(choose, number):
    """Return that many messages in batches, some forwarded and some handled; texts count from 0."""
    messages = [choose.choice([note, chat])(str(content)) for content in range(number)]
    while messages:
        count = choose.randrange(1, 12)
        yield messages[:count]
        del messages[:count]


async def receive_in_order(wires, number):
    """Return when all members have every message; fail if one has overtaken another."""
    await becomes(lambda: all(len(texts(wire.sent)) == number for wire in wires))
    assert [texts(wire.sent) for wire in wires] == [[*map(str, range(number))]] * len(wires)


async def test_forwarded_and_handled_messages_arrive_as_they_were_sent(any_layer):
    """Nothing overtakes at any client, no matter how often server and handler wait."""
    wires = await hesitating_crowd(any_layer)
    choose = random.Random(4)
    for batch in mixed_batches(choose, 300):
        if len(batch) % 2:
            await any_layer.group_send_many(GROUP, batch)
        else:
            for message in batch:
                await any_layer.group_send(GROUP, message)
        for _ in range(choose.randrange(3)):
            # Some readers become idle, and the next note bypasses their mailboxes.
            await asyncio.sleep(0.001)
    await receive_in_order(wires, 300)
    await leave(*wires)


async def test_what_arrives_together_is_handled_as_it_was_sent(layer):
    """Messages that a broker's reader delivers together keep their order, too."""
    wires = await hesitating_crowd(layer)
    choose = random.Random(5)
    for batch in mixed_batches(choose, 600):
        assert deliver(layer, *batch) == len(batch) * len(wires)
        for _ in range(choose.randrange(6)):
            await asyncio.sleep(0.001)
    await receive_in_order(wires, 600)
    await leave(*wires)


async def test_note_that_waited_is_no_message_to_its_sender(layer):
    """A handler with the name of the ASGI event never sees it."""
    handled = []

    class Both(Forwarder):
        async def websocket_send(self, message):
            handled.append(message["text"])

        async def chat_message(self, message):
            await asyncio.sleep(0)

    wire = await connected(Both())
    deliver(layer, {"type": SEND, "text": "handled"})
    await until(lambda: handled)
    deliver(layer, chat("takes a turn"), note("forwarded"))
    await until(lambda: texts(wire.sent) == ["forwarded"])
    assert handled == ["handled"]
    await leave(wire)


async def test_note_behind_a_handled_message_waits_for_its_handler(layer):
    """The handler may not even have begun."""
    released = asyncio.Event()

    class Held(Forwarder):
        async def chat_message(self, message):
            await released.wait()
            await super().chat_message(message)

    wire = await connected(Held())
    deliver(layer, note("1"))
    deliver(layer, chat("2"))
    deliver(layer, note("3"))
    await settled()
    deliver(layer, note("4"))
    assert texts(wire.sent) == ["1"]
    released.set()
    await until(lambda: texts(wire.sent) == ["1", "2", "3", "4"])
    await leave(wire)


async def test_gap_stands_in_its_place_among_notes(fragile_layer):
    """Notes after the gap are forwarded after its handler."""

    class Told(Forwarder):
        async def layer_gap(self, message):
            await asyncio.sleep(0)
            await self.send("gap")

    wire = await connected(Told())
    deliver(fragile_layer, note("before"))
    fragile_layer.broker.report_outage(Outage(1.0, 2.0, lost=[GROUP]))
    deliver(fragile_layer, note("after"))
    await until(lambda: texts(wire.sent) == ["before", "gap", "after"])
    await leave(wire)


async def test_on_gap_close_closes_a_forwarding_consumer(fragile_layer):
    """Notes behind the gap are not sent any more."""
    consumer = type("Strict", (Forwarder,), {"on_gap": "close"})()
    wire = await connected(consumer)
    fragile_layer.broker.report_outage(Outage(1.0, 2.0, lost=[GROUP]))
    deliver(fragile_layer, note("too late"))
    await wire.ended()
    assert texts(wire.sent) == []
    assert closes(wire.sent) == [(1012, "messages may have been lost")]
    assert consumer.disconnects == [1012]


# -- clients that do not read ----------------------------------------------------


class TestSlowClient:
    async def test_client_that_does_not_read_delays_nobody(self, layer):
        """Other clients get every note at once; this one gets them in order once it reads again."""
        slow, quick = await connected(Forwarder(), stuck={SEND}), await connected(Forwarder())
        expected = [str(number) for number in range(20)]
        for content in expected:
            deliver(layer, note(content))
        assert texts(quick.sent) == expected
        assert texts(slow.sent) == ["0"]
        await settled()
        assert texts(slow.sent) == ["0"]
        slow.released.set()
        await until(lambda: texts(slow.sent) == expected)
        await leave(slow, quick)

    async def test_client_that_reads_nothing_is_closed_with_1013(self, layer):
        """The close comes after send_timeout, as for a handler; the neighbour is not affected."""
        consumer = type("Slow", (Forwarder,), {"send_timeout": 0.05})()
        slow, quick = await connected(consumer, stuck={SEND}), await connected(Forwarder())
        for content in "abc":
            deliver(layer, note(content))
        await slow.ended()
        assert texts(slow.sent) == ["a"]
        assert closes(slow.sent) == [(1013, "slow")]
        assert consumer.disconnects == [1013]
        deliver(layer, note("d"))
        assert texts(quick.sent) == ["a", "b", "c", "d"]
        await leave(quick)

    async def test_mailbox_of_a_slow_client_keeps_to_its_policy(self, small_layer):
        """While the client does not read, the oldest messages are lost, counted and reported."""

        class Told(Forwarder):
            async def layer_overflow(self, message):
                await self.send(f"{message['dropped']} lost")

        wire = await connected(Told(), stuck={SEND})
        deliver(small_layer, note("sent"))
        await settled()
        for number in range(5):
            deliver(small_layer, note(str(number)))
        wire.released.set()
        await until(lambda: texts(wire.sent) == ["sent", "2 lost", "2", "3", "4"])
        assert small_layer.statistics().dropped == 2
        await leave(wire)

    async def test_burst_does_not_lose_a_frame_that_is_half_sent(self, small_layer):
        """The frame counts as sent, so that later frames are not kept waiting."""
        wire = await connected(Forwarder(), stuck={SEND})
        for number in range(5):
            deliver(small_layer, note(str(number)))
        wire.released.set()
        await until(lambda: texts(wire.sent) == ["0", "2", "3", "4"])
        assert small_layer.statistics().dropped == 1
        await leave(wire)

    async def test_burst_beyond_overflow_close_is_told_at_once(self, closing_layer):
        """The close frame follows the one that is partly sent."""
        consumer = Forwarder()
        wire = await connected(consumer, stuck={SEND})
        for number in range(5):
            deliver(closing_layer, note(str(number)))
        await settled()
        wire.released.set()
        await until(lambda: closes(wire.sent) == [(1013, "slow")])
        await wire.ended()
        assert consumer.disconnects == [1013]

    async def test_frame_of_the_client_does_not_come_between(self, layer):
        """The frame's handler runs once the note is sent, and its answer comes after the note."""
        wire = await connected(Forwarder(), stuck={SEND})
        deliver(layer, note("note"))
        wire.put(text("frame"))
        await settled()
        wire.released.set()
        await until(lambda: texts(wire.sent) == ["note", "frame"])
        await leave(wire)

    async def test_frame_at_the_same_moment_does_not_come_between(self, layer):
        """Both wait when the connection wakes: the unfinished send comes first."""
        consumer = Forwarder()
        wire = await connected(consumer, stuck={SEND})
        deliver(layer, note("note"))
        # The pump does this with a frame, here in the same turn.
        (mailbox,) = layer.channels.values()
        await mailbox.put_frame(text("frame"))
        await settled()
        wire.released.set()
        await until(lambda: texts(wire.sent) == ["note", "frame"])
        await leave(wire)

    @pytest.mark.parametrize("ends", [False, True])
    async def test_note_waits_for_a_send_of_another_task(self, layer, ends):
        """A server gets one event at a time; a connection that ends waits for none."""
        consumer = Forwarder()
        wire = await connected(consumer, stuck={SEND})
        other = asyncio.create_task(consumer.send("other"))
        await until(lambda: texts(wire.sent) == ["other"])
        for content in "ab":
            deliver(layer, note(content))
        await settled()
        assert texts(wire.sent) == ["other"]
        if ends:
            wire.put(LEAVE)
            await settled()
        wire.released.set()
        await other
        if not ends:
            await until(lambda: texts(wire.sent) == ["other", "a", "b"])
            wire.put(LEAVE)
        await wire.ended()
        assert consumer.disconnects == [1000]

    async def test_drain_sends_what_is_begun_and_closes(self, layer):
        """The close frame comes as soon as the client has read, before the deadline."""
        consumer = Forwarder()
        wire = await connected(consumer, stuck={SEND})
        deliver(layer, note("begun"))
        draining = asyncio.create_task(channel_layers.connections.drain(PATIENCE, 0))
        await settled()
        assert closes(wire.sent) == []
        wire.released.set()
        await until(lambda: closes(wire.sent) == [(1012, "restarting")])
        await draining
        assert texts(wire.sent) == ["begun"]
        assert consumer.disconnects == [1012]

    async def test_cancelled_connection_does_not_wait_for_who_does_not_read(self, layer):
        """The server's send is interrupted and disconnect runs, without any delay."""
        consumer, interrupted = Forwarder(), []

        class Stuck(Wire):
            async def send(self, event):
                try:
                    await super().send(event)
                except asyncio.CancelledError:
                    interrupted.append(event["text"])
                    raise

        wire = await connected(consumer, Stuck, stuck={SEND})
        deliver(layer, note("begun"))
        wire.task.cancel()
        await until(lambda: consumer.disconnects)
        assert interrupted == ["begun"]
        await wire.ended()
        assert len(closes(wire.sent)) == 1

    @pytest.mark.parametrize("turns", range(8))
    async def test_note_at_the_end_of_a_connection_keeps_nobody(self, layer, turns):
        """
        No task waits for the client to read, no matter when the note comes after the
        cancellation.
        """
        consumer = Forwarder()
        wire = await connected(consumer, stuck={SEND})
        wire.task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        deliver(layer, note("late"))
        await until(lambda: consumer.disconnects)
        await wire.ended()
        assert len(closes(wire.sent)) == 1


# -- errors ----------------------------------------------------------------------


class TestErrors:
    @pytest.mark.parametrize("failure", [OSError("gone"), RuntimeError("closed")], ids=repr)
    async def test_client_that_is_gone_is_no_error(self, layer, caplog, failure):
        """
        Servers raise two kinds of errors; the note is counted, and other clients get their
        frames.
        """
        consumer = Forwarder()
        gone, here = await connected(consumer, failure=failure), await connected(Forwarder())
        assert deliver(layer, note("a")) == 2
        await settled()
        assert deliver(layer, note("b")) >= 1
        assert texts(here.sent) == ["a", "b"]
        assert layer.statistics().sent_after_close >= 1
        await leave(gone, here)
        assert not errors(caplog)
        assert len(consumer.disconnects) == 1

    @pytest.mark.parametrize(
        "failure", [ValueError("a bug"), asyncio.CancelledError("not ours")], ids=repr
    )
    async def test_error_of_a_send_ends_its_own_connection(self, layer, caplog, failure):
        """on_error runs and the code is 1011; deliveries continue, to other clients and later."""

        class Broken(Wire):
            async def send(self, event):
                if event["type"] == SEND:
                    raise failure
                await super().send(event)

        consumer = Forwarder()
        broken, here = await connected(consumer, Broken), await connected(Forwarder())
        assert deliver(layer, note("a")) == 2
        assert texts(here.sent) == ["a"]
        await broken.ended()
        assert closes(broken.sent) == [(1011, "")]
        assert [call[0] for call in consumer.calls] == ["connect", "on_error", "disconnect"]
        assert len(errors(caplog)) == 1
        await layer.group_send(GROUP, note("b"))
        assert texts(here.sent) == ["a", "b"]
        await leave(here)

    async def test_error_later_in_a_send_ends_its_own_connection(self, layer, caplog):
        """The server may also fail after it has waited."""

        class Failing(Wire):
            async def send(self, event):
                await super().send(event)
                if event["type"] == SEND:
                    raise ValueError("a bug")

        consumer = Forwarder()
        broken = await connected(consumer, Failing, stuck={SEND})
        deliver(layer, note("a"))
        broken.released.set()
        await broken.ended()
        assert closes(broken.sent) == [(1011, "")]
        assert [call[0] for call in consumer.calls] == ["connect", "on_error", "disconnect"]
        assert len(errors(caplog)) == 1

    @pytest.mark.parametrize(
        "message",
        [
            {"type": "note"},
            {"type": "note", "text": None},
            {"type": "note", "text": 5},
            {"type": "note", "text": ["a"]},
            {"type": "note", "bytes": {}},
        ],
        ids=repr,
    )
    async def test_message_that_is_no_frame_is_counted_and_skipped(self, layer, caplog, message):
        """The log has one line, and no connection closes."""
        kind = type("Once", (Forwarder,), {})
        wires = [await connected(kind()) for _ in range(2)]
        for _ in range(2):
            deliver(layer, message)
            await settled()
        deliver(layer, note("after"))
        assert [texts(wire.sent) for wire in wires] == [["after"], ["after"]]
        assert layer.statistics().unknown_type == 4
        [record] = caplog.records
        assert "'note'" in record.message
        await leave(*wires)

    async def test_frame_that_cannot_be_made_closes_nobody(self, layer, caplog):
        """The function forwarded_frame may raise any exception."""

        class Picky(Forwarder):
            @classmethod
            def forwarded_frame(cls, message):
                return message["text"].upper()

        wire = await connected(Picky())
        deliver(layer, note(5))
        deliver(layer, note("five"))
        await until(lambda: texts(wire.sent) == ["FIVE"])
        assert layer.statistics().unknown_type == 1
        assert "AttributeError" in caplog.text
        await leave(wire)

    @pytest.mark.parametrize("forwards", [("note",), ["note"], {"note"}, frozenset({"note"})])
    @pytest.mark.parametrize("type_", [["note"], {"note": 1}, None, 5, "", "_note", "other"])
    async def test_odd_types_are_skipped(self, layer, caplog, forwards, type_):
        """Unhashable types are skipped, too."""
        wire = await connected(type("Odd", (Forwarder,), {"forwards": forwards})())
        deliver(layer, {"type": type_, "text": "never"})
        deliver(layer, note("after"))
        await until(lambda: texts(wire.sent) == ["after"])
        assert layer.statistics().unknown_type == 1
        await leave(wire)
        assert not errors(caplog)


# -- task and context --------------------------------------------------------------

VARIABLE = contextvars.ContextVar("VARIABLE", default="nobody")


class Around:
    """A middleware that records the task and the context of each step of a send."""

    def __init__(self, application) -> None:
        self.application = application
        # The task and the variable at the start of the connection, and at every step of a send.
        self.own: tuple = ()
        self.seen: list[tuple] = []

    async def __call__(self, scope, receive, send):
        VARIABLE.set("connection")

        async def watched(event):
            self.note(event)
            VARIABLE.set(f"sent {len(self.seen)}")
            await send(event)
            self.note(event)

        await self.application(scope, receive, watched)

    def note(self, event):
        if event["type"] == SEND:
            self.seen.append((asyncio.current_task(), VARIABLE.get()))


class Tasked(Forwarder):
    """Records the task of its handlers."""

    async def connect(self):
        self.task = asyncio.current_task()
        await super().connect()


@pytest.mark.parametrize("waits", [False, True])
async def test_wrapped_send_runs_as_the_connection(layer, waits):
    """A send uses the connection's task and context when it begins and when it ends."""
    consumer = Tasked()
    around = Around(consumer)
    wire = await connected(around, stuck={SEND} if waits else set())
    here = asyncio.current_task()
    before = VARIABLE.get()
    deliver(layer, note("a"))
    assert asyncio.current_task() is here
    assert VARIABLE.get() == before
    wire.released.set()
    await until(lambda: len(around.seen) == 2)
    tasks, variables = zip(*around.seen, strict=True)
    assert tasks == (consumer.task, consumer.task)
    # Set in the accept, and in the first step of the note.
    assert variables == ("sent 0", "sent 1")
    await leave(wire)


@pytest.mark.parametrize("delay", [0, 0.02])
async def test_timeout_in_a_wrapped_send_works(layer, delay):
    """The timeout interrupts the slow frame and nothing else."""
    timed_out = []

    def impatient(application):
        async def wrapped(scope, receive, send):
            async def limited(event):
                try:
                    async with asyncio.timeout(delay if event["type"] == SEND else None):
                        await send(event)
                except TimeoutError:
                    timed_out.append(event["text"])

            await application(scope, receive, limited)

        return wrapped

    consumer = Tasked()
    wire = await connected(impatient(consumer), stuck={SEND})
    deliver(layer, note("lost"))
    await becomes(lambda: timed_out == ["lost"])
    wire.stuck.clear()
    await settled()
    deliver(layer, note("arrives"))
    assert texts(wire.sent) == ["lost", "arrives"]
    assert consumer.task.cancelling() == 0
    await leave(wire)


def telling(layer, application):
    """An application that sends to its own group before it sends the first frame."""

    async def wrapped(scope, receive, send):
        async def telling_send(event):
            if event.get("text") == "first":
                await layer.group_send(GROUP, note("second"))
            await send(event)

        await application(scope, receive, telling_send)

    return wrapped


async def test_send_that_sends_to_its_own_group_is_no_knot(layer):
    """Messages of that send come after its own frame."""
    wires = [await connected(telling(layer, Forwarder())), await connected(Forwarder())]
    deliver(layer, note("first"))
    await until(lambda: texts(wires[0].sent) == ["first", "second"])
    assert sorted(texts(wires[1].sent)) == ["first", "second"]
    await leave(*wires)


async def test_sends_that_answer_one_another_are_no_knot(layer):
    """
    A frame for a connection with an unfinished send further up the stack comes after that send.
    """

    def answering(application, answers):
        async def wrapped(scope, receive, send):
            async def answering_send(event):
                answer = answers.get(event.get("text"))
                if answer is not None:
                    await layer.send(answer[0].channel_name, note(answer[1]))
                await send(event)

            await application(scope, receive, answering_send)

        return wrapped

    one, other = Forwarder(), Forwarder()
    wires = [
        await connected(answering(one, {"first": (other, "second")})),
        await connected(answering(other, {"second": (one, "third")})),
    ]
    await layer.send(one.channel_name, note("first"))
    await until(lambda: texts(wires[0].sent) == ["first", "third"])
    await until(lambda: texts(wires[1].sent) == ["second"])
    await leave(*wires)


async def test_send_that_sends_to_a_group_of_others_loses_none_of_their_frames(layer):
    """This holds even for clients that do not read, with one send begun during another delivery."""

    telling_one = await connected(telling(layer, Forwarder()))
    slow = await connected(Forwarder(), stuck={SEND})
    deliver(layer, note("first"))
    await settled()
    slow.released.set()
    await until(lambda: sorted(texts(slow.sent)) == ["first", "second"])
    await leave(telling_one, slow)


async def test_accept_of_another_task_opens_the_lane(layer):
    """The reader waits already, and an unfinished send is completed all the same."""

    class Later(Forwarder):
        async def connect(self):
            pass

    consumer = Later()
    wire = Wire(consumer)
    wire.start(CONNECT)
    await until(lambda: layer.groups)
    await settled()
    await consumer.accept()
    await settled()
    wire.stuck = {SEND}
    deliver(layer, note("a"))
    wire.released.set()
    deliver(layer, note("b"))
    await until(lambda: texts(wire.sent) == ["a", "b"])
    wire.put(text("c"))
    await until(lambda: texts(wire.sent) == ["a", "b", "c"])
    await leave(wire)


# -- a layer on another loop ----------------------------------------------------------


def test_layer_in_another_thread_forwards_through_the_mailbox(registry):
    """Eager sends happen only in the connection's thread; the order is kept."""
    sends, contents = [], [str(number) for number in range(50)]

    async def serve(layer):
        registry.register(ALIAS, layer)
        consumer = Tasked()
        around = Around(consumer)
        wire = await connected_elsewhere(around)
        for content in contents:
            await layer.group_send(GROUP, (note if int(content) % 3 else chat)(content))
        await becomes(lambda: len(texts(wire.sent)) == len(contents))
        sends.extend(texts(wire.sent))
        assert {task for task, _ in around.seen} == {consumer.task}
        await leave(wire)

    async def home():
        async with InMemoryChannelLayer() as layer:
            await asyncio.to_thread(asyncio.run, serve(layer))
            assert layer.statistics().channels == 0

    asyncio.run(home())
    assert sends == contents


async def connected_elsewhere(application) -> Wire:
    wire = Wire(application)
    wire.start(CONNECT)
    await becomes(lambda: wire.sent)
    return wire


# -- cleanup ---------------------------------------------------------------------------


async def test_joins_and_leaves_with_notes_under_way_leave_nothing(layer):
    """The fixture checks channels, groups and tasks; here no connection loses its notes."""
    choose = random.Random(7)
    wires = []
    for number in range(200):
        if len(wires) < 5 or choose.random() < 0.5:
            stuck = {SEND} if choose.random() < 0.3 else set()
            wires.append(await connected(Forwarder(), stuck=stuck))
        else:
            wire = wires.pop(choose.randrange(len(wires)))
            wire.put(LEAVE)
            wire.released.set()
            await wire.ended()
        for wire in wires:
            wire.expected = [*getattr(wire, "expected", []), str(number)]
        deliver(layer, note(str(number)))
        if choose.random() < 0.5:
            await settled()
    for wire in wires:
        wire.released.set()
    await until(lambda: all(texts(wire.sent) == wire.expected for wire in wires))
    await leave(*wires)


# -- configuration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"forwards": "note"}, "'note'; give a tuple of message types"),
        ({"forwards": 5}, "5; give a tuple of message types"),
        pytest.param({"forwards": iter(())}, "give a tuple of message types", id="iterator"),
        ({"forwards": (5,)}, "message type is 5"),
        ({"forwards": ("",)}, "every message needs a string as its type"),
        ({"forwards": (["note"],)}, r"message type is \['note'\]"),
        ({"forwards": ("_note",)}, "begins with an underscore"),
        ({"forwards": ("websocket.receive",)}, "'websocket.receive' is the library's own"),
        ({"forwards": ("close",)}, "'close' is the library's own"),
        ({"forwards": ("layer.gap",)}, "'layer.gap' is the library's own"),
        ({"forwards": ("chat.message",)}, r"chat_message\(\) is never called; remove one"),
        ({"channel_layer_alias": None, "groups": ()}, "no layer; set channel_layer_alias"),
    ],
    ids=str,
)
def test_forwards_that_cannot_work_fail_at_as_asgi(attributes, sentence):
    """The error has the class, the value and the remedy."""
    kind = type("Wrong", (Forwarder,), attributes)
    with pytest.raises(ConsumerStateError, match=f"^Wrong.forwards is .*{sentence}"):
        kind.as_asgi()


def test_forwards_of_nothing_needs_no_layer():
    """The default forwards nothing."""
    assert AsyncWebsocketConsumer.forwards == ()
    assert type("Alone", (AsyncWebsocketConsumer,), {"forwards": []}).as_asgi()


def test_encode_json_of_your_own_needs_a_forwarded_frame():
    """An overridden encode_json is async, but a frame made during a delivery cannot wait."""

    class Own(AsyncJsonWebsocketConsumer):
        channel_layer_alias = ALIAS
        forwards = ("note",)

        @classmethod
        async def encode_json(cls, content):
            return "own"

    with pytest.raises(ConsumerStateError, match=r"define forwarded_frame\(message\) as well"):
        Own.as_asgi()

    class Both(Own):
        @classmethod
        def forwarded_frame(cls, message):
            return "own"

    assert Both.as_asgi()
    assert type("None", (Own,), {"forwards": ()}).as_asgi()


async def test_own_json_frames_are_what_arrives(layer, connect):
    """Notes use neither encode_json nor send."""

    class Own(AsyncJsonWebsocketConsumer):
        channel_layer_alias = ALIAS
        groups = (GROUP,)
        forwards = ("note",)

        @classmethod
        def forwarded_frame(cls, message):
            return f"<{message['text']}>"

        async def send(self, *args, **kwargs):
            raise AssertionError("send() is not for notes")

    client = await connect(Own())
    await layer.group_send(GROUP, note("x"))
    assert await client.receive_from() == "<x>"
    await client.disconnect()
    assert await rest(client) == []
