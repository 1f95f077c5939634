"""Behavior that working code relies on: consumers as applications, and layers on their own."""

from __future__ import annotations

import asyncio
import importlib
import random
import uuid

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.consumer.base import AsyncConsumer, get_handler_name
from fast_channels.exceptions import AcceptConnection, ChannelFull, DenyConnection, StopConsumer
from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.testing import ApplicationCommunicator, WebsocketCommunicator

# Seconds until a test gives up on a message.
PATIENCE = 15.0


class EchoConsumer(AsyncWebsocketConsumer):
    """Sends every frame back."""

    def __init__(self, greeting="hello"):
        self.greeting = greeting

    async def connect(self):
        await self.accept()
        await self.send(self.greeting)

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data, bytes_data=bytes_data)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("base", "AsyncConsumer get_handler_name get_channel_layer await_many_dispatch"),
        ("websocket", "AsyncConsumer StopConsumer WebSocketDisconnectEvent"),
        ("http", "AsyncConsumer StopConsumer HttpRequestEvent"),
    ],
)
def test_names_import_from_the_modules_where_1_1_had_them(module, names):
    """Existing code imports more from a module of consumers than its own classes."""
    found = importlib.import_module(f"fast_channels.consumer.{module}")
    assert [name for name in names.split() if not hasattr(found, name)] == []


class TestHandlerName:
    @pytest.mark.parametrize(
        ("type_", "name"),
        [("chat.message", "chat_message"), ("http.response.start", "http_response_start")],
    )
    def test_dots_become_underscores(self, type_, name):
        """A message type names the method of its handler."""
        assert get_handler_name({"type": type_}) == name

    @pytest.mark.parametrize(
        "message",
        [{}, {"text": "hello"}, {"type": "_private"}, {"type": ".private"}, {"type": ""}],
        ids=str,
    )
    def test_message_without_a_usable_type_is_a_value_error(self, message):
        """A missing type, or a type that would name a private method, has no handler."""
        with pytest.raises(ValueError, match="message type"):
            get_handler_name(message)


