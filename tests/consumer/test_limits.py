"""Limits on the frames of a client, and on the number of connections."""

from __future__ import annotations

import asyncio
import re

import pytest

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    RateLimit,
)
from fast_channels.consumer.limits import TokenBucket
from fast_channels.exceptions import ConsumerStateError
from fast_channels.testing import WebsocketCommunicator
from tests.consumer.support import (
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

NEVER = 1e-9


class TestOptions:
    @pytest.mark.parametrize(
        ("kind", "option", "value"),
        [
            (AsyncConsumer, "send_timeout", 0),
            (AsyncHttpConsumer, "send_timeout", -1.0),
            (AsyncWebsocketConsumer, "send_timeout", "20"),
            (AsyncWebsocketConsumer, "send_timeout", True),
            (AsyncWebsocketConsumer, "max_frame_size", 0),
            (AsyncWebsocketConsumer, "max_frame_size", 1.5),
            (AsyncWebsocketConsumer, "max_connections", 0),
            (AsyncWebsocketConsumer, "max_connections", "many"),
            (AsyncWebsocketConsumer, "heartbeat_interval", 0),
            (AsyncWebsocketConsumer, "heartbeat_timeout", -1),
            (AsyncWebsocketConsumer, "heartbeat_timeout", None),
            (AsyncWebsocketConsumer, "heartbeat_ping", b"ping"),
            (AsyncWebsocketConsumer, "heartbeat_pong", " "),
            (AsyncWebsocketConsumer, "rate_limit", 10),
            (AsyncWebsocketConsumer, "rate_limit", (10, 20)),
        ],
    )
    def test_value_that_makes_no_sense_raises_at_the_start(self, kind, option, value):
        """The sentence has the class, the option, the value and the allowed values."""
        consumer_class = type("Wrong", (kind,), {option: value})
        with pytest.raises(ConsumerStateError) as caught:
            consumer_class.as_asgi()
        assert re.match(rf"Wrong\.{option} is {re.escape(repr(value))}; give ", str(caught.value))

    def test_no_limit_is_a_value(self):
        """Options without a necessary limit accept None."""
        options = ("send_timeout", "max_frame_size", "max_connections", "rate_limit")
        type("Open", (AsyncWebsocketConsumer,), dict.fromkeys(options)).as_asgi()

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"per_second": 0, "burst": 1}, "per_second is 0"),
            ({"per_second": "1", "burst": 1}, "per_second is '1'"),
            ({"per_second": 1, "burst": 0}, "burst is 0"),
            ({"per_second": 1, "burst": 2.5}, "burst is 2.5"),
            ({"per_second": 1, "burst": 1, "action": "ignore"}, "action is 'ignore'"),
        ],
    )
    def test_rate_limit_that_makes_no_sense_raises(self, arguments, named):
        """The error comes from the constructor."""
        with pytest.raises(ConsumerStateError, match=re.escape(named)):
            RateLimit(**arguments)


class TestTokenBucket:
    def test_burst_is_free_and_refills_at_its_rate(self):
        """Tokens never exceed the burst, even after a long silence."""
        bucket = TokenBucket(RateLimit(per_second=2, burst=3), now=100.0)
        assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
        assert [bucket.take(100.4), bucket.take(100.5)] == [False, True]
        assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


