"""JSON over a WebSocket: decoding, encoding, and invalid input."""

from __future__ import annotations

import json

import msgspec
import pytest

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from tests.consumer.support import ALIAS, Recorder, closes, errors, rest


class Echo(AsyncJsonWebsocketConsumer):
    """Sends each value back."""

    channel_layer_alias = ALIAS
    groups = ("room",)

    def __init__(self) -> None:
        self.calls = []

    async def receive_json(self, content, **kwargs):
        self.calls.append(("receive_json", content))
        await self.send_json(content)

    async def disconnect(self, code):
        self.calls.append(("disconnect", code))


class TestRoundTrip:
    @pytest.mark.parametrize(
        "content",
        [
            {"type": "chat", "text": "grüße 🙂"},
            [1, -2.5, True, False, None, "", {}, []],
            "a string",
            0,
            None,
            {"nested": {"a": [{"b": [[]]}]}},
            2**63,
            -(2**70),
        ],
        ids=repr,
    )
    async def test_content_arrives_as_it_was_sent(self, layer, connect, content):
        """Both directions keep values, even numbers beyond 64 bits."""
        consumer = Echo()
        client = await connect(consumer)
        await client.send_to(json.dumps(content))
        frame = await client.receive_from()
        assert isinstance(frame, str)
        assert json.loads(frame) == content
        assert consumer.calls == [("receive_json", content)]
        await client.disconnect()

    async def test_send_json_with_close_closes_after_the_frame(self, layer, connect):
        """The code is 1000, as with send()."""

        class Parting(Echo):
            async def receive_json(self, content, **kwargs):
                await self.send_json({"bye": content}, close=True)

        client = await connect(Parting())
        await client.send_json_to(1)
        events = await rest(client)
        assert json.loads(events[0]["text"]) == {"bye": 1}
        assert closes(events) == [(1000, "")]

    async def test_layer_handler_may_send_json(self, layer, connect):
        """A message of the layer is not a JSON frame, but a handler can send it as one."""

        class Forwarding(Echo):
            async def chat_message(self, message):
                await self.send_json(message)

        client = await connect(Forwarding())
        await layer.group_send("room", {"type": "chat.message", "text": "hello"})
        assert await client.receive_json_from() == {"type": "chat.message", "text": "hello"}
        await client.disconnect()

    async def test_content_that_is_no_json_is_the_servers_error(self, layer, connect, caplog):
        """The connection closes with 1011, and the log shows the line that sent the value."""

        class Odd(Echo):
            async def receive_json(self, content, **kwargs):
                await self.send_json(object())

        client = await connect(Odd())
        await client.send_json_to(1)
        assert closes(await rest(client)) == [(1011, "")]
        assert len(errors(caplog)) == 1

    async def test_frame_type_is_no_business_of_dispatch(self, layer, connect):
        """A client's `type` does not call a method."""
        consumer = Echo()
        client = await connect(consumer)
        for type_ in ("close", "disconnect", "websocket.disconnect"):
            await client.send_json_to({"type": type_})
            assert await client.receive_json_from() == {"type": type_}
        await client.disconnect()


