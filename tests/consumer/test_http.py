"""HTTP requests: complete, in chunks, and as a stream of messages."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.consumer import AsyncHttpConsumer
from fast_channels.exceptions import ConsumerStateError, StopConsumer
from fast_channels.testing import HttpCommunicator
from tests.consumer.support import ALIAS, Wire, errors, rest, settled, until

LEAVE = {"type": "http.disconnect"}


def request(body=b"", more_body=False):
    return {"type": "http.request", "body": body, "more_body": more_body}


class Answering(AsyncHttpConsumer):
    """Sends back the body, and records every call."""

    channel_layer_alias = ALIAS

    def __init__(self) -> None:
        self.calls = []

    async def handle(self, body):
        self.calls.append(("handle", body))
        await self.send_response(200, body, headers=[(b"content-type", b"text/plain")])

    async def disconnect(self):
        self.calls.append(("disconnect",))

    async def on_error(self, exc, message):
        self.calls.append(("on_error", exc))


class TestRequests:
    async def test_response_has_status_headers_and_body(self, layer):
        """The consumer ends when the response is complete."""
        consumer = Answering()
        http = HttpCommunicator(consumer, "/", method="POST", body=b"hello")
        assert await http.get_response() == {
            "status": 200,
            "headers": [(b"content-type", b"text/plain")],
            "body": b"hello",
        }
        assert consumer.calls == [("handle", b"hello"), ("disconnect",)]

    async def test_body_in_chunks_is_handled_when_it_is_whole(self, layer):
        """A chunk may be empty, or absent."""
        consumer = Answering()
        http = HttpCommunicator(consumer, "/", method="POST", body=b"one ")
        await http.send_request(more_body=True)
        await http.send_input({"type": "http.request", "more_body": True})
        await http.send_input(request(b"two", more_body=True))
        await settled()
        assert consumer.calls == []
        await http.send_input({"type": "http.request"})
        assert (await http.get_response())["body"] == b"one two"

    async def test_client_that_leaves_during_the_body_is_disconnected(self, layer):
        """handle() never gets a part of a body."""
        consumer = Answering()
        http = HttpCommunicator(consumer, "/", body=b"half")
        await http.send_request(more_body=True)
        await http.send_input(LEAVE)
        assert await rest(http) == []
        assert consumer.calls == [("disconnect",)]

    async def test_body_in_pieces_is_one_response(self, layer):
        """Headers come first, then all pieces."""

        class Chunked(Answering):
            async def handle(self, body):
                await self.send_headers(status=201)
                await self.send_body(b"a", more_body=True)
                await self.send_body(b"b")

        http = HttpCommunicator(Chunked(), "/")
        assert await http.get_response() == {"status": 201, "headers": [], "body": b"ab"}

    async def test_piece_after_the_last_one_is_not_sent(self, layer):
        """The response is complete, no matter how often the handler sends."""

        class Talkative(Answering):
            async def handle(self, body):
                await self.send_response(200, b"done")
                await self.send_body(b"and more")

        http = HttpCommunicator(Talkative(), "/")
        await http.send_request()
        assert [e["type"] for e in await rest(http)] == [
            "http.response.start",
            "http.response.body",
        ]

    @pytest.mark.parametrize("chunks", [[b"123456"], [b"123", b"456"], [b"123", b"45", b"6"]])
    async def test_body_beyond_the_limit_is_answered_with_413(self, layer, caplog, chunks):
        """The answer names the limit; handle() is not called."""

        class Small(Answering):
            max_body_size = 5

        consumer = Small()
        http = HttpCommunicator(consumer, "/")
        for chunk in chunks:
            await http.send_input(request(chunk, more_body=True))
        start, body = await rest(http)
        assert start["status"] == 413
        assert b"5 bytes" in body["body"]
        assert consumer.calls == [("disconnect",)]
        assert not errors(caplog)

    async def test_body_up_to_the_limit_is_handled(self, layer):
        """A body of exactly the limit is allowed."""

        class Small(Answering):
            max_body_size = 5

        http = HttpCommunicator(Small(), "/", body=b"12345")
        assert (await http.get_response())["body"] == b"12345"


class TestErrors:
    async def test_error_before_headers_is_a_500(self, layer, caplog):
        """The error is logged once, after on_error; the client learns nothing about it."""

        class Failing(Answering):
            async def handle(self, body):
                raise LookupError("the shelf is empty")

        consumer = Failing()
        http = HttpCommunicator(consumer, "/")
        response = await http.get_response()
        assert response["status"] == 500
        assert b"shelf" not in response["body"]
        assert [call[0] for call in consumer.calls] == ["on_error", "disconnect"]
        [record] = caplog.records
        assert record.exc_info[0] is LookupError
        assert "Failing" in record.message

    async def test_on_error_may_answer_itself(self, layer, caplog):
        """The library answers with 500 only if on_error sends nothing."""

        class Explaining(Answering):
            async def handle(self, body):
                raise LookupError

            async def on_error(self, exc, message):
                await self.send_response(404, b"no such thing")

        http = HttpCommunicator(Explaining(), "/")
        assert (await http.get_response())["status"] == 404

    async def test_error_after_headers_starts_no_second_response(self, layer, caplog):
        """A status that was sent cannot be changed."""

        class Failing(Answering):
            async def handle(self, body):
                await self.send_headers(status=200)
                await self.send_body(b"half", more_body=True)
                raise LookupError

        consumer = Failing()
        http = HttpCommunicator(consumer, "/")
        await http.send_request()
        events = await rest(http)
        assert [event["type"] for event in events].count("http.response.start") == 1
        assert consumer.calls[-1] == ("disconnect",)
        assert len(errors(caplog)) == 1

    async def test_error_in_a_stream_does_not_pass_for_its_end(self, layer, caplog):
        """Without a last piece, the server breaks the connection, and the client notices."""

        class Failing(Answering):
            async def handle(self, body):
                await self.send_headers(status=200)
                await self.send_body(b"half", more_body=True)
                raise LookupError

        http = HttpCommunicator(Failing(), "/")
        await http.send_request()
        bodies = [e for e in await rest(http) if e["type"] == "http.response.body"]
        assert all(event["more_body"] for event in bodies)

    async def test_handle_without_a_response_is_a_500(self, layer, caplog):
        """The log names the class."""

        class Silent(Answering):
            async def handle(self, body):
                pass

        http = HttpCommunicator(Silent(), "/")
        assert (await http.get_response())["status"] == 500
        [record] = caplog.records
        assert "Silent" in str(record.exc_info[1])
        assert "sent no response" in str(record.exc_info[1])

    async def test_class_without_handle_is_a_500(self, caplog):
        """The log names the missing method."""

        class Unfinished(AsyncHttpConsumer):
            pass

        http = HttpCommunicator(Unfinished.as_asgi(), "/")
        assert (await http.get_response())["status"] == 500
        assert "Unfinished must define handle(body)" in str(caplog.records[0].exc_info[1])

    async def test_body_before_headers_raises_a_sentence(self, layer):
        """The sentence has the class and the call that must come first."""

        class Hasty(Answering):
            async def handle(self, body):
                with pytest.raises(ConsumerStateError, match=r"Hasty .*send_headers\(\)"):
                    await self.send_body(b"too early")
                await self.send_response(200, b"fine")

        http = HttpCommunicator(Hasty(), "/")
        assert (await http.get_response())["body"] == b"fine"

    async def test_second_headers_raise_a_sentence(self, layer):
        """The sentence has the class and the status that comes too late."""

        class Twice(Answering):
            async def handle(self, body):
                await self.send_headers(status=200)
                with pytest.raises(ConsumerStateError, match=r"Twice .*404"):
                    await self.send_headers(status=404)
                await self.send_body(b"fine")

        http = HttpCommunicator(Twice(), "/")
        assert (await http.get_response())["status"] == 200

    async def test_body_that_is_no_bytes_raises_a_sentence(self, layer):
        """Text needs an encoding, which only the application can choose."""

        class Text(Answering):
            async def handle(self, body):
                await self.send_headers()
                with pytest.raises(TypeError, match="body is a str; encode it"):
                    await self.send_body("text")
                await self.send_body(b"fine")

        http = HttpCommunicator(Text(), "/")
        assert (await http.get_response())["body"] == b"fine"

    async def test_error_in_disconnect_is_logged(self, layer, caplog):
        """The response is complete."""

        class Failing(Answering):
            async def disconnect(self):
                raise ZeroDivisionError

        http = HttpCommunicator(Failing(), "/", body=b"fine")
        assert (await http.get_response())["body"] == b"fine"
        assert [record.exc_info[0] for record in errors(caplog)] == [ZeroDivisionError]


class Feed(Answering):
    """Sends one server-sent event for each message of the group `news`."""

    async def handle(self, body):
        await self.channel_layer.group_add("news", self.channel_name)
        await self.send_headers(headers=[(b"content-type", b"text/event-stream")])
        await self.send_body(b": hello\n\n", more_body=True)

    async def news_item(self, message):
        await self.send_body(f"data: {message['text']}\n\n".encode(), more_body=True)

    async def news_end(self, message):
        await self.send_body(b"event: end\n\n")

    async def news_fail(self, message):
        raise ZeroDivisionError


class TestServerSentEvents:
    """handle() returns, and messages of the layer continue the response."""

    @pytest.fixture
    async def feed(self, layer):
        """A consumer with an open stream, and the communicator at its other end."""
        consumer = Feed()
        http = HttpCommunicator(consumer, "/feed")
        await http.send_request()
        start = await http.receive_output()
        assert start["headers"] == [(b"content-type", b"text/event-stream")]
        assert (await http.receive_output())["more_body"]
        yield consumer, http
        http.stop(exceptions=False)
        await asyncio.wait([http.future])

    async def test_messages_become_events_until_the_client_leaves(self, layer, feed):
        """Events come in order; then disconnect() runs once and the group is left."""
        consumer, http = feed
        for text in ("one", "two", "three"):
            await layer.group_send("news", {"type": "news.item", "text": text})
        for text in ("one", "two", "three"):
            assert await http.receive_output() == {
                "type": "http.response.body",
                "body": f"data: {text}\n\n".encode(),
                "more_body": True,
            }
        assert layer.statistics().groups == 1
        await http.send_input(LEAVE)
        assert await rest(http) == []
        assert consumer.calls == [("disconnect",)]
        assert layer.statistics().groups == 0
        assert layer.statistics().channels == 0

    async def test_handler_learns_the_position_of_a_message(self, remembering_layer):
        """The sender gets the same position, so it can be the id of an event."""
        layer, found = remembering_layer, []

        class Numbered(Feed):
            async def news_item(self, message):
                found.append(layer.group_position(message))
                await self.send_body(b"")

        http = HttpCommunicator(Numbered(), "/feed")
        await http.send_request()
        await http.receive_output()
        await http.receive_output()
        sent = await layer.group_send("news", {"type": "news.item"})
        await rest(http)
        assert found == [("news", sent)]

    async def test_last_piece_ends_the_consumer(self, layer, feed):
        """The consumer may end the stream as well as the client."""
        consumer, http = feed
        await layer.group_send("news", {"type": "news.end"})
        [event] = await rest(http)
        assert event["body"] == b"event: end\n\n"
        assert not event["more_body"]
        assert consumer.calls == [("disconnect",)]

    async def test_stop_consumer_completes_the_response(self, layer):
        """A clean end of the consumer completes the stream."""

        class Stopping(Feed):
            async def news_end(self, message):
                raise StopConsumer

        http = HttpCommunicator(Stopping(), "/feed")
        await http.send_request()
        await http.receive_output()
        await http.receive_output()
        await layer.group_send("news", {"type": "news.end"})
        assert await rest(http) == [{"type": "http.response.body", "body": b"", "more_body": False}]

    async def test_cancelled_while_the_last_piece_is_being_sent_disconnects(self, layer):
        """A client that does not read cannot prevent the cleanup."""

        class Stopping(Feed):
            async def news_end(self, message):
                wire.stuck.add("http.response.body")
                raise StopConsumer

        consumer = Stopping()
        wire = Wire(consumer, {"type": "http", "path": "/feed", "headers": []})
        task = wire.start(request())
        await until(lambda: len(wire.sent) == 2)
        await layer.group_send("news", {"type": "news.end"})
        await until(lambda: len(wire.sent) == 3)
        task.cancel()
        await wire.ended()
        assert consumer.calls == [("disconnect",)]

    async def test_server_that_refuses_the_last_piece_keeps_nobody_from_disconnect(self, layer):
        """Servers raise different errors for an unexpected event."""

        class Stopping(Feed):
            async def news_end(self, message):
                wire.failure = RuntimeError("unexpected ASGI message")
                raise StopConsumer

        consumer = Stopping()
        wire = Wire(consumer, {"type": "http", "path": "/feed", "headers": []})
        wire.start(request())
        await until(lambda: len(wire.sent) == 2)
        await layer.group_send("news", {"type": "news.end"})
        await asyncio.wait([wire.task])
        # The test does not depend on whether the server gets the error.
        wire.task.exception()
        assert consumer.calls == [("disconnect",)]

    async def test_unknown_and_reserved_types_leave_the_stream_alone(self, layer, feed, caplog):
        """Every consumer skips such messages."""
        consumer, http = feed
        types = ("unknown", "http.disconnect", "http.request", "disconnect", "send_body", "handle")
        for type_ in types:
            await layer.group_send("news", {"type": type_, "body": b"forged"})
        await layer.group_send("news", {"type": "news.item", "text": "next"})
        assert (await http.receive_output())["body"] == b"data: next\n\n"
        assert layer.statistics().unknown_type == len(types)
        assert not errors(caplog)
        assert consumer.calls == []

    async def test_error_in_a_stream_ends_this_one_only(self, layer, feed, caplog):
        """Another reader of the same group continues."""
        consumer, http = feed

        class Solid(Feed):
            async def news_fail(self, message):
                await self.news_item({"text": "did not fail"})

        other = HttpCommunicator(Solid(), "/feed")
        await other.send_request()
        await other.receive_output()
        await other.receive_output()
        await layer.group_send("news", {"type": "news.fail"})
        await http.wait()
        assert consumer.calls[-1] == ("disconnect",)
        assert len(errors(caplog)) == 1
        assert (await other.receive_output())["body"] == b"data: did not fail\n\n"
        await other.send_input(LEAVE)
        await other.wait()

    async def test_cancellation_disconnects_once(self, layer, feed):
        """The server stops, and the stream is not completed."""
        consumer, http = feed
        http.future.cancel()
        assert await rest(http) == []
        assert http.future.cancelled()
        assert consumer.calls == [("disconnect",)]

    async def test_server_that_raises_oserror_means_the_client_left(self, layer, caplog):
        """Later sends are dropped until the disconnect event arrives."""
        consumer = Feed()
        wire = Wire(consumer, {"type": "http", "path": "/feed", "headers": []})
        wire.start(request())
        await until(lambda: len(wire.sent) == 2)
        wire.failure = ConnectionResetError("gone")
        for _ in range(3):
            await layer.group_send("news", {"type": "news.item", "text": "one"})
        await until(lambda: consumer.disconnected)
        wire.put(LEAVE)
        await wire.ended()
        assert consumer.calls == [("disconnect",)]
        assert not caplog.records

    async def test_overflow_with_policy_close_ends_the_stream(self, closing_layer):
        """A reader that is too slow is disconnected."""
        consumer = Feed()
        wire = Wire(consumer, {"type": "http", "path": "/feed", "headers": []})
        wire.start(request())
        await until(lambda: len(wire.sent) == 2)
        wire.stuck.add("http.response.body")
        for number in range(6):
            await closing_layer.group_send("news", {"type": "news.item", "text": str(number)})
        wire.released.set()
        await wire.ended()
        assert consumer.calls == [("disconnect",)]