class TestRateLimit:
    async def test_frame_too_many_closes_with_1008_after_those_before_it(self, layer, caplog):
        """Frames within the limit are handled; later frames are not even kept."""

        class Limited(Recorder):
            rate_limit = RateLimit(per_second=NEVER, burst=3)

        consumer = Limited()
        wire = Wire(consumer)
        wire.start(CONNECT, *(text(str(number)) for number in range(10)))
        await wire.ended()
        assert closes(wire.sent) == [(1008, "too many messages")]
        handled = [("receive", "0"), ("receive", "1"), ("receive", "2")]
        assert consumer.calls == [("connect",), *handled, ("disconnect", 1008)]
        assert not errors(caplog)

    async def test_json_is_not_parsed_beyond_the_limit(self, layer):
        """Parsing is expensive, and such a client wants to cause it."""
        parsed = []

        class Limited(AsyncJsonWebsocketConsumer):
            rate_limit = RateLimit(per_second=NEVER, burst=1)

            @classmethod
            async def decode_json(cls, text_data):
                parsed.append(text_data)

        wire = Wire(Limited())
        wire.start(CONNECT, text("1"), text("2"), text("3"))
        await wire.ended()
        assert parsed == ["1"]

    async def test_dropped_frames_are_counted_and_logged_once(self, layer, connect, caplog):
        """The connection stays open, and messages of the layer still arrive."""

        class Limited(Recorder):
            rate_limit = RateLimit(per_second=NEVER, burst=2, action="drop")

        consumer = Limited()
        client = await connect(consumer)
        for number in range(10):
            await client.send_to(str(number))
        await until(lambda: layer.statistics().frames_dropped == 8)
        assert [await client.receive_from() for _ in range(2)] == ["0", "1"]
        await layer.group_send("room", {"type": "chat.message", "text": "still here"})
        assert await client.receive_from() == "still here"
        await client.disconnect()
        [record] = caplog.records
        assert record.levelname == "WARNING"
        assert "RateLimit(" in record.message

    async def test_frames_behind_the_one_that_closes_are_not_said_to_be_dropped(
        self, layer, caplog
    ):
        """Later frames are lost with the connection, and the log has one line about it."""

        class Limited(Recorder):
            rate_limit = RateLimit(per_second=NEVER, burst=1)

        caplog.set_level("INFO")
        wire = Wire(Limited())
        wire.start(CONNECT, *map(text, "123456789"))
        await wire.ended()
        assert layer.statistics().frames_dropped > 0
        [record] = caplog.records
        assert "by=rate_limit" in record.message

    async def test_leaving_is_noticed_behind_a_frame_too_many(self, layer):
        """A busy handler sees that the client left, although frames are discarded by then."""

        class Busy(Recorder):
            rate_limit = RateLimit(per_second=NEVER, burst=1)

            async def receive(self, text_data=None, bytes_data=None):
                await wire.released.wait()

        consumer = Busy()
        wire = Wire(consumer)
        wire.start(CONNECT, *(text("x") for _ in range(500)), LEAVE)
        await until(lambda: consumer.disconnected)
        wire.released.set()
        await wire.ended()
        assert closes(wire.sent) == []
        assert consumer.disconnects == [1008]


class TestMaxConnections:
    async def test_one_too_many_is_accepted_and_closed_with_1013(self, layer, connect):
        """Neither connect nor disconnect runs for it, and it joins no group."""

        class Few(Recorder):
            max_connections = 2

        first, second, third = Few(), Few(), Few()
        clients = [await connect(first), await connect(second)]
        members = layer.statistics().members
        refused = await connect(third)
        assert closes(await rest(refused)) == [(1013, "too many connections")]
        assert third.calls == []
        assert layer.statistics().members == members
        for client in clients:
            await client.disconnect()

    @pytest.mark.parametrize("how", ["leaves", "closes", "fails", "is rejected", "is cancelled"])
    async def test_place_is_free_again(self, layer, connect, how):
        """The reason for the end does not matter."""

        class Single(Recorder):
            max_connections = 1

            async def connect(self):
                if how == "is rejected" and not self.calls:
                    await self.close()
                else:
                    await super().connect()

            async def receive(self, text_data=None, bytes_data=None):
                if how == "fails":
                    raise ZeroDivisionError
                await self.close()

        client = WebsocketCommunicator(Single(), "/")
        await client.connect()
        if how == "leaves":
            await client.send_input(LEAVE)
        elif how == "is cancelled":
            client.future.cancel()
        elif how != "is rejected":
            await client.send_to("hello")
        await rest(client)
        how = "stays"
        consumer = Single()
        again = await connect(consumer)
        await again.disconnect()
        assert await rest(again) == []
        assert consumer.disconnects == [1000]

    async def test_subclass_counts_for_itself(self, connect):
        """A class that is mounted under two names has two counts."""

        class Single(AsyncWebsocketConsumer):
            max_connections = 1

        class Other(Single):
            pass

        clients = [await connect(Single()), await connect(Other())]
        await settled()
        for client in clients:
            assert client.output_queue.empty()
            await client.disconnect()

    async def test_refusal_chooses_a_subprotocol_that_was_offered(self, connect):
        """
        A browser that offered sub-protocols drops a connection without one, and hides the code.
        """

        class Full(AsyncWebsocketConsumer):
            max_connections = 1

        first = await connect(Full())
        second = WebsocketCommunicator(Full(), "/", subprotocols=["chat", "news"])
        assert await second.connect() == (True, "chat")
        assert closes(await rest(second)) == [(1013, "too many connections")]
        await first.disconnect()


class TestMemory:
    async def test_large_frames_wait_in_the_socket(self, layer):
        """
        Frames of 1 MB are read ahead one at a time and not 64, plus the one that the pump
        holds.
        """

        class Busy(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await wire.released.wait()

        consumer = Busy()
        wire = Wire(consumer)
        frame = {"type": "websocket.receive", "bytes": bytes(1_000_000)}
        wire.start(CONNECT, *(frame for _ in range(20)))
        await until(lambda: wire.received >= 4)
        await settled()
        # connect, the frame in its handler, the waiting frame, and the frame in the pump
        assert wire.received == 4
        wire.task.cancel()
        await asyncio.wait([wire.task])
