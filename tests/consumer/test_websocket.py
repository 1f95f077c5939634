"""The lifecycle of a WebSocket, and the calls that a consumer may make in each state."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import (
    AcceptConnection,
    ConsumerStateError,
    DenyConnection,
    LayerUnavailable,
    StopConsumer,
)
from fast_channels.layers.broker import Outage
from fast_channels.testing import WebsocketCommunicator
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


class TestEndings:
    """
    disconnect() runs once and at most one close frame is sent, however the connection ends.

    The layer fixtures check that channels, groups and tasks are gone afterwards.
    """

    async def test_client_that_leaves_is_told_to_disconnect_with_its_code(self, layer, connect):
        """The code is the client's, and no event is sent to a client that has left."""
        consumer = Recorder()
        client = await connect(consumer)
        await client.disconnect(code=4321)
        assert consumer.calls == [("connect",), ("disconnect", 4321)]
        assert await rest(client) == []

    @pytest.mark.parametrize("event", [{}, {"code": None}], ids=["absent", "none"])
    async def test_client_that_leaves_without_a_code_is_1005(self, layer, connect, event):
        """The code 1005 stands for a missing code."""
        consumer = Recorder()
        client = await connect(consumer)
        await client.send_input({"type": "websocket.disconnect", **event})
        assert await rest(client) == []
        assert consumer.disconnects == [1005]

    async def test_close_in_connect_after_accept_disconnects(self, layer):
        """A connection that was accepted and closed at once counts as a connection."""

        class Brief(Recorder):
            async def connect(self):
                await self.accept()
                await self.close(4001, "brief")

        consumer = Brief()
        client = WebsocketCommunicator(consumer, "/")
        assert await client.connect() == (True, None)
        assert closes(await rest(client)) == [(4001, "brief")]
        assert consumer.disconnects == [4001]

    async def test_close_in_receive_disconnects(self, layer, connect):
        """The consumer ends when the handler returns; later frames are not handled."""

        class Closing(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                self.calls.append(("receive", text_data))
                await self.close(4002, text_data)

        consumer = Closing()
        client = await connect(consumer)
        await client.send_to("one")
        await client.send_to("two")
        assert closes(await rest(client)) == [(4002, "one")]
        assert consumer.calls[1:] == [("receive", "one"), ("disconnect", 4002)]

    async def test_close_in_a_layer_handler_disconnects(self, layer, connect):
        """A handler of layer messages may close like any other."""

        class Kickable(Recorder):
            async def kick(self, message):
                await self.close(4003, message["why"])

        consumer = Kickable()
        client = await connect(consumer)
        await layer.group_send("room", {"type": "kick", "why": "asked"})
        assert closes(await rest(client)) == [(4003, "asked")]
        assert consumer.disconnects == [4003]

    @pytest.mark.parametrize("accepted", [False, True])
    async def test_error_in_connect_disconnects(self, layer, caplog, accepted):
        """connect() has begun, so disconnect() runs; the client sees 1011 or no connection."""

        class Failing(Recorder):
            async def connect(self):
                if accepted:
                    await self.accept()
                raise ZeroDivisionError

        consumer = Failing()
        client = WebsocketCommunicator(consumer, "/")
        assert await client.connect() == ((True, None) if accepted else (False, 1011))
        assert closes(await rest(client)) == ([(1011, "")] if accepted else [])
        assert consumer.disconnects == [1011]
        assert len(errors(caplog)) == 1

    async def test_error_in_receive_disconnects(self, layer, connect, caplog):
        """The client sees 1011."""

        class Failing(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                raise ZeroDivisionError

        consumer = Failing()
        client = await connect(consumer)
        await client.send_to("hello")
        assert closes(await rest(client)) == [(1011, "")]
        assert consumer.disconnects == [1011]
        assert len(errors(caplog)) == 1

    async def test_error_in_a_layer_handler_disconnects(self, layer, connect, caplog):
        """The client sees 1011."""

        class Failing(Recorder):
            async def fail(self, message):
                raise ZeroDivisionError

        consumer = Failing()
        client = await connect(consumer)
        await layer.group_send("room", {"type": "fail"})
        assert closes(await rest(client)) == [(1011, "")]
        assert consumer.disconnects == [1011]
        assert len(errors(caplog)) == 1

    async def test_error_in_disconnect_is_logged_and_ends_the_consumer(
        self, layer, connect, caplog
    ):
        """disconnect() is not called again for its own failure, and the server gets no error."""

        class Failing(Recorder):
            async def disconnect(self, code):
                await super().disconnect(code)
                raise ZeroDivisionError

        consumer = Failing()
        client = await connect(consumer)
        await client.disconnect()
        assert consumer.disconnects == [1000]
        [record] = errors(caplog)
        assert record.exc_info[0] is ZeroDivisionError
        assert "Failing" in record.message

    async def test_error_in_on_error_changes_nothing(self, layer, connect, caplog):
        """Both failures are logged, and the connection ends as without the second one."""

        class Failing(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                raise ZeroDivisionError

            async def on_error(self, exc, message):
                raise LookupError

        consumer = Failing()
        client = await connect(consumer)
        await client.send_to("hello")
        assert closes(await rest(client)) == [(1011, "")]
        assert consumer.disconnects == [1011]
        assert {r.exc_info[0] for r in errors(caplog)} == {LookupError, ZeroDivisionError}

    async def test_error_after_close_sends_no_second_close_frame(self, layer, connect, caplog):
        """The first code counts, and the error is logged."""

        class Failing(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.close(4004)
                raise ZeroDivisionError

        consumer = Failing()
        client = await connect(consumer)
        await client.send_to("hello")
        assert closes(await rest(client)) == [(4004, "")]
        assert consumer.disconnects == [4004]
        assert len(errors(caplog)) == 1

    async def test_stop_consumer_closes_with_1000(self, layer, connect, caplog):
        """StopConsumer is not an error."""

        class Stopping(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                raise StopConsumer

        consumer = Stopping()
        client = await connect(consumer)
        await client.send_to("hello")
        assert closes(await rest(client)) == [(1000, "")]
        assert consumer.disconnects == [1000]
        assert not caplog.records

    async def test_stop_consumer_in_disconnect_is_fine(self, layer, connect, caplog):
        """Existing code that ends disconnect() with StopConsumer works."""

        class Stopping(Recorder):
            async def disconnect(self, code):
                await super().disconnect(code)
                raise StopConsumer

        consumer = Stopping()
        client = await connect(consumer)
        await client.disconnect()
        assert consumer.disconnects == [1000]
        assert not caplog.records

    async def test_overflow_with_policy_close_closes_with_1013(
        self, closing_layer, connect, caplog
    ):
        """The client gets the code and the reason."""
        consumer = Busy()
        client = await connect(consumer)
        await client.send_to("work")
        await consumer.working.wait()
        for number in range(5):
            await closing_layer.group_send("room", {"type": "chat.message", "text": str(number)})
        consumer.done.set()
        assert closes(await rest(client)) == [(1013, "slow")]
        assert consumer.disconnects == [1013]
        assert not errors(caplog)

    async def test_gap_with_on_gap_close_closes_with_1012(self, fragile_layer, connect, caplog):
        """The client reconnects instead of missing a message unnoticed."""

        class Careful(Recorder):
            on_gap = "close"

        consumer = Careful()
        client = await connect(consumer)
        fragile_layer.broker.report_outage(Outage(1.0, 2.0, lost=["room"]))
        [(code, reason)] = closes(await rest(client))
        assert code == 1012
        assert reason
        assert consumer.disconnects == [1012]
        assert not errors(caplog)

    async def test_client_that_leaves_during_a_handler_is_disconnected_after_it(
        self, layer, connect
    ):
        """Handlers never overlap, and the running one can see that the client is gone."""
        consumer = Busy()
        client = await connect(consumer)
        await client.send_to("work")
        await consumer.working.wait()
        assert not consumer.disconnected
        await client.send_input({**LEAVE, "code": 4005})
        await until(lambda: consumer.disconnected)
        assert consumer.disconnects == []
        consumer.done.set()
        assert await rest(client) == []
        assert consumer.calls[-2:] == [("worked", "work"), ("disconnect", 4005)]

    @pytest.mark.parametrize(("how", "code"), [("close", 4007), ("error", 1011)])
    async def test_close_after_the_client_left_sends_nothing(
        self, layer, connect, caplog, how, code
    ):
        """The server accepts no close frame any more; disconnect() gets the client's code."""

        class Closing(Busy):
            async def receive(self, text_data=None, bytes_data=None):
                await self.work(text_data)
                if how == "error":
                    raise ZeroDivisionError
                await self.close(4007)

        consumer = Closing()
        client = await connect(consumer)
        await client.send_to("work")
        await consumer.working.wait()
        await client.send_input(LEAVE)
        await until(lambda: consumer.disconnected)
        consumer.done.set()
        assert await rest(client) == []
        assert consumer.disconnects == [code]

    async def test_own_websocket_disconnect_cannot_keep_the_connection(self, layer, connect):
        """A client that has left sends nothing more, so the consumer ends."""

        class Lax(Recorder):
            async def websocket_disconnect(self, message):
                self.calls.append(("websocket_disconnect",))

        consumer = Lax()
        client = await connect(consumer)
        await client.send_input(LEAVE)
        await client.wait()
        assert consumer.calls[1] == ("websocket_disconnect",)
        assert len(consumer.disconnects) == 1

    async def test_disconnect_may_still_send_to_groups(self, layer, connect):
        """Groups are left after disconnect(), so that a farewell reaches the others."""

        class Polite(Recorder):
            async def disconnect(self, code):
                await super().disconnect(code)
                await self.channel_layer.group_send("room", {"type": "chat.message", "text": "bye"})

        leaving, staying = await connect(Polite()), await connect(Recorder())
        await leaving.disconnect()
        assert await staying.receive_from() == "bye"
        await staying.disconnect()

    async def test_everything_is_left_at_the_moment_the_application_ends(self, layer, connect):
        """Groups joined in a handler are left, too, without any call."""

        class Joining(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.channel_layer.group_add(text_data, self.channel_name)
                await self.send("joined")

        client = await connect(Joining())
        await client.send_to("another")
        assert await client.receive_from() == "joined"
        assert layer.statistics().groups == 2
        await client.disconnect()
        assert layer.statistics().groups == 0
        assert layer.statistics().channels == 0


class TestCancellation:
    """The server may cancel the application at any moment; the cleanup is the same."""

    async def test_cancelled_before_the_first_event_runs_no_disconnect(self, layer):
        """A connection that did not begin has no disconnect()."""
        consumer = Recorder()
        wire = Wire(consumer)
        task = wire.start()
        await until(lambda: layer.statistics().channels)
        task.cancel()
        await wire.ended()
        assert task.cancelled()
        assert consumer.calls == []
        assert len(closes(wire.sent)) <= 1

    async def test_cancelled_while_the_channel_opens_leaves_nothing(self, fragile_layer):
        """The server may give up while the broker is slow."""
        fragile_layer.opening.clear()
        consumer = Recorder()
        wire = Wire(consumer)
        task = wire.start(CONNECT)
        await until(lambda: fragile_layer.statistics().channels)
        task.cancel()
        await wire.ended()
        assert task.cancelled()
        assert fragile_layer.statistics().channels == 0
        assert consumer.calls == []
        # The inbox of the process is still wanted, and other channels may wait for it.
        fragile_layer.opening.set()

    async def test_cancelled_while_joining_groups_runs_no_disconnect(self, fragile_layer):
        """connect() has not begun; the group in progress is left."""
        fragile_layer.broker.confirming.clear()
        consumer = Recorder()
        wire = Wire(consumer)
        task = wire.start(CONNECT)
        await until(lambda: fragile_layer.broker.asked)
        task.cancel()
        await wire.ended()
        fragile_layer.broker.confirming.set()
        assert task.cancelled()
        assert consumer.calls == []
        assert fragile_layer.statistics().members == 0

    @pytest.mark.parametrize("accepted", [False, True])
    async def test_cancelled_in_connect_disconnects(self, layer, accepted):
        """The code is 1001: the server is going away."""

        class Connecting(Busy):
            async def connect(self):
                if accepted:
                    await self.accept()
                await self.work("connect")

        consumer = Connecting()
        wire = Wire(consumer)
        task = wire.start(CONNECT)
        await consumer.working.wait()
        task.cancel()
        await wire.ended()
        assert task.cancelled()
        assert consumer.calls == [("disconnect", 1001)]
        assert closes(wire.sent) == [(1001, "")]

    async def test_cancelled_while_idle_disconnects(self, layer, connect):
        """The code is 1001: the server is going away."""
        consumer = Recorder()
        client = await connect(consumer)
        client.future.cancel()
        assert closes(await rest(client)) == [(1001, "")]
        assert client.future.cancelled()
        assert consumer.disconnects == [1001]

    async def test_cancelled_in_receive_disconnects(self, layer, connect):
        """The handler is interrupted where it waits."""
        consumer = Busy()
        client = await connect(consumer)
        await client.send_to("work")
        await consumer.working.wait()
        client.future.cancel()
        assert closes(await rest(client)) == [(1001, "")]
        assert consumer.calls == [("connect",), ("disconnect", 1001)]

    async def test_cancelled_in_a_layer_handler_disconnects(self, layer, connect):
        """The handler is interrupted where it waits."""
        consumer = Busy()
        client = await connect(consumer)
        await layer.group_send("room", {"type": "work", "text": "work"})
        await consumer.working.wait()
        client.future.cancel()
        assert closes(await rest(client)) == [(1001, "")]
        assert consumer.calls == [("connect",), ("disconnect", 1001)]

    async def test_cancelled_in_disconnect_does_not_call_it_again(self, layer, connect):
        """disconnect() has run once, in part; the layer is left all the same."""

        class Slow(Busy):
            async def disconnect(self, code):
                await super().disconnect(code)
                await self.work("disconnect")

        consumer = Slow()
        client = await connect(consumer)
        await client.send_input(LEAVE)
        await consumer.working.wait()
        client.future.cancel()
        assert await rest(client) == []
        assert client.future.cancelled()
        assert consumer.calls == [("connect",), ("disconnect", 1000)]

    async def test_cancelled_while_a_frame_is_being_sent_disconnects(self, layer):
        """A client that does not read blocks send(), and the server gives up on it."""
        consumer = Recorder()
        wire = Wire(consumer)
        wire.stuck.add("websocket.send")
        task = wire.start(CONNECT, text("hello"))
        await until(lambda: wire.sent[-1:] == [{"type": "websocket.send", "text": "hello"}])
        task.cancel()
        await wire.ended()
        assert consumer.disconnects == [1001]
        assert closes(wire.sent) == [(1001, "")]

    @pytest.mark.parametrize("how", ["close", "stop", "error"])
    async def test_cancelled_while_the_close_frame_is_being_sent_disconnects(self, layer, how):
        """A client that does not read cannot prevent the cleanup."""

        class Ending(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                if how == "close":
                    await self.close(4000)
                raise StopConsumer if how == "stop" else ZeroDivisionError

        consumer = Ending()
        wire = Wire(consumer)
        wire.stuck.add("websocket.close")
        task = wire.start(CONNECT, text("hello"))
        await until(lambda: closes(wire.sent))
        task.cancel()
        await wire.ended()
        assert len(consumer.disconnects) == 1
        assert len(closes(wire.sent)) == 1


class TestRejection:
    """A rejected connection has no disconnect()."""

    async def test_close_in_connect_rejects(self, layer):
        """The server gets a close event instead of the accept, with code and reason."""

        class Closed(Recorder):
            async def connect(self):
                await self.close(4000, "not today")

        consumer = Closed()
        client = WebsocketCommunicator(consumer, "/")
        await client.send_input(CONNECT)
        assert await client.receive_output() == {
            "type": "websocket.close",
            "code": 4000,
            "reason": "not today",
        }
        assert await rest(client) == []
        assert consumer.calls == []

    async def test_deny_connection_rejects(self, layer, caplog):
        """DenyConnection is not an error."""

        class Denied(Recorder):
            async def connect(self):
                raise DenyConnection

        consumer = Denied()
        client = WebsocketCommunicator(consumer, "/")
        assert await client.connect() == (False, 1000)
        assert await rest(client) == []
        assert consumer.calls == []
        assert not caplog.records

    async def test_deny_connection_after_accept_is_a_close(self, layer):
        """The connection was accepted, so disconnect() runs."""

        class Late(Recorder):
            async def connect(self):
                await self.accept()
                raise DenyConnection

        consumer = Late()
        client = WebsocketCommunicator(consumer, "/")
        assert await client.connect() == (True, None)
        assert closes(await rest(client)) == [(1000, "")]
        assert consumer.disconnects == [1000]

    async def test_accept_after_close_is_quiet(self, layer):
        """connect() may continue after a rejection; the later call has no effect."""

        class Undecided(Recorder):
            async def connect(self):
                await self.close()
                await self.accept()

        client = WebsocketCommunicator(Undecided(), "/")
        assert await client.connect() == (False, 1000)
        assert await rest(client) == []

    async def test_error_after_close_in_connect_runs_no_disconnect(self, layer, caplog):
        """The connection was rejected before the error."""

        class Failing(Recorder):
            async def connect(self):
                await self.close()
                raise ZeroDivisionError

        consumer = Failing()
        client = WebsocketCommunicator(consumer, "/")
        assert await client.connect() == (False, 1000)
        assert await rest(client) == []
        assert consumer.disconnects == []
        assert len(errors(caplog)) == 1


class TestErrors:
    """An exception of a handler ends its own connection and no other."""

    async def test_error_is_logged_once_with_its_traceback(self, layer, connect, caplog):
        """One record names the consumer, the message and the place."""

        class Failing(Recorder):
            async def fail(self, message):
                raise LookupError("the shelf is empty")

        client = await connect(Failing())
        await layer.group_send("room", {"type": "fail"})
        await client.wait()
        [record] = caplog.records
        assert record.levelname == "ERROR"
        assert "Failing" in record.message
        assert "'fail'" in record.message
        assert isinstance(record.exc_info[1], LookupError)

    async def test_on_error_is_called_before_the_connection_closes(self, layer, connect, caplog):
        """on_error gets the exception and the message, and may still send to the client."""

        class Explaining(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                raise LookupError("the shelf is empty")

            async def on_error(self, exc, message):
                await super().on_error(exc, message)
                assert not caplog.records
                await self.send(f"sorry: {exc}")

        consumer = Explaining()
        client = await connect(consumer)
        await client.send_to("hello")
        assert await client.receive_from() == "sorry: the shelf is empty"
        assert closes(await rest(client)) == [(1011, "")]
        (_, exc, type_) = consumer.calls[1]
        assert isinstance(exc, LookupError)
        assert type_ == "websocket.receive"
        assert len(errors(caplog)) == 1

    async def test_on_error_may_close_with_a_code_of_its_own(self, layer, connect, caplog):
        """The code is 1011 only if on_error does not close."""

        class Closing(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                raise LookupError

            async def on_error(self, exc, message):
                await self.close(4006, "no such thing")

        consumer = Closing()
        client = await connect(consumer)
        await client.send_to("hello")
        assert closes(await rest(client)) == [(4006, "no such thing")]
        assert consumer.disconnects == [4006]

    async def test_others_in_the_group_go_on(self, layer, connect):
        """The other members get all messages before and after the failure, in order."""

        class Fragile(Recorder):
            async def chat_message(self, message):
                raise ZeroDivisionError

        fragile, solid = await connect(Fragile()), await connect(Recorder())
        for word in ("one", "two"):
            await layer.group_send("room", {"type": "chat.message", "text": word})
        await fragile.wait()
        await layer.group_send("room", {"type": "chat.message", "text": "three"})
        assert [await solid.receive_from() for _ in range(3)] == ["one", "two", "three"]
        await solid.disconnect()


class TestGroups:
    async def test_message_sent_at_the_moment_of_accept_arrives(self, layer):
        """Groups are joined before accept is sent."""

        class Announcing(Wire):
            async def send(self, event):
                await super().send(event)
                if event["type"] == "websocket.accept":
                    await layer.group_send("room", {"type": "chat.message", "text": "welcome"})

        wire = Announcing(Recorder())
        wire.start(CONNECT)
        await until(lambda: len(wire.sent) == 2)
        assert wire.sent[1] == {"type": "websocket.send", "text": "welcome"}
        wire.put(LEAVE)
        await wire.ended()

    async def test_accept_waits_for_the_broker_to_confirm(self, fragile_layer):
        """A client that is accepted misses no message."""
        fragile_layer.broker.confirming.clear()
        consumer = Recorder()
        wire = Wire(consumer)
        wire.start(CONNECT)
        await until(lambda: fragile_layer.broker.asked)
        await settled()
        assert wire.sent == []
        assert consumer.calls == []
        fragile_layer.broker.confirming.set()
        await until(lambda: wire.sent)
        wire.put(LEAVE)
        await wire.ended()

    async def test_group_that_cannot_be_joined_closes_with_1011(self, fragile_layer, caplog):
        """connect() does not begin, so disconnect() does not run."""
        fragile_layer.broker.failure = LayerUnavailable("the broker", "no answer in time")
        consumer = Recorder()
        client = WebsocketCommunicator(consumer, "/")
        assert await client.connect() == (False, 1011)
        assert await rest(client) == []
        assert [call[0] for call in consumer.calls] == ["on_error"]
        assert "the broker does not answer" in str(errors(caplog)[0].exc_info[1])

    async def test_groups_without_a_layer_are_refused_with_a_sentence(self):
        """The error names the class and the missing setting, before anything else runs."""

        class Forgetful(AsyncWebsocketConsumer):
            groups = ("room",)

        for start in (Forgetful.as_asgi, WebsocketCommunicator(Forgetful(), "/").connect):
            with pytest.raises(ConsumerStateError) as caught:
                await start()
        sentence = str(caught.value)
        assert "Forgetful" in sentence
        assert "'room'" in sentence
        assert "set channel_layer_alias" in sentence


class TestAccept:
    async def test_accept_sends_subprotocol_and_headers(self):
        """The event has the keys that every server reads."""

        class Choosing(AsyncWebsocketConsumer):
            async def connect(self):
                await self.accept(self.scope["subprotocols"][1], [(b"x-room", b"7")])

        client = WebsocketCommunicator(Choosing(), "/", subprotocols=["v1", "v2"])
        await client.send_input(CONNECT)
        assert await client.receive_output() == {
            "type": "websocket.accept",
            "subprotocol": "v2",
            "headers": [(b"x-room", b"7")],
        }
        await client.disconnect()

    async def test_accept_without_arguments_has_the_keys_too(self):
        """Some servers read `headers` without checking that it exists."""
        client = WebsocketCommunicator(AsyncWebsocketConsumer(), "/")
        await client.send_input(CONNECT)
        assert await client.receive_output() == {
            "type": "websocket.accept",
            "subprotocol": None,
            "headers": [],
        }
        await client.disconnect()

    @pytest.mark.parametrize("already", [False, True])
    async def test_accept_connection_accepts_once(self, layer, already):
        """AcceptConnection in connect() does the same as accept(), unless accept() was called."""

        class Raising(Recorder):
            async def connect(self):
                if already:
                    await self.accept()
                raise AcceptConnection

        client = WebsocketCommunicator(Raising(), "/")
        assert await client.connect() == (True, None)
        await client.send_to("hello")
        assert await client.receive_from() == "hello"
        await client.disconnect()

    async def test_second_accept_raises_a_sentence(self, layer):
        """The sentence has the class and the place for accept()."""

        class Twice(Recorder):
            async def connect(self):
                await self.accept()
                with pytest.raises(ConsumerStateError, match=r"Twice .*connect\(\)") as caught:
                    await self.accept()
                await self.send(str(caught.value))

        client = WebsocketCommunicator(Twice(), "/")
        assert await client.connect() == (True, None)
        assert "accept() once" in await client.receive_from()
        await client.disconnect()

    async def test_accept_may_come_after_connect(self, layer):
        """A connection without a decision waits, and a layer message may decide."""

        class Waiting(Recorder):
            async def connect(self):
                self.calls.append(("connect",))

            async def admit(self, message):
                await self.accept()

        consumer = Waiting()
        client = WebsocketCommunicator(consumer, "/")
        await client.send_input(CONNECT)
        await until(lambda: consumer.calls)
        await layer.group_send("room", {"type": "admit"})
        assert (await client.receive_output())["type"] == "websocket.accept"
        await client.disconnect()
        assert consumer.disconnects == [1000]


class TestSend:
    async def test_text_and_bytes_arrive_as_they_are(self, layer, connect):
        """Empty frames are sent, too."""
        client = await connect(Recorder())
        for frame in ("grüße", ""):
            await client.send_to(text_data=frame)
            assert await client.receive_output() == {"type": "websocket.send", "text": frame}
        for frame in (b"\x00\xff", b""):
            await client.send_to(bytes_data=frame)
            assert await client.receive_output() == {"type": "websocket.send", "bytes": frame}
        await client.disconnect()

    async def test_send_with_close_closes_with_1000_after_the_frame(self, layer, connect):
        """The frame arrives before the close."""

        class Parting(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.send("bye", close=True)

        consumer = Parting()
        client = await connect(consumer)
        await client.send_to("hello")
        assert await rest(client) == [
            {"type": "websocket.send", "text": "bye"},
            {"type": "websocket.close", "code": 1000, "reason": ""},
        ]
        assert consumer.disconnects == [1000]

    async def test_send_of_nothing_raises(self, layer, connect):
        """The sentence names both arguments."""

        class Empty(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                with pytest.raises(ValueError, match="neither text_data nor bytes_data"):
                    await self.send()
                await self.send("went on")

        client = await connect(Empty())
        await client.send_to("hello")
        assert await client.receive_from() == "went on"
        await client.disconnect()

    async def test_send_before_accept_raises_a_sentence(self, layer):
        """The sentence has the class and the call that must come first."""

        class Hasty(Recorder):
            async def connect(self):
                with pytest.raises(ConsumerStateError, match=r"Hasty .*accept\(\)"):
                    await self.send("too early")
                await self.accept()

        client = WebsocketCommunicator(Hasty(), "/")
        assert await client.connect() == (True, None)
        await client.disconnect()

    async def test_send_after_close_is_quiet_and_counted(self, layer, connect):
        """A handler need not check whether the connection is still open."""

        class Talkative(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.close()
                await self.send("too late")

            async def disconnect(self, code):
                await super().disconnect(code)
                await self.send("far too late")

        consumer = Talkative()
        client = await connect(consumer)
        await client.send_to("hello")
        assert [event["type"] for event in await rest(client)] == ["websocket.close"]
        assert consumer.disconnects == [1000]
        assert layer.statistics().sent_after_close == 2

    async def test_send_after_the_client_left_is_quiet_and_counted(self, layer, connect, caplog):
        """The server gets no event that it could object to."""
        consumer = Busy()
        client = await connect(consumer)
        await client.send_to("work")
        await consumer.working.wait()
        await client.send_to("echo")
        await client.send_input(LEAVE)
        await until(lambda: consumer.disconnected)
        consumer.done.set()
        assert await rest(client) == []
        assert consumer.disconnects == [1000]
        assert layer.statistics().sent_after_close == 1
        assert not caplog.records

    async def test_send_after_close_without_a_layer_is_quiet(self):
        """Without a layer, nothing is counted."""

        class Talkative(AsyncWebsocketConsumer):
            async def receive(self, text_data=None, bytes_data=None):
                await self.close()
                await self.send("too late")

        client = WebsocketCommunicator(Talkative(), "/")
        await client.connect()
        await client.send_to("hello")
        assert [event["type"] for event in await rest(client)] == ["websocket.close"]

    async def test_server_that_raises_oserror_means_the_client_left(self, layer, caplog):
        """Sends are dropped until the disconnect event arrives; the code is the client's."""
        consumer = Recorder()
        wire = Wire(consumer)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        wire.failure = ConnectionResetError("gone")
        wire.put(text("one"), text("two"))
        await until(lambda: len(consumer.calls) == 3)
        assert consumer.disconnected
        wire.put({**LEAVE, "code": 1006})
        await wire.ended()
        assert consumer.calls[1:] == [("receive", "one"), ("receive", "two"), ("disconnect", 1006)]
        assert layer.statistics().sent_after_close >= 1
        assert not caplog.records

    async def test_client_that_leaves_behind_many_frames_is_disconnected(self, layer):
        """The disconnect event is read even if a send failed before."""
        consumer = Recorder()
        wire = Wire(consumer)
        wire.start(CONNECT)
        await until(lambda: wire.sent)
        wire.failure = ConnectionResetError("gone")
        wire.put(*(text(str(number)) for number in range(200)), {**LEAVE, "code": 1006})
        await until(lambda: len(consumer.calls) > 60)
        await settled()
        try:
            await until(wire.task.done)
        finally:
            wire.task.cancel()
        assert consumer.disconnects == [1006]
        assert [c[1] for c in consumer.calls[1:-1]] == [str(number) for number in range(200)]


class TestClose:
    async def test_close_sends_code_and_reason(self, layer, connect):
        """Both keys exist even without arguments."""

        class Closing(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.close()

        client = await connect(Closing())
        await client.send_to("hello")
        assert await rest(client) == [{"type": "websocket.close", "code": 1000, "reason": ""}]

    async def test_close_twice_sends_one_frame(self, layer, connect):
        """The first code counts."""

        class Closing(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.close(4000, "first")
                await self.close(4001, "second")

            async def disconnect(self, code):
                await super().disconnect(code)
                await self.close(4002, "third")

        consumer = Closing()
        client = await connect(consumer)
        await client.send_to("hello")
        assert closes(await rest(client)) == [(4000, "first")]
        assert consumer.disconnects == [4000]

    @pytest.mark.parametrize(
        ("reason", "sent"),
        [
            ("a" * 123, "a" * 123),
            ("a" * 124, "a" * 123),
            ("ü" * 62, "ü" * 61),
            ("a" * 121 + "€", "a" * 121),
            ("🙂" * 100, "🙂" * 30),
        ],
        ids=["fits", "ascii", "two bytes", "three bytes", "four bytes"],
    )
    async def test_long_reason_is_shortened_at_a_character(self, layer, connect, reason, sent):
        """A close frame holds 123 bytes of reason, and must not end with half a character."""

        class Verbose(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.close(4000, reason)

        client = await connect(Verbose())
        await client.send_to("hello")
        assert closes(await rest(client)) == [(4000, sent)]

    async def test_reason_that_cannot_be_encoded_still_closes_the_connection(self, layer, connect):
        """A mistake in the reason must not leave a client without a close frame."""

        class Odd(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                await self.close(4000, "half \ud83d")

        consumer = Odd()
        client = await connect(consumer)
        await client.send_to("hello")
        assert len(closes(await rest(client))) == 1
        assert len(consumer.disconnects) == 1

    @pytest.mark.parametrize("exc", [RuntimeError, AssertionError], ids=lambda exc: exc.__name__)
    async def test_server_that_refuses_the_close_frame_keeps_nobody_from_disconnect(
        self, layer, exc
    ):
        """Servers raise different errors for an unexpected event."""

        class Stopping(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                wire.failure = exc("unexpected ASGI message")
                raise StopConsumer

        consumer = Stopping()
        wire = Wire(consumer)
        wire.start(CONNECT, text("hello"))
        await asyncio.wait([wire.task])
        # The test does not depend on whether the server gets the error.
        wire.task.exception()
        assert consumer.disconnects == [1000]


class TestFrames:
    @pytest.mark.parametrize(
        ("event", "received"),
        [
            ({"text": "hi", "bytes": None}, "hi"),
            ({"text": None, "bytes": b"hi"}, b"hi"),
            ({"text": "", "bytes": None}, ""),
            ({"bytes": b""}, b""),
        ],
    )
    async def test_event_with_both_keys_has_one_value(self, layer, connect, event, received):
        """Some servers send text and bytes, one of them None."""
        consumer = Recorder()
        client = await connect(consumer)
        await client.send_input({"type": "websocket.receive", **event})
        assert await client.receive_from() == received
        assert consumer.calls[-1] == ("receive", received)
        await client.disconnect()

    async def test_frames_are_handled_in_order_and_before_disconnect(self, layer, connect):
        """Frames that waited when the client left are handled, too."""
        consumer = Recorder()
        client = await connect(consumer)
        for number in range(100):
            await client.send_to(str(number))
        await client.disconnect()
        handled = [("receive", str(number)) for number in range(100)]
        assert consumer.calls == [("connect",), *handled, ("disconnect", 1000)]

    @pytest.mark.parametrize(
        "frame",
        [{"text": "a" * 11}, {"text": "ü" * 6}, {"bytes": b"a" * 11}],
        ids=["text", "characters of two bytes", "bytes"],
    )
    async def test_frame_beyond_the_limit_closes_with_1009(self, layer, connect, frame, caplog):
        """The reason names the limit; the handler does not see the frame."""

        class Small(Recorder):
            max_frame_size = 10

        consumer = Small()
        client = await connect(consumer)
        await client.send_input({"type": "websocket.receive", **frame})
        [(code, reason)] = closes(await rest(client))
        assert code == 1009
        assert "10" in reason
        assert consumer.calls == [("connect",), ("disconnect", 1009)]
        assert not errors(caplog)

    @pytest.mark.parametrize("limit", [10, None])
    async def test_frame_up_to_the_limit_is_handled(self, layer, connect, limit):
        """None means no limit."""

        class Small(Recorder):
            max_frame_size = limit

        client = await connect(Small())
        frame = "ü" * 5 if limit else "a" * 2_000_000
        await client.send_to(frame)
        assert await client.receive_from() == frame
        await client.disconnect()


class TestWithoutOverrides:
    async def test_plain_consumer_accepts_and_ignores(self):
        """Every method has a harmless default."""
        client = WebsocketCommunicator(AsyncWebsocketConsumer.as_asgi(), "/")
        assert await client.connect() == (True, None)
        await client.send_to("hello")
        await client.send_to(bytes_data=b"hello")
        await client.disconnect()
        assert await rest(client) == []

    async def test_consumer_without_groups_has_a_channel(self, layer, connect):
        """Others can send to `channel_name` to reach only this connection."""

        class Direct(Recorder):
            groups = ()

            async def receive(self, text_data=None, bytes_data=None):
                await self.send(self.channel_name)

        client = await connect(Direct())
        await client.send_to("who am I")
        name = await client.receive_from()
        await layer.send(name, {"type": "chat.message", "text": "you"})
        assert await client.receive_from() == "you"
        await client.disconnect()

    def test_alias_of_the_fixtures_is_a_class_attribute(self):
        """The tests above would prove nothing if the recorder had no layer."""
        assert Recorder.channel_layer_alias == ALIAS


class Busy(Recorder):
    """The frame or message `work` keeps a handler busy until `done` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.working = asyncio.Event()
        self.done = asyncio.Event()

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "work":
            await self.work(text_data)
        else:
            await super().receive(text_data, bytes_data)

    async def work(self, message):
        self.working.set()
        await self.done.wait()
        self.calls.append(("worked", message))


class TestEndsFromElsewhere:
    """A connection may end while its loop waits."""

    async def test_close_by_another_task_ends_the_consumer(self, layer, connect):
        """An idle timeout of an application is such a task."""
        consumer = Recorder()
        client = await connect(consumer)
        await settled()
        await asyncio.create_task(consumer.close(4000, "idle"))
        assert closes(await rest(client)) == [(4000, "idle")]
        assert consumer.disconnects == [4000]

    async def test_layer_that_is_flushed_closes_with_1012(self, layer, connect):
        """The channel is gone, and the client must not wait in vain."""
        consumer = Recorder()
        client = await connect(consumer)
        await settled()
        await layer.flush()
        [(code, _)] = closes(await rest(client))
        assert code == 1012
        assert consumer.disconnects == [1012]

    async def test_second_cancellation_keeps_nobody_from_disconnect(self, layer):
        """Some frameworks cancel again at every step."""
        consumer = Recorder()
        wire = Wire(consumer)
        task = wire.start(CONNECT)
        await until(lambda: wire.sent)
        await settled()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert consumer.calls.count(("disconnect", 1001)) == 1

    async def test_handler_that_awaits_a_cancelled_task_is_an_error(self, layer, connect, caplog):
        """The connection itself was not cancelled."""

        class Awaiting(Recorder):
            async def receive(self, text_data=None, bytes_data=None):
                work = asyncio.create_task(asyncio.sleep(3600))
                work.cancel()
                await work

        consumer = Awaiting()
        client = await connect(consumer)
        await client.send_to("hello")
        assert closes(await rest(client)) == [(1011, "")]
        assert len(errors(caplog)) == 1
        assert consumer.disconnects == [1011]

    async def test_frame_that_is_too_large_is_not_kept(self, layer):
        """Only the reason waits for its turn, without the text of the frame."""

        class Small(Recorder):
            max_frame_size = 10

            async def receive(self, text_data=None, bytes_data=None):
                await wire.released.wait()

        consumer = Small()
        wire = Wire(consumer)
        wire.start(CONNECT, text("first"), *(text("x" * 100) for _ in range(5)))
        # The first one closes; the frames after it are read and thrown away.
        await until(lambda: wire.received == 7)
        await settled()
        (mailbox,) = layer.channels.values()
        assert mailbox.frame_bytes == 0
        wire.released.set()
        await wire.ended()
        assert [code for code, _ in closes(wire.sent)] == [1009]
