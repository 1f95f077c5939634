"""
Bad input gets a sentence that names the value and the remedy, or a close code.

Bad input never affects another connection, and the log has no traceback if the client is at
fault.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID

import pytest

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.exceptions import (
    ConsumerStateError,
    InvalidMessage,
    InvalidName,
    LayerUnavailable,
    UnknownLayer,
)
from fast_channels.layers import (
    ChannelLayerRegistry,
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    channel_layers,
)
from fast_channels.testing import WebsocketCommunicator
from fast_channels.testing.server import free_port

ALIAS = "bad input"


class Chat(AsyncWebsocketConsumer):
    """Sends every chat message of its group to the client."""

    channel_layer_alias = ALIAS
    groups = ("room",)

    async def chat_message(self, message):
        await self.send(message["text"])


class JsonChat(AsyncJsonWebsocketConsumer, Chat):
    """Like `Chat`, and sends every JSON frame to the group."""

    async def receive_json(self, content, **kwargs):
        message = {"type": "chat.message", "text": content["text"]}
        await self.channel_layer.group_send("room", message)


@pytest.fixture
async def layer():
    async with InMemoryChannelLayer() as layer:
        channel_layers.register(ALIAS, layer)
        yield layer
        channel_layers.unregister(ALIAS)
        assert layer.statistics().channels == 0


async def connected(consumer) -> WebsocketCommunicator:
    client = WebsocketCommunicator(consumer, "/")
    assert await client.connect() == (True, None)
    return client


async def closed_with(client) -> tuple[int, str]:
    """Return code and reason of the next event, which must be a close and the last event."""
    event = await client.receive_output()
    assert event["type"] == "websocket.close"
    await client.wait()
    assert client.output_queue.empty()
    return event["code"], event["reason"]


def tracebacks(caplog) -> list:
    return [record for record in caplog.records if record.exc_info]


@pytest.fixture
async def bystander(layer):
    """Another connection in the same group, which must continue undisturbed."""
    client = await connected(Chat())
    yield client
    await layer.group_send("room", {"type": "chat.message", "text": "still here"})
    assert await client.receive_from() == "still here"
    assert client.output_queue.empty()
    await client.disconnect()


class TestFromTheClient:
    """The client is at fault: the answer is a close code, without a traceback."""

    async def test_malformed_json_closes_with_1007(self, bystander, caplog):
        """The reason says that the JSON is invalid, and why."""
        client = await connected(JsonChat())
        await client.send_to('{"text": ')
        code, reason = await closed_with(client)
        assert code == 1007
        assert reason.startswith("invalid JSON: ")
        assert not tracebacks(caplog)

    async def test_binary_frame_to_a_json_consumer_closes_with_1003(self, bystander, caplog):
        """The reason names the accepted kind of frame."""
        client = await connected(JsonChat())
        await client.send_to(bytes_data=b"\x00\x01")
        code, reason = await closed_with(client)
        assert code == 1003
        assert "only text frames with JSON" in reason
        assert not tracebacks(caplog)

    @pytest.mark.parametrize("consumer", [Chat, JsonChat])
    @pytest.mark.parametrize("kind", ["text_data", "bytes_data"])
    async def test_frame_of_2_mib_closes_with_1009(self, bystander, caplog, consumer, kind):
        """The reason names the limit."""
        client = await connected(consumer())
        size = 2 * 1024 * 1024
        await client.send_to(**{kind: "a" * size if kind == "text_data" else b"a" * size})
        code, reason = await closed_with(client)
        assert code == 1009
        assert str(consumer.max_frame_size) in reason
        assert not tracebacks(caplog)

    async def test_largest_frame_fits_into_a_message(self, layer, bystander):
        """The limits of frames and messages agree, so a client cannot make group_send fail."""

        class Forwarding(Chat):
            async def receive(self, text_data=None, bytes_data=None):
                message = {"type": "chat.message", "text": text_data}
                await self.channel_layer.group_send("room", message)

        client = await connected(Forwarding())
        frame = "a" * Forwarding.max_frame_size
        await client.send_to(frame)
        assert await client.receive_from() == frame
        assert await bystander.receive_from() == frame
        await client.disconnect()


class TestFromTheLayer:
    """A message without a handler is counted and skipped; every connection stays open."""

    @pytest.mark.parametrize("type_", ["no.such.handler", "close", "_private"])
    async def test_type_without_a_handler_is_skipped(self, layer, bystander, caplog, type_):
        """The log names the consumer and the type."""

        class Targeted(Chat):
            async def _private(self, message):
                pytest.fail("a private method was called")

        client = await connected(Targeted())
        await layer.group_send("room", {"type": type_})
        await layer.group_send("room", {"type": "chat.message", "text": "next"})
        for member in (client, bystander):
            assert await member.receive_from() == "next"
        assert layer.statistics().unknown_type == 2
        [line] = [line for line in caplog.messages if line.startswith("Targeted ")]
        assert repr(type_) in line
        assert not tracebacks(caplog)
        await client.disconnect()


class TestFromTheSender:
    """The sender gets an error for an invalid message, and no receiver gets the message."""

    @pytest.mark.parametrize(
        ("name", "what"),
        [("a room", "other characters"), ("r" * 150, "150 characters")],
        ids=["space", "150 characters"],
    )
    async def test_group_name_is_refused(self, layer, bystander, name, what):
        """The sentence has the name, the problem, and the allowed names."""
        channel = await layer.new_channel()
        for call in (
            layer.group_send(name, {"type": "chat.message"}),
            layer.group_add(name, channel),
            layer.group_discard(name, channel),
        ):
            with pytest.raises(InvalidName) as caught:
                await call
            sentence = str(caught.value)
            assert repr(name) in sentence
            assert what in sentence
            assert "use 1 to 99 ASCII letters" in sentence
        await layer.close_channel(channel)

    async def test_group_name_in_a_handler_closes_this_connection_only(
        self, layer, bystander, caplog
    ):
        """The server is at fault: the code is 1011, and the log has the place."""

        class Joining(Chat):
            async def receive(self, text_data=None, bytes_data=None):
                await self.channel_layer.group_add(text_data, self.channel_name)

        client = await connected(Joining())
        await client.send_to("a room")
        assert await closed_with(client) == (1011, "")
        [record] = tracebacks(caplog)
        assert record.exc_info[0] is InvalidName

    @pytest.mark.parametrize("message", ["text", ["type"], None, 5, b"bytes"], ids=repr)
    async def test_message_that_is_no_mapping_is_refused(self, layer, bystander, message):
        """The sentence has the message, its type, and the required type."""
        with pytest.raises(InvalidMessage) as caught:
            await layer.group_send("room", message)
        sentence = str(caught.value)
        assert repr(message) in sentence
        assert type(message).__name__ in sentence
        assert 'must be a mapping, such as {"type": "..."}' in sentence

    @pytest.mark.parametrize(
        ("message", "where"),
        [
            ({"type": "chat.message", 7: "text"}, "a key of message"),
            ({"type": "chat.message", "by": {7: "text"}}, "a key of message['by']"),
        ],
    )
    async def test_int_key_is_refused(self, layer, bystander, message, where):
        """
        The key would arrive as a string or not at all; the sentence says where, and the remedy.
        """
        with pytest.raises(InvalidMessage) as caught:
            await layer.group_send("room", message)
        assert str(caught.value).startswith(f"{where} is 7 (int)")
        assert "use str(key)" in str(caught.value)

    @pytest.mark.parametrize(
        ("value", "remedy"),
        [
            (datetime(2024, 5, 6, 7, 8, tzinfo=UTC), "value.isoformat()"),
            (UUID(int=7), "str(value)"),
        ],
        ids=["datetime", "UUID"],
    )
    async def test_value_that_would_not_arrive_as_it_is_is_refused(
        self, layer, bystander, value, remedy
    ):
        """The sentence has the path, the value, its type, and a type to send instead."""
        with pytest.raises(InvalidMessage) as caught:
            await layer.group_send("room", {"type": "chat.message", "at": [{"then": value}]})
        sentence = str(caught.value)
        assert "message['at'][0]['then']" in sentence
        assert repr(value) in sentence
        assert type(value).__name__ in sentence
        assert remedy in sentence


class TestFromTheConfiguration:
    async def test_unregistered_alias_is_named_with_the_known_ones(self, bystander):
        """The connection fails at its start, with the consumer's name."""

        class Misspelt(Chat):
            channel_layer_alias = "bad inputt"

        with pytest.raises(UnknownLayer) as caught:
            await WebsocketCommunicator(Misspelt.as_asgi(), "/").connect()
        sentence = str(caught.value)
        assert sentence.startswith("Misspelt: no channel layer is called 'bad inputt'")
        assert repr(ALIAS) in sentence
        assert "register_channel_layer('bad inputt', ...)" in sentence

    @pytest.mark.parametrize("layer_class", [RedisChannelLayer, RedisPubSubChannelLayer])
    @pytest.mark.parametrize(
        "url",
        [
            "redis://:secret@127.0.0.1:{port}/0",
            "redis://user:secret@127.0.0.1:{port}",
            "redis://127.0.0.1:{port}/0?password=secret",
        ],
        ids=["password", "user and password", "password as an option"],
    )
    async def test_redis_that_does_not_answer_is_named(self, bystander, layer_class, url):
        """Every call fails soon, with the address and without the password."""
        port = free_port()
        layer = layer_class([url.format(port=port)])
        began = time.monotonic()
        for call in (
            layer.open,
            lambda: layer.group_send("room", {"type": "chat.message"}),
            layer.open_channel,
        ):
            with pytest.raises(LayerUnavailable) as caught:
                await call()
            sentence = str(caught.value)
            assert f"127.0.0.1:{port}" in sentence
            assert "does not answer" in sentence
            assert "is the server running, and is the address right?" in sentence
            assert "secret" not in sentence
        assert time.monotonic() - began < 5
        assert "secret" not in str(layer)
        await layer.close()

    async def test_application_does_not_start_without_its_redis(self, bystander):
        """The lifespan opens every layer, and names the one that does not answer."""
        port = free_port()
        layer = RedisPubSubChannelLayer([f"redis://127.0.0.1:{port}"])
        registry = ChannelLayerRegistry()
        registry.register("away", layer)
        with pytest.raises(LayerUnavailable, match=f"127.0.0.1:{port}"):
            async with registry.lifespan():
                pytest.fail("the application started")


class TestFromTheConsumer:
    async def test_second_accept_is_named(self, bystander):
        """The sentence has the class, and the place for accept()."""

        class Twice(Chat):
            async def connect(self):
                await self.accept()
                with pytest.raises(ConsumerStateError) as caught:
                    await self.accept()
                await self.send(str(caught.value))

        client = await connected(Twice())
        sentence = await client.receive_from()
        assert sentence.startswith("Twice accepts")
        assert "call accept() once, in connect()" in sentence
        await client.disconnect()

    async def test_send_after_the_client_left_is_quiet(self, layer, bystander, caplog):
        """The frame is counted, but not logged: the client is at fault."""

        class Late(Chat):
            async def disconnect(self, code):
                await self.send("too late")

        client = await connected(Late())
        await client.disconnect()
        assert client.output_queue.empty()
        assert layer.statistics().sent_after_close == 1
        assert not caplog.records
