"""The WebSocket client for tests."""

from __future__ import annotations

import pytest

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.testing import WebsocketCommunicator


class Echo(AsyncWebsocketConsumer):
    async def connect(self):
        subprotocols = self.scope["subprotocols"]
        await self.accept(subprotocols[0] if subprotocols else None, [(b"x-echo", b"yes")])

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data, bytes_data)


class Rejecting(AsyncWebsocketConsumer):
    async def connect(self):
        await self.close(4001)


class TestScope:
    @pytest.mark.parametrize(
        ("path", "in_scope", "query"),
        [
            ("/", "/", b""),
            ("/ws/chat", "/ws/chat", b""),
            ("/ws?a=1&b=2", "/ws", b"a=1&b=2"),
            ("/ws?", "/ws", b""),
            ("/caf%C3%A9/a%20b", "/café/a b", b""),
            ("/café", "/café", b""),
            ("/ws?name=caf%C3%A9&x=a%26b", "/ws", b"name=caf%C3%A9&x=a%26b"),
            ("/a%3Fb?c", "/a?b", b"c"),
        ],
    )
    def test_path_is_decoded_and_the_query_string_is_not(self, path, in_scope, query):
        """The communicator decodes like a server."""
        scope = WebsocketCommunicator(Echo(), path).scope
        assert scope["type"] == "websocket"
        assert scope["path"] == in_scope
        assert scope["query_string"] == query

    def test_headers_and_subprotocols_are_lists(self):
        """Lists come from any iterable."""
        scope = WebsocketCommunicator(Echo(), "/").scope
        assert scope["headers"] == []
        assert scope["subprotocols"] == []
        scope = WebsocketCommunicator(
            Echo(), "/", headers=((b"a", b"1"),), subprotocols=("v1", "v2")
        ).scope
        assert scope["headers"] == [(b"a", b"1")]
        assert scope["subprotocols"] == ["v1", "v2"]

    def test_spec_version_is_stated_if_given(self):
        """Applications may behave differently for an older server."""
        assert "asgi" not in WebsocketCommunicator(Echo(), "/").scope
        scope = WebsocketCommunicator(Echo(), "/", spec_version="2.3").scope
        assert scope["asgi"]["spec_version"] == "2.3"

    @pytest.mark.parametrize("path", [b"/ws", None, 5])
    def test_path_that_is_no_string_raises_a_sentence(self, path):
        """The error shows the actual value and the expected type."""
        with pytest.raises(TypeError, match="must be a string such as") as caught:
            WebsocketCommunicator(Echo(), path)
        assert repr(path) in str(caught.value)


class TestConnect:
    async def test_acceptance_has_the_subprotocol_and_the_headers(self):
        """The headers are the ones of the handshake's response."""
        client = WebsocketCommunicator(Echo(), "/", subprotocols=["v2", "v1"])
        assert client.response_headers is None
        assert await client.connect() == (True, "v2")
        assert client.response_headers == [(b"x-echo", b"yes")]
        await client.disconnect()

    async def test_rejection_has_the_close_code(self):
        """The application has ended, or will end without more input."""
        client = WebsocketCommunicator(Rejecting(), "/")
        assert await client.connect() == (False, 4001)
        await client.wait()

    async def test_rejection_without_a_code_is_1000(self):
        """The default of the ASGI specification."""

        async def application(scope, receive, send):
            await receive()
            await send({"type": "websocket.close"})

        client = WebsocketCommunicator(application, "/")
        assert await client.connect() == (False, 1000)
        await client.wait()

    async def test_accept_without_headers_is_fine(self):
        """The ASGI specification makes headers optional."""

        async def application(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})

        client = WebsocketCommunicator(application, "/")
        assert await client.connect() == (True, None)
        assert client.response_headers == []
        await client.wait()

    async def test_other_answer_fails_the_test(self):
        """The error shows the actual event."""

        async def application(scope, receive, send):
            await send({"type": "websocket.send", "text": "too early"})

        client = WebsocketCommunicator(application, "/")
        with pytest.raises(AssertionError, match=r"expected websocket\.accept.*too early"):
            await client.connect()
        await client.wait()

    async def test_error_in_the_application_comes_out(self):
        """A test sees the traceback where it waits."""

        async def application(scope, receive, send):
            raise LookupError("no shelf")

        client = WebsocketCommunicator(application, "/")
        with pytest.raises(LookupError, match="no shelf"):
            await client.connect()

    async def test_application_that_does_not_answer_times_out(self):
        """The timeout is `timeout` seconds."""

        class Undecided(AsyncWebsocketConsumer):
            async def connect(self):
                pass

        client = WebsocketCommunicator(Undecided(), "/")
        with pytest.raises(TimeoutError):
            await client.connect(timeout=0.01)


