"""Each connection has one end and one line in the log, no matter which error occurs."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    RateLimit,
    ws_state,
)
from fast_channels.layers import channel_layers
from fast_channels.testing import ApplicationCommunicator
from tests.consumer.support import (
    ALIAS,
    CONNECT,
    LEAVE,
    Recorder,
    Wire,
    closes,
    errors,
    settled,
    text,
    until,
)

SCOPE = {"type": "websocket", "path": "/chat", "client": ("10.0.0.7", 4711), "headers": []}
# Clients may send tokens in the query string.
SCOPE |= {"query_string": b"token=secret"}


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "fast_channels.consumer")
    monkeypatch.setattr(ws_state, "CLOSE_FRAME_TIMEOUT_SECONDS", 0.05)


def endings(caplog) -> list[logging.LogRecord]:
    """Return the log's lines about ended connections."""
    return [record for record in caplog.records if " closed: " in record.getMessage()]


class Line(Recorder):
    """Does the action that a frame names."""

    async def receive(self, text_data=None, bytes_data=None):
        match text_data:
            case "close":
                await self.close(4000, 'a "quoted"\nreason')
            case "fail":
                raise ZeroDivisionError
            case "send":
                await self.send("hello")
            case "wait":
                await asyncio.sleep(3600)


class TestLine:
    @pytest.mark.parametrize(
        ("options", "events", "level", "expected"),
        [
            ({}, [{**LEAVE, "reason": "bye"}], "INFO", "code=1000 reason='bye' by=client"),
            ({}, [{**LEAVE, "code": None}], "INFO", "code=1005 reason='' by=client"),
            ({}, [{**LEAVE, "code": 1012}], "INFO", "code=1012 reason='' by=server"),
            (
                {},
                [text("close")],
                "INFO",
                "code=4000 reason='a \"quoted\"\\nreason' by=consumer",
            ),
            ({}, [text("fail")], "INFO", "code=1011 reason='' by=error"),
            (
                {"max_frame_size": 3},
                [text("long")],
                "WARNING",
                "code=1009 reason='a frame may have 3 bytes' by=max_frame_size",
            ),
            (
                {"rate_limit": RateLimit(1e-9, 1)},
                [text("1"), text("2")],
                "WARNING",
                "code=1008 reason='too many messages' by=rate_limit",
            ),
            (
                {"send_timeout": 0.05},
                [text("send")],
                "WARNING",
                "code=1013 reason='slow' by=send_timeout",
            ),
            (
                {"heartbeat_interval": 0.03, "heartbeat_timeout": 0.03},
                [],
                "WARNING",
                "code=1011 reason='heartbeat timeout' by=heartbeat_timeout",
            ),
        ],
    )
    async def test_line_says_who_ended_what_and_why(
        self, layer, caplog, options, events, level, expected
    ):
        """
        The line has level, client, path, code, reason, initiator and duration, but no query
        string.
        """
        consumer = type("Chat", (Line,), options)()
        wire = Wire(consumer, SCOPE)
        if "send_timeout" in options:
            wire.stuck.add("websocket.send")
        wire.start(CONNECT, *events)
        await wire.ended()
        [record] = endings(caplog)
        assert record.name == "fast_channels.consumer"
        assert record.levelname == level
        start = "Chat closed: client=10.0.0.7:4711 path='/chat' "
        assert re.fullmatch(re.escape(start + expected) + r" after=\d+\.\d{3}s", record.message)
        assert "secret" not in caplog.text
        # Only the failed handler has a traceback.
        assert len(errors(caplog)) == (1 if "by=error" in expected else 0)
        assert len(caplog.records) == 1 + len(errors(caplog))

    async def test_overflow_is_a_warning(self, closing_layer, caplog):
        """The client gets the reason `slow`, and the log names the limit."""
        wire = Wire(Line(), SCOPE)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        wire.stuck.add("websocket.send")
        for number in range(9):
            await closing_layer.group_send("room", {"type": "chat.message", "text": str(number)})
        wire.released.set()
        await wire.ended()
        [record] = endings(caplog)
        assert record.levelname == "WARNING"
        assert "code=1013 reason='slow' by=overflow" in record.message

    async def test_layer_that_is_flushed_is_named(self, layer, caplog):
        """The client is not at fault."""
        wire = Wire(Line(), SCOPE)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        await layer.flush()
        await wire.ended()
        [record] = endings(caplog)
        assert "code=1012 reason='messages may have been lost' by=layer" in record.message

    async def test_cancellation_is_the_servers(self, layer, caplog):
        """Servers end an application by cancelling it."""
        wire = Wire(Line(), SCOPE)
        wire.start(CONNECT, text("wait"))
        await until(lambda: wire.received == 2)
        await settled()
        wire.task.cancel()
        await wire.ended()
        [record] = endings(caplog)
        assert "code=1001 reason='' by=server" in record.message

    async def test_one_connection_too_many_is_a_warning(self, caplog, connect):
        """The first connection is not logged before its end."""

        class Single(AsyncWebsocketConsumer):
            max_connections = 1

        first = await connect(Single())
        second = await connect(Single())
        await second.wait()
        [record] = endings(caplog)
        assert record.levelname == "WARNING"
        assert "reason='too many connections' by=max_connections" in record.message
        await first.disconnect()
        assert len(endings(caplog)) == 2

    async def test_rejection_is_told_apart(self, caplog):
        """The line says that the connection was rejected, not closed."""

        class Rejecting(AsyncWebsocketConsumer):
            async def connect(self):
                await self.close()

        wire = Wire(Rejecting(), {"type": "websocket"})
        wire.start(CONNECT)
        await wire.ended()
        [record] = endings(caplog)
        assert "client=unknown path=None code=1000 reason='' by=rejection" in record.message

    async def test_disconnect_that_fails_is_logged_beside_the_line(self, layer, caplog):
        """The log has two lines, one for each fact."""

        class Failing(Line):
            async def disconnect(self, code):
                raise ZeroDivisionError

        wire = Wire(Failing(), SCOPE)
        wire.start(CONNECT, LEAVE)
        await wire.ended()
        assert len(endings(caplog)) == len(errors(caplog)) == 1

    async def test_http_is_quiet_unless_a_limit_ends_it(self, layer, caplog):
        """The server's own log has a line for every request."""

        class Stream(AsyncHttpConsumer):
            send_timeout = 0.05

            async def handle(self, body):
                await self.send_headers()
                await self.send_body(b"piece", more_body=True)

        for stuck, level in ((set(), "DEBUG"), ({"http.response.body"}, "WARNING")):
            caplog.clear()
            wire = Wire(Stream(), {**SCOPE, "type": "http"})
            wire.stuck = stuck
            wire.start({"type": "http.request"})
            await until(lambda wire=wire: len(wire.sent) == 2)
            if not stuck:
                wire.put({"type": "http.disconnect"})
            await wire.ended()
            [record] = endings(caplog)
            assert record.levelname == level


