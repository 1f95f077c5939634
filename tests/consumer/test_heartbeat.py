"""A silent client gets a ping, and is closed if it does not answer."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, RateLimit
from fast_channels.consumer.heartbeat import MAX_LATE_SECONDS, Heartbeat
from tests.consumer.support import (
    CONNECT,
    LEAVE,
    Recorder,
    Wire,
    closes,
    drained,
    errors,
    rest,
    settled,
    text,
    until,
)

PING = {"type": "websocket.send", "text": '{"type":"ping"}'}
PONG = '{"type":"pong"}'


@pytest.fixture
async def beat(clock):
    """A heartbeat of 30 and 10 seconds that records its calls in `calls`."""
    calls = []

    async def ping():
        calls.append(("ping", clock.now - 1000))

    async def expired():
        calls.append(("expired", clock.now - 1000))

    heartbeat = Heartbeat(30, 10, ping=ping, expired=expired, unread=lambda: heartbeat.behind)
    heartbeat.behind = False
    heartbeat.calls = calls
    yield heartbeat
    await heartbeat.stop()
    assert clock.timers == []


class TestTimer:
    async def test_silence_is_asked_about_and_then_the_end(self, beat, clock):
        """The ping comes after the interval, and the end after the timeout; neither comes twice."""
        await clock.pass_(29.9)
        assert beat.calls == []
        await clock.pass_(1000)
        assert beat.calls == [("ping", 30), ("expired", 40)]

    async def test_answer_begins_a_new_interval(self, beat, clock):
        """The interval starts when the answer arrives."""
        await clock.pass_(35)
        beat.heard(clock.now)
        assert not beat.waiting
        await clock.pass_(30)
        assert beat.calls == [("ping", 30), ("ping", 65)]

    async def test_client_that_speaks_is_never_asked(self, beat, clock):
        """Frames set no timer, so there is only one at any time."""
        for _ in range(100):
            await clock.pass_(29)
            beat.heard(clock.now)
            assert len(clock.timers) == 1
        assert beat.calls == []

    async def test_frames_that_wait_for_room_are_life(self, beat, clock):
        """The server has not read them yet; the client may have answered long ago."""
        beat.behind = True
        await clock.pass_(500)
        assert beat.calls == []
        beat.behind = False
        await clock.pass_(45)
        assert [name for name, _ in beat.calls] == ["ping", "expired"]

    async def test_loop_that_was_blocked_is_no_silence_of_the_client(self, beat, clock):
        """Frames of that time have not been read yet, so the client gets the time once more."""
        await clock.pass_(30)
        assert beat.calls == [("ping", 30)]
        await clock.pass_(10, late=MAX_LATE_SECONDS + 60)
        assert beat.calls == [("ping", 30)]
        beat.heard(clock.now)
        await clock.pass_(5)
        assert beat.calls == [("ping", 30)]


@pytest.fixture(params=[AsyncWebsocketConsumer, AsyncJsonWebsocketConsumer])
def kind(request):
    """A kind of consumer that records its messages, with a heartbeat of 30 and 10 seconds."""

    class Beating(request.param):
        heartbeat_interval = 30.0

        def __init__(self):
            self.received = []
            self.codes = []
            self.gate = asyncio.Event()
            self.gate.set()

        async def receive(self, text_data=None, bytes_data=None, **kwargs):
            self.received.append(text_data)
            await self.gate.wait()

        async def disconnect(self, code):
            self.codes.append(code)

    return Beating


@pytest.fixture
async def wire(kind, clock):
    """An open connection of that kind."""
    wire = Wire(kind())
    wire.consumer = wire.application
    wire.start(CONNECT)
    await until(lambda: wire.sent)
    wire.sent.clear()
    yield wire
    wire.consumer.gate.set()
    wire.put(LEAVE)
    await until(wire.task.done)
    assert clock.timers == []


class TestConsumer:
    async def test_silent_client_is_closed_with_1011(self, wire, clock):
        """The close comes after one ping; disconnect runs once."""
        await clock.pass_(100)
        assert wire.sent[0] == PING
        assert closes(wire.sent) == [(1011, "heartbeat timeout")]
        assert len(wire.sent) == 2
        assert wire.consumer.codes == [1011]

    @pytest.mark.parametrize(
        "answer", [PONG, '{"type": "pong"}', ' { "type" :\n"pong" } '], ids=repr
    )
    async def test_answer_keeps_the_connection_and_reaches_no_handler(self, wire, clock, answer):
        """The answer may contain spaces."""
        for _ in range(5):
            await clock.pass_(31)
            wire.put(text(answer))
            await settled()
        assert wire.sent == [PING] * 5
        assert wire.consumer.received == []

    async def test_any_frame_is_an_answer(self, wire, clock):
        """The frame is handled like any other."""
        for number in range(5):
            await clock.pass_(35)
            wire.put(text(str(number)))
            await settled()
        assert closes(wire.sent) == []
        assert wire.consumer.received == list("01234")

    async def test_busy_handler_is_no_dead_peer(self, wire, clock):
        """Pings and answers pass while a handler takes ten minutes."""
        wire.consumer.gate.clear()
        wire.put(text("work"))
        await until(lambda: wire.consumer.received)
        for _ in range(20):
            await clock.pass_(30)
            wire.put(text(PONG))
            await settled()
        assert wire.sent == [PING] * 20
        assert not wire.consumer.disconnected

    async def test_dead_peer_is_closed_while_a_handler_is_busy(self, wire, clock):
        """The handler can see it, and disconnect waits for its end."""
        wire.consumer.gate.clear()
        wire.put(text("work"))
        await until(lambda: wire.consumer.received)
        await clock.pass_(45)
        assert closes(wire.sent) == [(1011, "heartbeat timeout")]
        assert wire.consumer.disconnected
        assert wire.consumer.codes == []
        wire.consumer.gate.set()
        await until(wire.task.done)
        assert wire.consumer.codes == [1011]

    async def test_ping_waits_for_a_send_that_is_under_way(self, kind, clock):
        """Servers react differently to two sends at once."""
        wire = Wire(kind())
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        wire.stuck.add("websocket.send")
        sending = asyncio.create_task(wire.application.send("large"))
        await clock.pass_(31)
        assert len(wire.sent) == 2
        wire.released.set()
        await sending
        await settled()
        assert wire.sent[-1] == PING
        wire.put(LEAVE)
        await wire.ended()
        assert clock.timers == []

    async def test_client_that_has_left_is_not_asked(self, wire, clock):
        """The client is not closed either, so its own code stays."""
        wire.consumer.gate.clear()
        wire.put(text("work"))
        await until(lambda: wire.consumer.received)
        wire.put({**LEAVE, "code": 4001})
        await until(lambda: wire.consumer.disconnected)
        await clock.pass_(100)
        wire.consumer.gate.set()
        await until(wire.task.done)
        assert wire.sent == []
        assert wire.consumer.codes == [4001]


class TestOptions:
    async def test_own_ping_and_pong(self, clock, layer):
        """The texts are configurable."""

        class Own(Recorder):
            heartbeat_interval = 30
            heartbeat_ping = "are you there?"
            heartbeat_pong = "yes I am"

        consumer = Own()
        wire = Wire(consumer)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        await clock.pass_(30)
        assert wire.sent[-1]["text"] == "are you there?"
        wire.put(text("yes I am"), text(PONG), LEAVE)
        await wire.ended()
        assert consumer.calls[1:] == [("receive", PONG), ("disconnect", 1000)]

    async def test_without_a_heartbeat_a_pong_is_a_frame_like_any_other(self, layer, connect):
        """Applications may have messages of that type."""
        consumer = Recorder()
        client = await connect(consumer)
        await client.send_to(PONG)
        assert await client.receive_from() == PONG
        await client.disconnect()

    async def test_answers_are_free_and_other_pongs_count(self, layer, clock, caplog):
        """Answers must not close a client, and pongs without a ping must not flood the server."""

        class Limited(Recorder):
            heartbeat_interval = 30
            rate_limit = RateLimit(per_second=1e-9, burst=2)

        consumer = Limited()
        wire = Wire(consumer)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        for _ in range(10):
            await clock.pass_(31)
            wire.put(text(PONG))
            await settled()
        assert closes(wire.sent) == []
        wire.put(*(text(PONG) for _ in range(5)))
        await wire.ended()
        assert closes(wire.sent) == [(1008, "too many messages")]
        assert consumer.calls == [("connect",), ("disconnect", 1008)]
        assert not errors(caplog)

    async def test_connection_that_was_closed_is_not_asked(self, layer, connect):
        """No event follows the close frame."""

        class Brief(Recorder):
            heartbeat_interval = 0.01

            async def connect(self):
                await self.accept()
                await self.close()

            async def disconnect(self, code):
                await super().disconnect(code)
                await asyncio.sleep(0.05)

        client = await connect(Brief())
        assert closes(await rest(client)) == [(1000, "")]
        assert drained(client.output_queue) == []
