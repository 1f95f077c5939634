"""Each kind of connection has a defined end when its process stops."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.consumer import AsyncConsumer, AsyncHttpConsumer
from fast_channels.layers import channel_layers
from fast_channels.testing import ApplicationCommunicator, HttpCommunicator
from tests.consumer.support import (
    ALIAS,
    CONNECT,
    Recorder,
    Wire,
    closes,
    errors,
    rest,
    settled,
    text,
    until,
)

RESTART = (1012, "restarting")


def begin_drain(timeout=5.0):
    """Begin a drain as a signal does."""
    return asyncio.create_task(channel_layers.connections.drain(timeout, 0))


async def test_idle_websocket_is_closed_with_1012(layer, connect):
    """disconnect() runs once with that code, and the groups are left."""
    consumer = Recorder()
    client = await connect(consumer)
    await begin_drain()
    assert closes(await rest(client)) == [RESTART]
    assert consumer.disconnects == [1012]
    assert layer.groups == {}


async def test_running_handler_ends_before_the_connection_is_closed(layer, connect):
    """The frames of the handler arrive; messages behind it are not handled."""
    released = asyncio.Event()

    class Busy(Recorder):
        async def receive(self, text_data=None, bytes_data=None):
            self.calls.append(("receive", text_data))
            await released.wait()
            await self.send(text_data)

    consumer = Busy()
    client = await connect(consumer)
    await client.send_to(text_data="first")
    await client.send_to(text_data="second")
    await until(lambda: ("receive", "first") in consumer.calls)
    draining = begin_drain()
    await settled()
    assert client.output_queue.empty()
    released.set()
    await draining
    sent, *others = await rest(client)
    assert sent["text"] == "first"
    assert closes(others) == [RESTART]
    assert consumer.calls == [("connect",), ("receive", "first"), ("disconnect", 1012)]


async def test_new_websocket_is_accepted_and_closed(layer):
    """The socket has no connect() and no channel; a browser sees 1012 and not 1006."""
    await begin_drain()
    consumer = Recorder()
    wire = Wire(consumer)
    await wire.start(CONNECT)
    assert [event["type"] for event in wire.sent] == ["websocket.accept", "websocket.close"]
    assert closes(wire.sent) == [RESTART]
    assert consumer.calls == []
    assert not hasattr(consumer, "channel_name")


async def test_new_websocket_that_leaves_at_once_is_no_error(layer, caplog):
    """The server refuses the event that the consumer sends."""
    await begin_drain()
    wire = Wire(Recorder())
    wire.failure = OSError("the client is gone")
    await wire.start(CONNECT)
    assert wire.sent == []
    assert errors(caplog) == []


async def test_websocket_whose_channel_is_being_opened_is_refused(fragile_layer):
    """connect() does not begin any more."""
    fragile_layer.opening.clear()
    consumer = Recorder()
    wire = Wire(consumer)
    wire.start(CONNECT)
    await settled()
    draining = begin_drain()
    await settled()
    fragile_layer.opening.set()
    await draining
    await wire.ended()
    assert closes(wire.sent) == [RESTART]
    assert consumer.calls == []


@pytest.mark.parametrize("type_", ["websocket", "http"])
async def test_client_whose_channel_cannot_be_opened_is_told(fragile_layer, type_):
    """The broker stays away for longer than the drain, and the server gets an answer."""
    fragile_layer.opening.clear()
    consumer, event = Recorder(), CONNECT
    if type_ == "http":
        consumer, event = Streaming(), {"type": "http.request", "body": b""}
    wire = Wire(consumer, {"type": type_, "path": "/", "headers": []})
    wire.start(event)
    await settled()
    await begin_drain(0.05)
    await wire.task
    if type_ == "http":
        assert wire.sent[0]["status"] == 503
    else:
        assert closes(wire.sent) == [RESTART]
    assert consumer.calls == []
    # The broker is back, too late for this client.
    fragile_layer.opening.set()


async def test_handler_that_hangs_is_cancelled(layer, caplog):
    """The client sees 1012, disconnect() runs, and the server sees no error."""

    class Hanging(Recorder):
        async def receive(self, text_data=None, bytes_data=None):
            self.calls.append(("receive", text_data))
            await asyncio.Event().wait()

    consumer = Hanging()
    wire = Wire(consumer)
    task = wire.start(CONNECT, text("hang"))
    await until(lambda: ("receive", "hang") in consumer.calls)
    await begin_drain(0.05)
    await task
    assert closes(wire.sent) == [(1012, "")]
    assert consumer.disconnects == [1012]
    assert errors(caplog) == []


async def test_disconnect_that_hangs_is_cancelled(layer):
    """The close frame is sent before; the channel is closed and the groups are left."""

    class Hanging(Recorder):
        async def disconnect(self, code):
            await super().disconnect(code)
            await asyncio.Event().wait()

    consumer = Hanging()
    wire = Wire(consumer)
    task = wire.start(CONNECT)
    await until(lambda: consumer.calls)
    await begin_drain(1.0)
    await task
    assert closes(wire.sent) == [RESTART]
    assert consumer.disconnects == [1012]
    assert layer.groups == {}
    assert layer.statistics().channels == 0


async def test_handler_and_disconnect_that_both_hang_are_cancelled(layer):
    """One is cancelled after the other."""

    class Hanging(Recorder):
        async def receive(self, text_data=None, bytes_data=None):
            self.calls.append(("receive", text_data))
            await asyncio.Event().wait()

        async def disconnect(self, code):
            await super().disconnect(code)
            await asyncio.Event().wait()

    consumer = Hanging()
    wire = Wire(consumer)
    task = wire.start(CONNECT, text("hang"))
    await until(lambda: ("receive", "hang") in consumer.calls)
    await begin_drain(0.05)
    await task
    assert consumer.disconnects == [1012]
    assert layer.statistics().channels == 0


async def test_websocket_that_was_never_accepted_is_rejected(layer):
    """connect() has begun, so disconnect() runs."""

    class Undecided(Recorder):
        async def connect(self):
            self.calls.append(("connect",))

    consumer = Undecided()
    wire = Wire(consumer)
    task = wire.start(CONNECT)
    await until(lambda: consumer.calls)
    await begin_drain()
    await task
    assert [event["type"] for event in wire.sent] == ["websocket.close"]
    assert consumer.disconnects == [1012]


class Streaming(AsyncHttpConsumer):
    """Begins a response that messages continue."""

    channel_layer_alias = ALIAS

    def __init__(self):
        self.calls = []

    async def handle(self, body):
        self.calls.append("handle")
        await self.send_headers()
        await self.send_body(b"begin", more_body=True)

    async def disconnect(self):
        self.calls.append("disconnect")


async def test_stream_is_completed(layer):
    """The client sees a complete response, as if the consumer had ended it."""
    consumer = Streaming()
    http = HttpCommunicator(consumer, "/")
    await http.send_request()
    await until(lambda: http.output_queue.qsize() == 2)
    await begin_drain()
    assert [event.get("more_body") for event in await rest(http)] == [None, True, False]
    assert consumer.calls == ["handle", "disconnect"]


@pytest.mark.parametrize("when", ["before the drain", "during the drain"])
async def test_request_that_is_not_handled_yet_is_answered_with_503(layer, when):
    """Another process can handle it, or this one after its restart."""
    consumer = Streaming()
    wire = Wire(consumer, {"type": "http", "method": "POST", "path": "/", "headers": []})
    if when == "before the drain":
        wire.start({"type": "http.request", "body": b"half", "more_body": True})
        await until(lambda: wire.received == 1)
        await settled()
        await begin_drain()
    else:
        await begin_drain()
        wire.start({"type": "http.request", "body": b"whole"})
    await wire.task
    assert wire.sent[0]["status"] == 503
    assert (b"retry-after", b"1") in wire.sent[0]["headers"]
    assert consumer.calls == []


async def test_consumer_of_any_other_kind_ends():
    """The library knows no answer for such a client."""

    class Plain(AsyncConsumer):
        async def mail_arrived(self, event):
            """Handle an event."""

    client = ApplicationCommunicator(Plain(), {"type": "mail"})
    await client.send_input({"type": "mail.arrived"})
    await settled()
    assert not client.future.done()
    await begin_drain()
    assert await rest(client) == []