class TestSlowClient:
    @pytest.mark.parametrize("base", [AsyncWebsocketConsumer, AsyncJsonWebsocketConsumer])
    async def test_stuck_send_ends_the_consumer(self, layer, caplog, base):
        """The handler continues; its later frames are dropped and counted; disconnect runs once."""
        codes, went_on = [], []

        class Slow(base):
            channel_layer_alias = ALIAS
            send_timeout = 0.05

            async def receive(self, text_data=None, bytes_data=None):
                await self.send("stuck")
                went_on.append(self.disconnected)
                await self.send("quiet")

            async def disconnect(self, code):
                codes.append(code)

        wire = Wire(Slow())
        wire.stuck |= {"websocket.send", "websocket.close"}
        wire.start(CONNECT, text("go"), text("not handled"))
        await wire.ended()
        assert codes == [1013]
        assert went_on == [True]
        assert closes(wire.sent) == [(1013, "slow")]
        assert layer.statistics().sent_after_close == 2
        assert not errors(caplog)

    async def test_stuck_send_of_another_task_ends_the_consumer(self, layer):
        """The loop is idle, and the library does not cancel the task."""
        consumer = type("Slow", (Recorder,), {"send_timeout": 0.05})()
        wire = Wire(consumer)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        wire.stuck.add("websocket.send")
        other = asyncio.create_task(consumer.send("stuck"))
        await wire.ended()
        await other
        assert closes(wire.sent) == [(1013, "slow")]
        assert consumer.disconnects == [1013]

    async def test_close_by_another_task_is_sent_before_the_application_ends(
        self, layer, monkeypatch
    ):
        """A server whose application has returned would send another code."""
        monkeypatch.setattr(ws_state, "CLOSE_FRAME_TIMEOUT_SECONDS", 60)
        consumer = Recorder()
        wire = Wire(consumer)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        wire.stuck.add("websocket.close")
        closing = asyncio.create_task(consumer.close(4000))
        await until(lambda: closes(wire.sent))
        await settled()
        assert not wire.task.done()
        wire.released.set()
        await wire.ended()
        await closing
        assert consumer.disconnects == [4000]

    async def test_handler_that_never_looks_does_not_hold_up_the_loop(self, layer):
        """A dropped frame still lets other tasks run."""

        class Endless(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                self.calls.append(("receive", text_data))
                await wire.released.wait()
                while True:
                    await self.send("more")

        wire = Wire(Endless())
        wire.start(CONNECT, text("go"))
        await until(lambda: len(wire.application.calls) == 2)
        wire.put(LEAVE)
        await until(lambda: wire.application.disconnected)
        wire.released.set()
        await until(lambda: layer.statistics().sent_after_close > 10)
        wire.task.cancel()
        await wire.ended()
        assert wire.application.disconnects == [1001]

    async def test_server_that_has_closed_on_its_own_ends_the_consumer(self, layer, caplog):
        """
        uvicorn raises RuntimeError; the log has no traceback, and the line has the error's
        text.
        """
        consumer = Recorder()
        wire = Wire(consumer)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        wire.failure = RuntimeError("Unexpected ASGI message 'websocket.send'")
        wire.put(text("hello"))
        await wire.ended()
        assert consumer.disconnects == [1006]
        assert layer.statistics().sent_after_close == 1
        [record] = endings(caplog)
        assert "Unexpected ASGI message" in record.message
        assert not errors(caplog)

    @pytest.mark.parametrize("by", ["close()", "a drain", "its layer"])
    async def test_server_that_has_closed_on_its_own_may_refuse_the_close_frame(
        self, layer, caplog, by
    ):
        """The log has no traceback, because uvicorn refuses it like any other event."""

        class Closing(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.close(4000)

        consumer = Closing()
        wire = Wire(consumer)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        wire.failure = RuntimeError("Unexpected ASGI message 'websocket.close'")
        if by == "close()":
            wire.put(text("hello"))
        elif by == "a drain":
            await channel_layers.connections.drain(5, 0)
        else:
            await layer.flush()
        await wire.ended()
        assert consumer.disconnects == [4000 if by == "close()" else 1012]
        assert not errors(caplog)
        assert wire.task.exception() is None

    async def test_stuck_stream_ends_the_request(self, layer):
        """The response to an HTTP client that does not read is broken off without an end."""
        left = []

        class Stream(AsyncHttpConsumer):
            send_timeout = 0.05

            async def handle(self, body):
                await self.send_headers()
                while not self.disconnected:
                    await self.send_body(b"piece", more_body=True)

            async def disconnect(self):
                left.append(True)

        wire = Wire(Stream(), {"type": "http"})
        wire.stuck.add("http.response.body")
        wire.start({"type": "http.request"})
        await wire.ended()
        assert left == [True]
        assert len(wire.sent) == 2

    async def test_stuck_send_of_a_plain_consumer_ends_it(self):
        """The consumer ends, because it has no close frame."""

        class Plain(AsyncConsumer):
            send_timeout = 0.05

            async def test_ping(self, message):
                await self.send({"type": "test.pong"})

        wire = Wire(Plain(), {"type": "test"})
        wire.stuck.add("test.pong")
        wire.start({"type": "test.ping"})
        await wire.ended()
        assert wire.task.exception() is None


KINDS = {
    "websocket": (AsyncWebsocketConsumer, None),
    "websocket with a layer": (AsyncWebsocketConsumer, ALIAS),
    "json": (AsyncJsonWebsocketConsumer, None),
    "json with a layer": (AsyncJsonWebsocketConsumer, ALIAS),
}


class Raising:
    """Raises at the place `where` of the connection at the other end of `wire`."""

    where = ""
    wire: Wire

    def __init__(self) -> None:
        # The argument of disconnect().
        self.codes: list[int] = []

    async def connect(self):
        await self.accept()
        self.fail_at("connect")

    async def receive(self, text_data=None, bytes_data=None, **kwargs):
        self.fail_at("handler")
        self.fail_at("on_error")
        if self.where == "send":
            self.wire.failure = LookupError("broken")
        elif self.where == "cancelled":
            asyncio.current_task().cancel()
        elif self.where == "close frame":
            self.wire.failure = ValueError("broken")
            await self.close()
        await self.send("hello")
        await asyncio.sleep(0)
        await self.close()

    async def on_error(self, exc, message):
        # The server works again, so that later events can be observed.
        self.wire.failure = None
        self.fail_at("on_error")

    async def disconnect(self, code):
        self.codes.append(code)
        self.fail_at("disconnect")

    def fail_at(self, place):
        if self.where == place:
            raise ZeroDivisionError(place)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beats", [None, 5.0], ids=["", "heartbeat"])
@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("connect", 1011),
        ("handler", 1011),
        ("send", 1011),
        ("on_error", 1011),
        ("cancelled", 1001),
        ("disconnect", 1000),
        # A server that has refused the close frame gets no second one.
        ("close frame", None),
    ],
)
async def test_whatever_raises_there_is_one_end(layer, caplog, kind, beats, where, code):
    """One disconnect, one close frame, one line; no task and no channel is left."""
    base, alias = KINDS[kind]
    options = {"where": where, "channel_layer_alias": alias, "heartbeat_interval": beats}
    tasks = asyncio.all_tasks()
    consumer = type("Raises", (Raising, base), options)()
    wire = consumer.wire = Wire(consumer)
    wire.start(CONNECT, text("hello"), text("again"))
    await asyncio.wait([wire.task], timeout=5)
    assert consumer.codes == [code or 1000]
    assert closes(wire.sent) == ([] if code is None else [(code, "")])
    assert len(endings(caplog)) == 1
    assert wire.task.cancelled() == (where == "cancelled")
    await until(lambda: asyncio.all_tasks() - tasks <= {asyncio.current_task()})
    assert layer.statistics().channels == 0