class TestFrames:
    @pytest.fixture
    async def client(self):
        client = WebsocketCommunicator(Echo(), "/")
        await client.connect()
        yield client
        await client.disconnect()

    @pytest.mark.parametrize("frame", ["text", "", b"bytes", b""], ids=repr)
    async def test_frames_go_both_ways(self, client, frame):
        """Text stays text and bytes stay bytes."""
        key = "text_data" if isinstance(frame, str) else "bytes_data"
        await client.send_to(**{key: frame})
        received = await client.receive_from()
        assert received == frame
        assert type(received) is type(frame)

    async def test_json_goes_both_ways(self, client):
        """JSON travels as a text frame."""
        await client.send_json_to({"a": [1, None, "ü"]})
        assert await client.receive_json_from() == {"a": [1, None, "ü"]}

    @pytest.mark.parametrize("data", [{}, {"text_data": "a", "bytes_data": b"b"}], ids=repr)
    async def test_neither_or_both_raises(self, client, data):
        """A frame has exactly one of the two."""
        with pytest.raises(ValueError, match="either text_data or bytes_data"):
            await client.send_to(**data)

    async def test_binary_frame_is_no_json(self, client):
        """The error shows the frame."""
        await client.send_to(bytes_data=b"{}")
        with pytest.raises(AssertionError, match="binary"):
            await client.receive_json_from()

    async def test_silence_can_be_asked_for(self, client):
        """receive_nothing() is true until an event comes."""
        assert await client.receive_nothing(timeout=0.01)
        await client.send_to("hello")
        assert not await client.receive_nothing()
        assert await client.receive_from() == "hello"

    async def test_frame_that_does_not_come_times_out(self):
        """The consumer is cancelled."""
        client = WebsocketCommunicator(Echo(), "/")
        await client.connect()
        with pytest.raises(TimeoutError):
            await client.receive_from(timeout=0.01)
        assert client.future.cancelled()

    @pytest.mark.parametrize(
        ("event", "frame"),
        [
            ({"text": "a", "bytes": None}, "a"),
            ({"text": None, "bytes": b"a"}, b"a"),
            ({"text": ""}, ""),
        ],
    )
    async def test_event_with_both_keys_is_a_frame(self, event, frame):
        """One of them is None, as the ASGI specification allows."""

        async def application(scope, receive, send):
            await send({"type": "websocket.send", **event})

        assert await WebsocketCommunicator(application, "/").receive_from() == frame

    @pytest.mark.parametrize(
        "event", [{}, {"text": "a", "bytes": b"a"}, {"text": None, "bytes": None}]
    )
    async def test_event_that_is_no_frame_fails_the_test(self, event):
        """A server could not send such an event."""

        async def application(scope, receive, send):
            await send({"type": "websocket.send", **event})

        with pytest.raises(AssertionError, match="either text or bytes"):
            await WebsocketCommunicator(application, "/").receive_from()

    async def test_close_in_place_of_a_frame_fails_the_test(self):
        """The error shows the code."""

        class Closing(Echo):
            async def receive(self, text_data=None, bytes_data=None):
                await self.close(4002)

        client = WebsocketCommunicator(Closing(), "/")
        await client.connect()
        await client.send_to("hello")
        with pytest.raises(AssertionError, match="4002"):
            await client.receive_from()
        await client.wait()


class TestDisconnect:
    async def test_code_reaches_the_application(self):
        """The call returns when the application has ended."""
        codes = []

        class Listening(Echo):
            async def disconnect(self, code):
                codes.append(code)

        client = WebsocketCommunicator(Listening(), "/")
        await client.connect()
        await client.disconnect(code=4003)
        assert codes == [4003]
        assert client.future.done()

    async def test_application_that_does_not_end_times_out(self):
        """The timeout is `timeout` seconds."""

        async def application(scope, receive, send):
            while True:
                await receive()

        client = WebsocketCommunicator(application, "/")
        with pytest.raises(TimeoutError, match="still runs"):
            await client.disconnect(timeout=0.01)

    async def test_error_in_the_application_comes_out(self):
        """A failing end fails the test."""

        async def application(scope, receive, send):
            await receive()
            raise LookupError

        with pytest.raises(LookupError):
            await WebsocketCommunicator(application, "/").disconnect()


async def test_works_with_a_json_consumer():
    """The use that the README shows."""

    class Adding(AsyncJsonWebsocketConsumer):
        async def receive_json(self, content, **kwargs):
            await self.send_json({"sum": sum(content["numbers"])})

    client = WebsocketCommunicator(Adding.as_asgi(), "/add")
    connected, _ = await client.connect()
    assert connected
    await client.send_json_to({"numbers": [1, 2, 3]})
    assert await client.receive_json_from() == {"sum": 6}
    await client.disconnect()