class TestApplication:
    def test_as_asgi_is_an_object_that_shows_its_consumer(self):
        """Routers that treat functions specially see an object, named like the class."""
        application = EchoConsumer.as_asgi(greeting="good morning")
        assert type(application).__name__ != "function"
        assert callable(application)
        assert application.consumer_class is EchoConsumer
        assert application.consumer_initkwargs == {"greeting": "good morning"}
        assert application.__name__ == application.__qualname__ == "EchoConsumer"
        assert application.__doc__ == "Sends every frame back."

    async def test_initkwargs_reach_every_consumer(self):
        """Each connection's consumer gets the arguments of as_asgi."""
        application = EchoConsumer.as_asgi(greeting="good morning")
        for _ in range(2):
            client = WebsocketCommunicator(application, "/")
            await client.connect()
            assert await client.receive_from() == "good morning"
            await client.disconnect()

    @pytest.mark.parametrize(
        "application",
        [
            EchoConsumer.as_asgi(),
            Starlette(routes=[WebSocketRoute("/", EchoConsumer.as_asgi())]),
        ],
        ids=["by_itself", "in_a_starlette_route"],
    )
    async def test_class_is_an_application(self, application):
        """as_asgi() can be served on its own, and mounted in a route."""
        client = WebsocketCommunicator(application, "/")
        assert await client.connect() == (True, None)
        assert await client.receive_from() == "hello"
        await client.disconnect()

    async def test_instance_is_an_application(self):
        """A consumer instance serves a connection itself."""
        client = WebsocketCommunicator(EchoConsumer("made by hand"), "/")
        assert await client.connect() == (True, None)
        assert await client.receive_from() == "made by hand"
        await client.disconnect()

    async def test_events_with_both_keys_are_understood(self):
        """Some servers send `text` and `bytes` in each event, one of them None."""
        client = WebsocketCommunicator(EchoConsumer.as_asgi(), "/")
        await client.connect()
        await client.receive_from()
        await client.send_input({"type": "websocket.receive", "text": "words", "bytes": None})
        assert await client.receive_from() == "words"
        await client.send_input({"type": "websocket.receive", "text": None, "bytes": b"\x00"})
        assert await client.receive_from() == b"\x00"
        await client.disconnect()

    async def test_json_consumer_understands_events_with_both_keys(self):
        """`bytes: None` next to a text is not a binary frame."""

        class Echo(AsyncJsonWebsocketConsumer):
            async def receive_json(self, content, **kwargs):
                await self.send_json(content)

        client = WebsocketCommunicator(Echo.as_asgi(), "/")
        await client.connect()
        await client.send_input({"type": "websocket.receive", "text": "[1]", "bytes": None})
        assert await client.receive_json_from() == [1]
        await client.disconnect()

    async def test_events_to_the_server_have_the_known_keys(self):
        """accept has headers and a subprotocol, close a code and a reason."""

        class Brief(AsyncWebsocketConsumer):
            async def connect(self):
                await self.accept(subprotocol="chat", headers=[(b"x-room", b"1")])
                await self.close(code=4001, reason="that was all")

        scope = {"type": "websocket", "path": "/", "headers": [], "subprotocols": ["chat"]}
        client = ApplicationCommunicator(Brief.as_asgi(), scope)
        await client.send_input({"type": "websocket.connect"})
        assert await client.receive_output() == {
            "type": "websocket.accept",
            "subprotocol": "chat",
            "headers": [(b"x-room", b"1")],
        }
        assert await client.receive_output() == {
            "type": "websocket.close",
            "code": 4001,
            "reason": "that was all",
        }
        await client.wait()

    @pytest.mark.parametrize(
        ("raised", "answer"), [(AcceptConnection, (True, None)), (DenyConnection, (False, 1000))]
    )
    async def test_connect_may_answer_by_raising(self, raised, answer):
        """AcceptConnection and DenyConnection in connect decide about the connection."""

        class Raising(AsyncWebsocketConsumer):
            async def connect(self):
                raise raised

        client = WebsocketCommunicator(Raising.as_asgi(), "/")
        assert await client.connect() == answer
        if raised is AcceptConnection:
            await client.disconnect()

    async def test_stop_consumer_ends_a_consumer_of_any_protocol(self):
        """AsyncConsumer dispatches every event, and StopConsumer ends it cleanly."""

        class Counter(AsyncConsumer):
            async def test_question(self, message):
                await self.send({"type": "test.answer", "number": message["number"] + 1})

            async def test_end(self, message):
                raise StopConsumer

        client = ApplicationCommunicator(Counter.as_asgi(), {"type": "test"})
        await client.send_input({"type": "test.question", "number": 1})
        assert await client.receive_output() == {"type": "test.answer", "number": 2}
        await client.send_input({"type": "test.end"})
        await client.wait()

    async def test_send_and_close_in_one_call(self):
        """send(close=True) closes after the frame."""

        class Farewell(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                await self.send("goodbye", close=True)

        client = WebsocketCommunicator(Farewell.as_asgi(), "/")
        await client.connect()
        await client.send_to(text_data="anything")
        assert await client.receive_from() == "goodbye"
        closing = await client.receive_output()
        assert (closing["type"], closing["code"]) == ("websocket.close", 1000)
        await client.wait()

    @pytest.mark.parametrize("consumer", [AsyncWebsocketConsumer, AsyncJsonWebsocketConsumer])
    async def test_send_and_close_with_a_code_in_one_call(self, consumer):
        """send(close=4001) closes with that code after the frame, and send_json does."""

        class Farewell(consumer):
            async def connect(self):
                await self.accept()
                say = getattr(self, "send_json", self.send)
                await say("goodbye", close=4001)

        client = WebsocketCommunicator(Farewell.as_asgi(), "/")
        await client.connect()
        assert "goodbye" in await client.receive_from()
        closing = await client.receive_output()
        assert (closing["type"], closing["code"]) == ("websocket.close", 4001)
        await client.wait()

    async def test_consumer_without_a_layer_can_see_that(self):
        """Consumers that work with and without a layer ask `if self.channel_layer`."""

        class Curious(AsyncWebsocketConsumer):
            async def connect(self):
                await self.accept()
                await self.send(f"{self.channel_layer}")

        client = WebsocketCommunicator(Curious.as_asgi(), "/")
        await client.connect()
        assert await client.receive_from() == "None"
        await client.disconnect()


class TestLayer:
    """A layer used without any consumer, as in scripts and tests."""

    async def test_channel_receives_without_a_consumer(self, layer):
        """new_channel, send and receive are enough."""
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "hello", "count": 1})
        assert await received(layer, channel) == {"type": "hello", "count": 1}

    async def test_message_waits_for_its_receiver(self, layer):
        """A named channel keeps messages that are sent before any receiver comes."""
        if isinstance(layer, RedisPubSubChannelLayer):
            pytest.skip("pub/sub keeps nothing for those who come later")
        await layer.send("waiting_room", {"type": "hello"})
        assert await received(layer, "waiting_room") == {"type": "hello"}

    async def test_full_channel_refuses_and_keeps_the_first_messages(self, layer):
        """send raises ChannelFull at capacity; earlier messages are received."""
        channel = await layer.new_channel()
        for number in range(layer.capacity):
            await layer.send(channel, {"type": "hello", "number": number})
        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "hello", "number": -1})
        for number in range(layer.capacity):
            assert (await received(layer, channel))["number"] == number

    async def test_group_send_never_raises_channel_full(self, layer):
        """A broadcast to a full channel raises no error."""
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number in range(layer.capacity + 10):
            await layer.group_send("room", {"type": "hello", "number": number})

    async def test_leaving_a_group_never_joined_is_fine(self, layer):
        """group_discard raises nothing."""
        await layer.group_discard("room", await layer.new_channel())

    async def test_flushed_layer_is_as_new(self, layer):
        """After flush, groups have no members and channels no messages."""
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.flush()
        await layer.group_send("room", {"type": "hello"})
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "direct"})
        assert await received(layer, channel) == {"type": "direct"}

    async def test_queue_closes_by_the_name_of_its_pools(self, server):
        """
        Programs that end with close_pools() disconnect from the server, and can use the layer
        again.
        """
        layer = RedisChannelLayer(hosts=[server.url])
        for _ in range(2):
            channel = await layer.new_channel()
            await layer.send(channel, {"type": "hello"})
            assert await received(layer, channel) == {"type": "hello"}
            await layer.close_pools()
            assert layer.health().state == "closed"

    async def test_names_never_repeat_whatever_the_seed(self, layer):
        """Programs that seed `random` alike get different channels."""
        made = set()
        for _ in range(10):
            random.seed(1)
            made |= {await layer.new_channel() for _ in range(10)}
        assert len(made) == 100

    async def test_cancelled_receive_loses_nothing(self, layer):
        """A cancelled receive leaves the next message to the next receiver."""
        channel = await layer.new_channel()
        receiver = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        receiver.cancel()
        await asyncio.wait([receiver])
        await layer.send(channel, {"type": "hello"})
        assert await received(layer, channel) == {"type": "hello"}

    async def test_receive_with_short_timeouts_loses_nothing(self, layer):
        """Polling with wait_for returns every message once."""
        assert sorted(await polled(layer, 30)) == list(range(30))

    async def test_receive_with_short_timeouts_keeps_the_order(self, layer):
        """Polling with wait_for returns messages in the order of sending."""
        assert await polled(layer, 30) == list(range(30))


async def polled(layer, total):
    """Send numbers to a named channel, and return them as received with short timeouts."""
    if isinstance(layer, RedisPubSubChannelLayer):
        channel = await layer.new_channel()
    else:
        channel = f"polled.{uuid.uuid4().hex}"

    async def send():
        for number in range(total):
            await layer.send(channel, {"type": "hello", "number": number})

    sender, seen = asyncio.create_task(send()), []
    async with asyncio.timeout(PATIENCE):
        while len(seen) < total:
            try:
                message = await asyncio.wait_for(layer.receive(channel), 0.001)
            except TimeoutError:
                continue
            seen.append(message["number"])
    await sender
    return seen


async def received(layer, channel):
    async with asyncio.timeout(PATIENCE):
        return await layer.receive(channel)