@pytest.mark.parametrize("where", ["handle", "send", "cancelled", "disconnect"])
async def test_whatever_raises_a_request_has_one_end(layer, caplog, where):
    """One disconnect, one response at most, one line; no task and no channel is left."""
    calls = []

    class Raising(AsyncHttpConsumer):
        channel_layer_alias = ALIAS

        async def handle(self, body):
            if where == "handle":
                raise ZeroDivisionError
            if where == "cancelled":
                asyncio.current_task().cancel()
            await self.send_headers()
            if where == "send":
                wire.failure = LookupError("broken")
            await self.send_body(b"all")
            await asyncio.sleep(0)

        async def disconnect(self):
            calls.append("disconnect")
            if where == "disconnect":
                raise ZeroDivisionError

    wire = Wire(Raising(), {"type": "http"})
    wire.start({"type": "http.request"})
    await asyncio.wait([wire.task], timeout=5)
    assert calls == ["disconnect"]
    starts = [event for event in wire.sent if event["type"] == "http.response.start"]
    assert len(starts) <= 1
    assert len(endings(caplog)) == 1
    assert layer.statistics().channels == 0


async def test_a_plain_consumer_has_one_end(caplog):
    """The line has the level DEBUG."""

    class Plain(AsyncConsumer):
        async def test_ping(self, message):
            raise ZeroDivisionError

    communicator = ApplicationCommunicator(Plain.as_asgi(), {"type": "test"})
    await communicator.send_input({"type": "test.ping"})
    await communicator.wait()
    [record] = endings(caplog)
    assert (record.levelname, len(errors(caplog))) == ("DEBUG", 1)
    assert "by=error" in record.message
