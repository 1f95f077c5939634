"""The HTTP client for tests."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.consumer import AsyncHttpConsumer
from fast_channels.testing import HttpCommunicator


class Echo(AsyncHttpConsumer):
    async def handle(self, body):
        await self.send_response(201, body, headers=[(b"x-method", self.scope["method"].encode())])


class TestScope:
    def test_scope_is_that_of_a_request(self):
        """The path is decoded, the query string is unchanged, the method is in upper case."""
        scope = HttpCommunicator(
            Echo(), "/caf%C3%A9?a=%20", method="post", headers=[(b"a", b"1")]
        ).scope
        assert scope == {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/café",
            "query_string": b"a=%20",
            "headers": [(b"a", b"1")],
        }

    def test_request_is_a_get_without_headers_unless_told(self):
        """The shortest request is the most common."""
        scope = HttpCommunicator(Echo(), "/").scope
        assert scope["method"] == "GET"
        assert scope["headers"] == []
        assert scope["query_string"] == b""


class TestResponse:
    async def test_response_is_a_mapping_of_its_parts(self):
        """The application has ended when the response is returned."""
        http = HttpCommunicator(Echo(), "/", method="PUT", body=b"hello")
        assert await http.get_response() == {
            "status": 201,
            "headers": [(b"x-method", b"PUT")],
            "body": b"hello",
        }
        assert http.future.done()

    async def test_application_has_ended_when_the_response_is_returned(self):
        """The application's work after the last piece is part of the request."""
        done = []

        async def application(scope, receive, send):
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body"})
            await asyncio.sleep(0.01)
            done.append(True)

        await HttpCommunicator(application, "/").get_response()
        assert done == [True]

    async def test_pieces_are_joined(self):
        """A piece may lack its keys."""

        async def application(scope, receive, send):
            await receive()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await send({"type": "http.response.body", "more_body": True})
            await send({"type": "http.response.body", "body": b"b"})

        response = await HttpCommunicator(application, "/").get_response()
        assert response == {"status": 200, "headers": [], "body": b"ab"}

    async def test_request_may_be_sent_in_pieces(self):
        """get_response() sends nothing if the test has sent pieces."""
        http = HttpCommunicator(Echo(), "/", body=b"one ")
        await http.send_request(more_body=True)
        await http.send_input({"type": "http.request", "body": b"two"})
        assert (await http.get_response())["body"] == b"one two"

    @pytest.mark.parametrize(
        "events",
        [
            [{"type": "http.response.body", "body": b""}],
            [{"type": "http.response.start", "status": 200}] * 2,
        ],
        ids=["body first", "two starts"],
    )
    async def test_events_in_the_wrong_order_fail_the_test(self, events):
        """The error shows the actual and the expected event."""

        async def application(scope, receive, send):
            for event in events:
                await send(event)

        http = HttpCommunicator(application, "/")
        with pytest.raises(AssertionError, match=r"expected http\.response\.\w+, got"):
            await http.get_response()
        await http.wait()

    async def test_application_that_does_not_answer_times_out(self):
        """The timeout is `timeout` seconds."""

        async def application(scope, receive, send):
            while True:
                await receive()

        with pytest.raises(TimeoutError):
            await HttpCommunicator(application, "/").get_response(timeout=0.01)

    async def test_error_in_the_application_comes_out(self):
        """The error keeps its type and text."""

        async def application(scope, receive, send):
            raise LookupError("no shelf")

        with pytest.raises(LookupError, match="no shelf"):
            await HttpCommunicator(application, "/").get_response()

    async def test_response_that_ends_early_fails_the_test(self):
        """The test fails at once, not after the timeout."""

        async def application(scope, receive, send):
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})

        with pytest.raises(RuntimeError, match="ended without sending anything more"):
            await HttpCommunicator(application, "/").get_response(timeout=60)
