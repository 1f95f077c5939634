"""Features of every consumer: dispatch, order, messages of the layer, as_asgi."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Router, WebSocketRoute

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)
from fast_channels.consumer.handlers import MAX_LOGGED_TYPES, get_handler_name
from fast_channels.exceptions import ConsumerStateError, StopConsumer, UnknownLayer
from fast_channels.layers import InMemoryChannelLayer, channel_layers
from fast_channels.layers.broker import Outage
from fast_channels.layers.mailbox import FRAME_LIMIT
from fast_channels.middleware import BaseMiddleware
from fast_channels.testing import ApplicationCommunicator, WebsocketCommunicator
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


class TestHandlerNames:
    @pytest.mark.parametrize(
        ("type_", "name"),
        [
            ("chat", "chat"),
            ("chat.message", "chat_message"),
            ("a.b.c", "a_b_c"),
            ("already_so", "already_so"),
        ],
    )
    def test_dots_become_underscores(self, type_, name):
        """The type names a method."""
        assert get_handler_name({"type": type_}) == name

    @pytest.mark.parametrize("message", [{}, {"type": ""}, {"type": None}, {"type": 5}])
    def test_missing_type_raises(self, message):
        """The sentence shows the message."""
        with pytest.raises(ValueError, match="needs a string as its type") as caught:
            get_handler_name(message)
        assert repr(message.get("type")) in str(caught.value)

    @pytest.mark.parametrize("type_", ["_private", ".private", "__init__", "._x"])
    def test_leading_underscore_raises(self, type_):
        """The sentence shows the type and the problem."""
        with pytest.raises(ValueError, match="begins with an underscore") as caught:
            get_handler_name({"type": type_})
        assert repr(type_) in str(caught.value)


def guarded_consumer():
    """
    Return a recorder with methods of many kinds, none of them a handler.

    Each call makes a new class, because some lines are logged once per class.
    """

    class Guarded(AsyncJsonWebsocketConsumer, Recorder):
        room = "a value and no method"

        async def receive(self, text_data=None, bytes_data=None, **kwargs):
            assert text_data is not None, "receive() was called for a layer message"
            await Recorder.receive(self, text_data)

        async def _private(self, message):
            self.calls.append(("reached", "_private"))

        async def layer_gap(self, message):
            self.calls.append(("reached", "layer_gap"))

        async def layer_overflow(self, message):
            self.calls.append(("reached", "layer_overflow"))

    return Guarded()


class TestMessagesThatReachNobody:
    """No message of the layer closes a connection, whatever its type."""

    @pytest.mark.parametrize(
        "message",
        [
            {"type": type_}
            for type_ in (
                # methods of consumers
                *("close", "send", "accept", "base_send", "dispatch", "connect", "receive"),
                *("disconnect", "channel_layer", "channel_name", "scope", "as_asgi", "groups"),
                *("on_error", "on_gap", "disconnected", "max_frame_size", "send_json"),
                *("receive_json", "decode_json", "encode.json", "on_invalid_json"),
                # events of servers
                *("websocket.receive", "websocket.disconnect", "websocket.connect"),
                *("websocket_receive", "websocket_disconnect", "websocket.close"),
                # private names
                *("_private", ".private", "__init__", "__call__", "__class__", "_state"),
                # types that only the layer sends
                *("layer.gap", "layer.overflow", "layer_gap", "layer_overflow", "layer.unknown"),
                # types without a method
                *("unknown", "chat.unknown", "room", "with space", "", None, 5, 1.5, True),
                *(["close"], {"a": "mapping"}, b"close"),
            )
        ]
        + [{}, {"text": "no type"}],
        ids=lambda message: repr(message.get("type", "missing"))[:30],
    )
    async def test_message_is_counted_logged_once_and_skipped(
        self, layer, connect, caplog, message
    ):
        """The connection stays open and handles the next message and the next frame."""
        consumer = guarded_consumer()
        client = await connect(consumer)
        for _ in range(2):
            await layer.group_send("room", message)
        await layer.group_send("room", {"type": "chat.message", "text": "next"})
        assert await client.receive_from() == "next"
        await client.send_to("frame")
        assert await client.receive_from() == "frame"
        assert consumer.calls == [("connect",), ("chat", "next"), ("receive", "frame")]
        assert layer.statistics().unknown_type == 2
        [record] = caplog.records
        assert record.levelname == "WARNING"
        assert record.exc_info is None
        assert "Guarded" in record.message
        assert repr(message.get("type")) in record.message
        await client.disconnect()
        assert await rest(client) == []
        assert consumer.disconnects == [1000]

    async def test_each_type_is_logged_for_itself(self, layer, connect, caplog):
        """A frequent type does not hide another one."""
        client = await connect(guarded_consumer())
        for type_ in ("one", "two", "one", "two", "close"):
            await layer.group_send("room", {"type": type_})
        await until(lambda: layer.statistics().unknown_type == 5)
        assert [("'one'" in m, "'two'" in m, "'close'" in m) for m in caplog.messages] == [
            (True, False, False),
            (False, True, False),
            (False, False, True),
        ]
        await client.disconnect()

    async def test_flood_of_new_types_does_not_fill_the_log(self, layer, connect, caplog):
        """Messages are counted even after logging has stopped."""
        client = await connect(guarded_consumer())
        for number in range(MAX_LOGGED_TYPES + 20):
            await layer.group_send("room", {"type": f"unknown.{number}"})
        await until(lambda: layer.statistics().unknown_type == MAX_LOGGED_TYPES + 20)
        assert len(caplog.records) == MAX_LOGGED_TYPES
        await client.disconnect()

    async def test_long_type_is_logged_shortened(self, layer, connect, caplog):
        """A sender cannot write a megabyte into the log."""
        client = await connect(guarded_consumer())
        await layer.group_send("room", {"type": "a" * 5000})
        await until(lambda: layer.statistics().unknown_type == 1)
        [line] = caplog.messages
        assert len(line) < 500
        await client.disconnect()

    async def test_method_of_a_users_own_base_class_is_a_handler(self, layer, connect):
        """Only methods of the library are out of reach."""

        class Base(AsyncWebsocketConsumer):
            async def shared(self, message):
                await self.send("shared")

        class Derived(Base):
            channel_layer_alias = ALIAS
            groups = ("room",)

        client = await connect(Derived())
        await layer.group_send("room", {"type": "shared"})
        assert await client.receive_from() == "shared"
        await client.disconnect()

    async def test_property_that_raises_closes_nobody(self, layer, connect):
        """The lookup of a handler may run user code."""

        class WithUser(Recorder):
            @property
            def user(self):
                raise KeyError("user")

        consumer = WithUser()
        client = await connect(consumer)
        await layer.group_send("room", {"type": "user"})
        await layer.group_send("room", {"type": "chat.message", "text": "next"})
        assert await client.receive_from() == "next"
        assert layer.statistics().unknown_type == 1
        await client.disconnect()
        assert consumer.disconnects == [1000]

    async def test_method_that_takes_no_message_is_no_handler(self, layer, connect):
        """The method is a helper that happens to have the name of a type."""

        class Helpful(Recorder):
            async def helper(self):
                raise AssertionError

            async def kick(self, user, why):
                raise AssertionError

            def plain(self, message):
                """Return something that cannot be awaited."""

        client = await connect(Helpful())
        for type_ in ("helper", "kick", "plain"):
            await layer.group_send("room", {"type": type_})
        await layer.group_send("room", {"type": "chat.message", "text": "next"})
        assert await client.receive_from() == "next"
        assert layer.statistics().unknown_type == 3
        await client.disconnect()


class TestDispatch:
    async def test_own_dispatch_sees_types_without_a_method(self, layer, connect):
        """A custom dispatch needs no method per type."""

        class Routing(Recorder):
            async def dispatch(self, message):
                if message["type"].startswith("news."):
                    await self.send(message["type"])
                else:
                    await super().dispatch(message)

        client = await connect(Routing())
        await layer.group_send("room", {"type": "news.sports"})
        assert await client.receive_from() == "news.sports"
        assert layer.statistics().unknown_type == 0
        await client.disconnect()

    @pytest.mark.parametrize("type_", ["close", "_private", "layer.gap", None])
    async def test_own_dispatch_does_not_see_what_is_reserved(self, layer, connect, type_):
        """A custom dispatch need not check for them."""

        class Routing(Recorder):
            async def dispatch(self, message):
                self.calls.append(("dispatch", message["type"]))
                await super().dispatch(message)

        consumer = Routing()
        client = await connect(consumer)
        await layer.group_send("room", {"type": type_})
        await layer.group_send("room", {"type": "chat.message", "text": "next"})
        assert await client.receive_from() == "next"
        assert ("dispatch", type_) not in consumer.calls
        assert layer.statistics().unknown_type == 1
        await client.disconnect()

    async def test_own_dispatch_that_passes_on_an_unknown_type_closes_nobody(
        self, layer, connect, caplog
    ):
        """A dispatch that only observes changes nothing."""

        class Watching(Recorder):
            async def dispatch(self, message):
                await super().dispatch(message)

        consumer = Watching()
        client = await connect(consumer)
        for _ in range(2):
            await layer.group_send("room", {"type": "unknown"})
        await layer.group_send("room", {"type": "chat.message", "text": "next"})
        assert await client.receive_from() == "next"
        assert layer.statistics().unknown_type == 2
        assert not errors(caplog)
        await client.disconnect()

    async def test_handler_gets_the_whole_message(self, layer, connect):
        """The message has its type, as the sender wrote it."""
        seen = []

        class Looking(Recorder):
            async def look(self, message):
                seen.append(message)
                await self.send("seen")

        client = await connect(Looking())
        message = {"type": "look", "n": 1, "nested": {"a": [b"\x00", None]}}
        await layer.group_send("room", message)
        await client.receive_from()
        assert seen == [message]
        await client.disconnect()

    async def test_value_error_of_a_handler_is_an_error_of_the_handler(
        self, layer, connect, caplog
    ):
        """The error is not mistaken for an unknown type."""

        class Failing(Recorder):
            async def fail(self, message):
                raise ValueError("in the handler")

        client = await connect(Failing())
        await layer.group_send("room", {"type": "fail"})
        assert closes(await rest(client)) == [(1011, "")]
        assert len(errors(caplog)) == 1
        assert layer.statistics().unknown_type == 0


class TestOrder:
    async def test_layer_messages_are_handled_in_order(self, layer, connect):
        """Direct messages and group messages of one sender keep their order."""
        consumer = Recorder()
        client = await connect(consumer)
        for number in range(0, 60, 2):
            await layer.send(consumer.channel_name, {"type": "chat.message", "text": str(number)})
            await layer.group_send("room", {"type": "chat.message", "text": str(number + 1)})
        assert [await client.receive_from() for _ in range(60)] == [str(n) for n in range(60)]
        await client.disconnect()

    async def test_handlers_never_overlap(self, layer, connect):
        """A waiting handler delays the next one, for frames and messages."""

        class Interruptible(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.section(text_data)

            async def chat_message(self, message):
                await self.section(message["text"])

            async def section(self, name):
                self.calls.append(("begin", name))
                await settled()
                self.calls.append(("end", name))
                await self.send("done")

        consumer = Interruptible()
        client = await connect(consumer)
        for number in range(5):
            await client.send_to(f"frame {number}")
            await layer.group_send("room", {"type": "chat.message", "text": f"message {number}"})
        for _ in range(10):
            await client.receive_from()
        sections = consumer.calls[1:]
        assert len(sections) == 20
        for begin, end in zip(sections[::2], sections[1::2], strict=True):
            assert (begin[0], end[0]) == ("begin", "end")
            assert begin[1] == end[1]
        await client.disconnect()

    async def test_flood_of_messages_does_not_starve_a_frame(self, layer, connect):
        """A waiting frame is handled after one message at most."""
        consumer = Gated()
        client = await connect(consumer)
        for number in range(50):
            await layer.group_send("room", {"type": "chat.message", "text": str(number)})
        await until(lambda: consumer.calls[-1] == ("chat", "0"))
        await client.send_to("frame")
        await settled()
        consumer.gate.set()
        await until(lambda: len(consumer.calls) == 52)
        assert ("receive", "frame") in consumer.calls[:5]
        await client.disconnect()

    async def test_flood_of_frames_does_not_starve_a_message(self, layer, connect):
        """A waiting message is handled after one frame at most."""
        consumer = Gated()
        client = await connect(consumer)
        for number in range(50):
            await client.send_to(str(number))
        await until(lambda: consumer.calls[-1] == ("receive", "0"))
        await layer.group_send("room", {"type": "chat.message", "text": "message"})
        consumer.gate.set()
        await until(lambda: len(consumer.calls) == 52)
        assert ("chat", "message") in consumer.calls[:5]
        await client.disconnect()

    async def test_messages_that_beget_messages_do_not_starve_a_frame(self, layer, connect):
        """A consumer that sends messages to itself still handles frames."""

        class Restless(Recorder):
            async def again(self, message):
                await self.channel_layer.send(self.channel_name, {"type": "again"})

        client = await connect(Restless())
        await layer.group_send("room", {"type": "again"})
        await client.send_to("frame")
        assert await client.receive_from() == "frame"
        await client.disconnect()

    async def test_messages_behind_the_end_are_not_handled(self, layer, connect):
        """Once the client is gone, only disconnect() runs."""
        consumer = Gated()
        client = await connect(consumer)
        await client.send_to("frame")
        await until(lambda: consumer.calls[-1] == ("receive", "frame"))
        await client.send_input(LEAVE)
        for number in range(10):
            await layer.group_send("room", {"type": "chat.message", "text": str(number)})
        consumer.gate.set()
        await client.wait()
        assert consumer.calls[-1] == ("disconnect", 1000)
        assert sum(call[0] == "chat" for call in consumer.calls) <= 1


class TestBackpressure:
    async def test_pump_stops_reading_at_the_limit(self, layer):
        """Unhandled frames stay in the socket, where TCP slows the sender."""
        consumer = Gated()
        wire = Wire(consumer)
        wire.start(CONNECT, *(text(str(number)) for number in range(3 * FRAME_LIMIT)))
        await until(lambda: ("receive", "0") in consumer.calls)
        await settled()
        # connect, the frame in its handler, the waiting frames, and one frame in the pump
        assert wire.received <= FRAME_LIMIT + 3
        consumer.gate.set()
        wire.put(LEAVE)
        await wire.ended()
        handled = [call[1] for call in consumer.calls if call[0] == "receive"]
        assert handled == [str(number) for number in range(3 * FRAME_LIMIT)]
        assert consumer.disconnects == [1000]

    async def test_cancelled_while_the_pump_waits_ends_in_order(self, layer):
        """A full queue of frames does not delay the cleanup."""
        consumer = Gated()
        wire = Wire(consumer)
        task = wire.start(CONNECT, *(text(str(number)) for number in range(3 * FRAME_LIMIT)))
        await until(lambda: ("receive", "0") in consumer.calls)
        await until(lambda: wire.received > FRAME_LIMIT)
        task.cancel()
        await wire.ended()
        assert consumer.disconnects == [1001]

    async def test_receive_that_raises_ends_the_connection(self, layer, caplog):
        """A failing server must not leave a consumer waiting forever."""
        consumer = Recorder()

        class Broken(Wire):
            async def receive(self):
                if self.received == 1:
                    raise ZeroDivisionError
                return await super().receive()

        wire = Broken(consumer)
        wire.start(CONNECT)
        await wire.ended()
        assert consumer.disconnects == [1006]
        [record] = errors(caplog)
        assert record.exc_info[0] is ZeroDivisionError


class TestOverflow:
    """A full channel loses its own messages, and its consumer learns the number."""

    async def flood(self, layer, consumer, client, messages):
        """Send while the consumer is busy, so that only three of the messages fit."""
        await client.send_to("busy")
        await until(lambda: consumer.calls[-1] == ("receive", "busy"))
        for number in range(messages):
            await layer.group_send("room", {"type": "chat.message", "text": str(number)})
        consumer.gate.set()

    async def test_notice_has_the_count_and_its_place_in_the_stream(self, small_layer, connect):
        """With drop_oldest, the notice comes before the remaining messages."""
        consumer = Noticing()
        client = await connect(consumer)
        await self.flood(small_layer, consumer, client, 10)
        await until(lambda: ("chat", "9") in consumer.calls)
        assert consumer.calls[2:] == [("lost", 7), ("chat", "7"), ("chat", "8"), ("chat", "9")]
        assert small_layer.statistics().dropped == 7
        await client.disconnect()

    async def test_notice_of_drop_newest_stands_behind_what_was_kept(self, connect, registry):
        """The notice is in the place of the lost messages."""
        async with InMemoryChannelLayer(capacity=3, overflow="drop_newest") as layer:
            registry.register(ALIAS, layer)
            consumer = Noticing()
            client = await connect(consumer)
            await self.flood(layer, consumer, client, 10)
            await until(lambda: ("lost", 7) in consumer.calls)
            await layer.group_send("room", {"type": "chat.message", "text": "after"})
            await until(lambda: ("chat", "after") in consumer.calls)
            kept = [("chat", "0"), ("chat", "1"), ("chat", "2")]
            assert consumer.calls[2:] == [*kept, ("lost", 7), ("chat", "after")]
            await client.disconnect()

    async def test_two_floods_make_two_notices(self, small_layer, connect):
        """Each notice counts the losses since the one before."""
        consumer = Noticing()
        client = await connect(consumer)
        for messages in (5, 6):
            consumer.gate.clear()
            await self.flood(small_layer, consumer, client, messages)
            await until(lambda last=messages - 1: consumer.calls[-1] == ("chat", str(last)))
        assert [call for call in consumer.calls if call[0] == "lost"] == [("lost", 2), ("lost", 3)]
        assert small_layer.statistics().dropped == 5
        await client.disconnect()

    async def test_consumer_without_a_handler_goes_on(self, small_layer, connect, caplog):
        """The notice is optional: nothing is logged or counted as unknown."""
        consumer = Gated()
        client = await connect(consumer)
        await self.flood(small_layer, consumer, client, 10)
        await until(lambda: ("chat", "9") in consumer.calls)
        assert consumer.calls[2:] == [("chat", "7"), ("chat", "8"), ("chat", "9")]
        assert small_layer.statistics().unknown_type == 0
        assert not caplog.records
        await client.disconnect()

    async def test_neighbour_loses_nothing(self, small_layer, connect):
        """A slow connection harms only itself."""
        slow, quick = Gated(), Recorder()
        slow_client, quick_client = await connect(slow), await connect(quick)
        await self.flood(small_layer, slow, slow_client, 10)
        assert [await quick_client.receive_from() for _ in range(10)] == list("0123456789")
        await slow_client.disconnect()
        await quick_client.disconnect()

    async def test_policy_close_ends_a_consumer_that_never_catches_up(self, closing_layer, connect):
        """The policy is meant for an endless flood."""

        class Drowning(Recorder):
            async def flood(self, message):
                self.calls.append(("flood",))
                if len(self.calls) < 1000:
                    for _ in range(5):
                        await self.channel_layer.group_send("room", {"type": "flood"})

        consumer = Drowning()
        client = await connect(consumer)
        await closing_layer.group_send("room", {"type": "flood"})
        assert closes(await rest(client)) == [(1013, "slow")]
        assert len(consumer.calls) < 100


class TestGap:
    async def test_gap_is_handed_to_its_handler(self, fragile_layer, connect):
        """The notice has the groups, and the begin and end of the outage."""
        gaps = []

        class Catching(Recorder):
            async def layer_gap(self, message):
                gaps.append(message)
                await self.send("caught up")

        client = await connect(Catching())
        fragile_layer.broker.report_outage(Outage(1.0, 2.5, lost=["room", "elsewhere"]))
        assert await client.receive_from() == "caught up"
        assert gaps == [
            {
                "type": "layer.gap",
                "groups": ["room"],
                "since": 1.0,
                "until": 2.5,
                "recovered": False,
            }
        ]
        await client.disconnect()

    async def test_consumer_without_a_handler_goes_on(self, fragile_layer, connect, caplog):
        """A gap does not close a consumer without a handler."""
        client = await connect(Recorder())
        fragile_layer.broker.report_outage(Outage(1.0, 2.0, lost=["room"]))
        await fragile_layer.group_send("room", {"type": "chat.message", "text": "next"})
        assert await client.receive_from() == "next"
        assert fragile_layer.statistics().unknown_type == 0
        assert not caplog.records
        await client.disconnect()

    @pytest.mark.parametrize("type_", ["layer.gap", "layer_gap"])
    async def test_gap_that_somebody_sends_closes_nobody(self, layer, connect, type_):
        """Only the layer itself can send a gap."""

        class Careful(Recorder):
            on_gap = "close"

        client = await connect(Careful())
        await layer.group_send("room", {"type": type_, "groups": ["room"]})
        await layer.group_send("room", {"type": "chat.message", "text": "next"})
        assert await client.receive_from() == "next"
        await client.disconnect()


class TestUnknownLayer:
    async def test_connection_fails_with_a_sentence(self, layer):
        """The sentence has the consumer, the alias and the known aliases."""

        class Misspelt(AsyncWebsocketConsumer):
            channel_layer_alias = "chta"

        client = WebsocketCommunicator(Misspelt.as_asgi(), "/")
        with pytest.raises(UnknownLayer) as caught:
            await client.connect()
        sentence = str(caught.value)
        assert "Misspelt" in sentence
        assert "'chta'" in sentence
        assert repr(ALIAS) in sentence
        assert "register_channel_layer('chta', ...)" in sentence

    @pytest.mark.parametrize("wrap", [lambda app: app, BaseMiddleware], ids=["plain", "wrapped"])
    @pytest.mark.parametrize("mounted", ["route", "mounted", "included"])
    async def test_application_does_not_start(self, layer, wrap, mounted):
        """The lifespan looks for consumers in the routes of its application."""

        class Misspelt(AsyncWebsocketConsumer):
            channel_layer_alias = "chta"

        routes = [WebSocketRoute("/chat", wrap(Misspelt.as_asgi()))]
        match mounted:
            case "route":
                app = Starlette(routes=routes)
            case "mounted":
                app = Starlette(routes=[Mount("/ws", Router(routes))])
            case "included":
                app = FastAPI()
                app.include_router(APIRouter(routes=routes), prefix="/ws")
        with pytest.raises(UnknownLayer, match=r"Misspelt.*'chta'"):
            async with channel_layers.lifespan(app):
                pytest.fail("the application started")

    @pytest.mark.parametrize("decorator", ["websocket", "get"])
    @pytest.mark.parametrize("included", [False, True], ids=["application", "router"])
    async def test_application_does_not_start_if_it_is_decorated_like_a_function(
        self, layer, decorator, included
    ):
        """FastAPI would look for its arguments in the request, and turn clients away silently."""

        class Decorated(AsyncWebsocketConsumer):
            pass

        app, router = FastAPI(), APIRouter()
        getattr(router if included else app, decorator)("/chat")(Decorated.as_asgi())
        app.include_router(router)
        sentence = r"WebSocketRoute\('/chat', Decorated\.as_asgi\(\)\)"
        with pytest.raises(ConsumerStateError, match=sentence):
            async with channel_layers.lifespan(app):
                pytest.fail("the application started")

    async def test_consumer_that_is_not_mounted_keeps_no_application_from_starting(self, layer):
        """Another application of the process may have its own layers."""

        class Elsewhere(AsyncWebsocketConsumer):
            channel_layer_alias = "elsewhere"

        Elsewhere.as_asgi()
        async with channel_layers.lifespan(Starlette()):
            pass

    async def test_application_starts_if_the_layer_is_registered_after_as_asgi(self, registry):
        """Routes are often made before layers."""

        class Early(AsyncWebsocketConsumer):
            channel_layer_alias = "late"

        app = Starlette(routes=[WebSocketRoute("/", Early.as_asgi())])
        registry.register("late", InMemoryChannelLayer())
        async with channel_layers.lifespan(app):
            client = WebsocketCommunicator(Early.as_asgi(), "/")
            assert await client.connect() == (True, None)
            await client.disconnect()


class TestAsAsgi:
    def test_result_is_an_object_with_the_name_of_the_class(self):
        """Frameworks wrap plain functions, and show names in their routes."""

        class Described(AsyncWebsocketConsumer):
            """Documents an application."""

            def __init__(self, size=1):
                self.size = size

        application = Described.as_asgi(size=2)
        assert not isinstance(application, type(lambda: None))
        assert callable(application)
        assert application.consumer_class is Described
        assert application.consumer_initkwargs == {"size": 2}
        assert application.__name__ == "Described"
        assert application.__qualname__ == Described.__qualname__
        assert application.__doc__ == "Documents an application."
        assert application.__module__ == Described.__module__

    async def test_arguments_reach_every_consumer(self, connect):
        """Each connection has its own object."""
        made = []

        class Sized(AsyncWebsocketConsumer):
            def __init__(self, *, size):
                self.size = size
                made.append(self)

            async def receive(self, text_data=None, bytes_data=None):
                await self.send(str(self.size))

        application = Sized.as_asgi(size=7)
        clients = [await connect(application) for _ in range(2)]
        for client in clients:
            await client.send_to("how large")
            assert await client.receive_from() == "7"
            await client.disconnect()
        assert len(set(map(id, made))) == 2

    @pytest.mark.parametrize(
        "consumer_class", [AsyncConsumer, AsyncWebsocketConsumer, AsyncHttpConsumer]
    )
    def test_unknown_argument_raises_at_once(self, consumer_class):
        """A typing mistake is found when routes are made, not by the first client."""
        with pytest.raises(TypeError, match="colour"):
            consumer_class.as_asgi(colour="red")

    async def test_instance_is_an_application(self, connect):
        """Tests use an instance for one connection."""

        class Echo(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                await self.send(text_data)

        client = await connect(Echo())
        await client.send_to("hello")
        assert await client.receive_from() == "hello"
        await client.disconnect()

    async def test_instance_that_had_its_connection_is_not_left_hanging(self, connect):
        """A second connection is refused with a sentence that names as_asgi()."""
        consumer = AsyncWebsocketConsumer()
        await (await connect(consumer)).disconnect()
        again = WebsocketCommunicator(consumer, "/")
        with pytest.raises(ConsumerStateError, match="as_asgi"):
            await again.connect(timeout=0.2)

    @pytest.mark.parametrize(
        ("consumer_class", "type_"),
        [(AsyncWebsocketConsumer, "http"), (AsyncHttpConsumer, "websocket")],
    )
    async def test_wrong_scope_type_raises_a_sentence(self, consumer_class, type_):
        """The sentence has the class, the scope and the right place to mount it."""
        communicator = ApplicationCommunicator(consumer_class.as_asgi(), {"type": type_})
        with pytest.raises(ConsumerStateError) as caught:
            await communicator.wait()
        sentence = str(caught.value)
        assert consumer_class.__name__ in sentence
        assert repr(type_) in sentence
        assert "route" in sentence


class TestPlainConsumer:
    """AsyncConsumer serves any kind of scope with raw events."""

    async def test_events_reach_methods_and_send_reaches_the_server(self):
        """The type of the event names the method."""

        class Raw(AsyncConsumer):
            async def test_ping(self, message):
                await self.send({"type": "test.pong", "n": message["n"], "in": self.scope["type"]})

            async def test_end(self, message):
                raise StopConsumer

        communicator = ApplicationCommunicator(Raw.as_asgi(), {"type": "test"})
        await communicator.send_input({"type": "test.ping", "n": 1})
        assert await communicator.receive_output() == {"type": "test.pong", "n": 1, "in": "test"}
        await communicator.send_input({"type": "test.end"})
        assert await rest(communicator) == []

    async def test_layer_messages_arrive(self, layer):
        """The consumer has a channel like every consumer with an alias."""

        class Raw(AsyncConsumer):
            channel_layer_alias = ALIAS

            async def test_ping(self, message):
                await self.channel_layer.send(self.channel_name, {"type": "note", "n": 1})

            async def note(self, message):
                await self.send({"type": "test.noted", "n": message["n"]})
                raise StopConsumer

        communicator = ApplicationCommunicator(Raw.as_asgi(), {"type": "test"})
        await communicator.send_input({"type": "test.ping"})
        assert await rest(communicator) == [{"type": "test.noted", "n": 1}]

    async def test_client_that_leaves_ends_it_whatever_its_handler_does(self, layer):
        """No more events come, so the channel must not stay open."""

        class Lax(AsyncConsumer):
            channel_layer_alias = ALIAS

            async def test_disconnect(self, message):
                """Forgets to raise StopConsumer."""

        communicator = ApplicationCommunicator(Lax.as_asgi(), {"type": "test"})
        await communicator.send_input({"type": "test.disconnect"})
        await communicator.wait()
        assert layer.statistics().channels == 0

    async def test_error_is_logged_and_ends_it(self, caplog):
        """on_error runs before that."""
        seen = []

        class Failing(AsyncConsumer):
            async def test_ping(self, message):
                raise ZeroDivisionError

            async def on_error(self, exc, message):
                seen.append((type(exc), message))

        communicator = ApplicationCommunicator(Failing.as_asgi(), {"type": "test"})
        await communicator.send_input({"type": "test.ping"})
        assert await rest(communicator) == []
        assert seen == [(ZeroDivisionError, {"type": "test.ping"})]
        [record] = errors(caplog)
        assert "'test.ping'" in record.message

    async def test_consumer_without_a_layer_has_no_channel(self, connect):
        """The channel has no name, and the layer is None, as existing code expects."""

        class Alone(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                await self.send(f"{self.channel_layer} {hasattr(self, 'channel_name')}")

        client = await connect(Alone())
        await client.send_to("alone?")
        assert await client.receive_from() == "None False"
        await client.disconnect()


class Gated(Recorder):
    """The first handler waits until `gate` is set, and the client gets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def receive(self, text_data=None, bytes_data=None):
        self.calls.append(("receive", text_data))
        await self.gate.wait()

    async def chat_message(self, message):
        self.calls.append(("chat", message["text"]))
        await self.gate.wait()


class Noticing(Gated):
    async def layer_overflow(self, message):
        assert set(message) == {"type", "dropped"}
        self.calls.append(("lost", message["dropped"]))