class TestInvalidJson:
    """
    The client is at fault: the code is 1007, disconnect() runs once, and no traceback is
    logged.
    """

    @pytest.mark.parametrize(
        "frame",
        [
            "",
            "{",
            "not json",
            '{"a": 1,}',
            "{'a': 1}",
            "NaN",
            "[Infinity]",
            "1e400",
            "9" * 5000,
            '"\\ud800"',
            "[" * 100_000,
            '{"a":' * 100_000,
            "[" * 100_000 + "]" * 100_000,
            "1 2",
            "\x00",
        ],
        ids=lambda frame: f"{frame[:12]!r} of {len(frame)}",
    )
    async def test_invalid_frame_closes_with_1007(self, layer, connect, caplog, frame):
        """The reason has the problem, and fits into a close frame."""
        consumer = Echo()
        client = await connect(consumer)
        await client.send_to(frame)
        [(code, reason)] = closes(await rest(client))
        assert code == 1007
        assert reason.startswith("invalid JSON: ")
        assert len(reason.encode()) <= 123
        assert consumer.calls == [("disconnect", 1007)]
        assert not errors(caplog)

    async def test_hook_may_answer_and_go_on(self, layer, connect, caplog):
        """The hook gets the frame and the error."""

        class Patient(Echo):
            async def on_invalid_json(self, text_data, exc):
                await self.send_json({"error": type(exc).__name__, "frame": text_data})

        client = await connect(Patient())
        await client.send_to("{")
        assert await client.receive_json_from() == {"error": "DecodeError", "frame": "{"}
        await client.send_json_to("still here")
        assert await client.receive_json_from() == "still here"
        await client.disconnect()
        assert not caplog.records

    async def test_hook_that_fails_is_the_servers_error(self, layer, connect, caplog):
        """Errors in user code close with 1011 anywhere."""

        class Failing(Echo):
            async def on_invalid_json(self, text_data, exc):
                raise ZeroDivisionError

        client = await connect(Failing())
        await client.send_to("{")
        assert closes(await rest(client)) == [(1011, "")]
        assert [record.exc_info[0] for record in errors(caplog)] == [ZeroDivisionError]

    async def test_value_error_in_receive_json_is_not_the_clients_mistake(
        self, layer, connect, caplog
    ):
        """Only errors of decoding count as invalid JSON."""

        class Failing(Echo):
            async def receive_json(self, content, **kwargs):
                raise ValueError("in the handler")

        client = await connect(Failing())
        await client.send_json_to(1)
        assert closes(await rest(client)) == [(1011, "")]
        assert len(errors(caplog)) == 1

    async def test_neighbour_is_untouched(self, layer, connect):
        """The other client's connection is not affected."""
        bad, good = await connect(Echo()), await connect(Recorder())
        await bad.send_to("{")
        await rest(bad)
        await good.send_to("hello")
        assert await good.receive_from() == "hello"
        await good.disconnect()


class TestBinaryFrames:
    """A JSON consumer accepts text frames only."""

    @pytest.mark.parametrize("frame", [b"", b"{}", b"\xff"], ids=repr)
    async def test_binary_frame_closes_with_1003(self, layer, connect, caplog, frame):
        """The code is the same if the frame contains JSON."""
        consumer = Echo()
        client = await connect(consumer)
        await client.send_to(bytes_data=frame)
        [(code, reason)] = closes(await rest(client))
        assert code == 1003
        assert "text" in reason
        assert consumer.calls == [("disconnect", 1003)]
        assert not errors(caplog)

    async def test_hook_may_take_the_frame(self, layer, connect):
        """An override of one method accepts uploads next to JSON."""

        class Uploading(Echo):
            async def on_binary_frame(self, bytes_data):
                await self.send_json({"bytes": len(bytes_data)})

        client = await connect(Uploading())
        await client.send_to(bytes_data=b"\x00" * 10)
        assert await client.receive_json_from() == {"bytes": 10}
        await client.disconnect()


class TestOtherCodecs:
    async def test_decode_and_encode_may_be_replaced(self, layer, connect):
        """Both are async class methods, as in Django Channels."""

        class Reversed(Echo):
            @classmethod
            async def decode_json(cls, text_data):
                return text_data[::-1]

            @classmethod
            async def encode_json(cls, content):
                return f"<{content}>"

        client = await connect(Reversed())
        await client.send_to("abc")
        assert await client.receive_from() == "<cba>"
        await client.disconnect()

    @pytest.mark.parametrize(
        ("decode", "bad"),
        [
            (json.loads, '{"a": nothing}'),
            (msgspec.json.Decoder(dict[str, int]).decode, '{"a": "not a number"}'),
        ],
        ids=["json", "msgspec with a schema"],
    )
    async def test_errors_of_other_decoders_close_with_1007(
        self, layer, connect, caplog, decode, bad
    ):
        """json.JSONDecodeError and msgspec.ValidationError count as invalid JSON, too."""

        class Other(Echo):
            @classmethod
            async def decode_json(cls, text_data):
                return decode(text_data)

        consumer = Other()
        client = await connect(consumer)
        await client.send_to('{"a": 1}')
        assert await client.receive_json_from() == {"a": 1}
        await client.send_to(bad)
        [(code, _)] = closes(await rest(client))
        assert code == 1007
        assert consumer.calls[-1] == ("disconnect", 1007)
        assert not errors(caplog)

    async def test_nothing_is_done_with_json_unless_overridden(self, layer, connect):
        """The plain class decodes every frame and sends nothing."""
        client = await connect(AsyncJsonWebsocketConsumer())
        await client.send_json_to({"a": 1})
        await client.disconnect()
        assert await rest(client) == []
