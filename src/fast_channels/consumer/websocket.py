"""WebSocket connections: text, bytes and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from fast_channels.exceptions import StopConsumer
from fast_channels.type_defs import (
    WebSocketConnectEvent,
    WebSocketDisconnectEvent,
    WebSocketReceiveEvent,
)

from .base import AsyncConsumer
from .close_codes import INVALID_DATA, NO_CODE, NORMAL, UNSUPPORTED_DATA
from .ws_state import WebsocketState

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fast_channels.type_defs import ChannelHeaders, ChannelMessage

    from .limits import RateLimit
    from .runner import Runner

# StopConsumer, AsyncConsumer and the events are for code that imports them from here, as in 1.1.
__all__ = [
    "AsyncConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "StopConsumer",
    "WebSocketConnectEvent",
    "WebSocketDisconnectEvent",
    "WebSocketReceiveEvent",
]


class AsyncWebsocketConsumer(AsyncConsumer):
    """
    One WebSocket. Override `connect`, `receive` and `disconnect`.

    `disconnect` runs exactly once for every connection that was not rejected and that has begun
    `connect`. Afterwards the library leaves all groups.

    The options `max_frame_size`, `rate_limit`, `max_connections`, `send_timeout` and the
    heartbeat limit clients. With `resumable`, a client that reconnects gets the messages that
    it has missed.
    """

    groups: Sequence[str] = ()
    """Groups to join before `connect` runs, so that no message after accept is missed."""
    max_frame_size: int | None = 1_000_000
    """
    Largest size of a frame in bytes; a larger one closes with 1009. None for no limit.

    A text of the default size still fits into one message of a layer's default size.
    """
    rate_limit: RateLimit | None = None
    """
    Limit of frames per client, such as `RateLimit(per_second=10, burst=50)`; None for no limit.
    """
    max_connections: ClassVar[int | None] = None
    """
    Number of connections of this class that a process serves at once; None for no limit.

    Further connections are closed with 1013 before `connect`. Connections of subclasses do not
    count.
    """
    forwards: ClassVar[Collection[str]] = ()
    """
    Types of messages that go to the client unchanged.

    `forwarded_frame` makes one frame of such a message for all connections of a class. No
    handler and no overridden `send` is called. Otherwise these messages are like others.
    """
    heartbeat_interval: float | None = None
    """
    Seconds of silence after which `heartbeat_ping` is sent; None for no heartbeat.

    The ping is a frame like any other, so it passes every server and proxy.
    """
    heartbeat_timeout: float = 10.0
    """Seconds of silence after a ping until the connection is closed with 1011."""
    heartbeat_ping: str = '{"type":"ping"}'
    """The text of a ping."""
    heartbeat_pong: str = '{"type":"pong"}'
    """
    The answer of clients that have nothing else to send. Any other frame is an answer, too.

    `receive` does not get the answer. White space in it does not matter.
    """
    resumable: ClassVar[bool] = False
    """
    True if clients with `fast-channels.resume.v1` get missed messages after a reconnect.

    This holds for groups that are joined with `groups` or `join_group`. The same handlers
    handle missed and live messages. The layer needs a history.
    """
    retry_after: ClassVar[float | None] = None
    """
    Least number of seconds that such a client waits before it reconnects; None for no minimum.

    The client is told before a close with 1001, 1011, 1012 or 1013.
    """

    _fc_runner: Runner[WebsocketState]
    _fc_state = WebsocketState

    # -- from the server ----------------------------------------------------

    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:  # noqa: ARG002
        """Join `groups`, then let `connect` decide about the connection."""
        await self._fc_runner.state.connect()

    async def websocket_receive(self, message: WebSocketReceiveEvent) -> None:
        """Pass a frame to `receive`."""
        text, data = message.get("text"), message.get("bytes")
        if text is not None:
            await self.receive(text_data=text)
        elif data is not None:
            await self.receive(bytes_data=data)

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        """Let `disconnect` run, because the client is gone; then the consumer ends."""
        await self._fc_runner.state.disconnect(message.get("code") or NO_CODE)
        raise StopConsumer

    # -- to override --------------------------------------------------------

    @classmethod
    def forwarded_frame(cls, message: ChannelMessage) -> str | bytes:
        """Return the frame of a message in `forwards`: the value of "text", or else of "bytes"."""
        frame: str | bytes = message["text"] if "text" in message else message["bytes"]
        return frame

    async def connect(self) -> None:
        """Accept or reject the connection; accepts it unless overridden."""
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Handle a frame; one of the arguments is None."""

    async def disconnect(self, code: int) -> None:
        """Handle the end of the connection. No frame can be sent any more."""

    async def not_recovered(self, group: str) -> None:
        """
        Called when messages of a group are lost to this client: send a snapshot here.

        The messages are no longer in the history, or it is unknown which ones were missed. The
        method is called once the connection is accepted and the client has been told, before
        newer messages of the group are handled. No message is replayed then. An error closes
        with 1011.
        """

    # -- to call ------------------------------------------------------------

    async def accept(
        self, subprotocol: str | None = None, headers: ChannelHeaders | None = None
    ) -> None:
        """
        Complete the handshake. Raises ConsumerStateError the second time.

        A `subprotocol` of your own is chosen instead of the resume protocol.
        """
        await self._fc_runner.state.accept(subprotocol, headers)

    async def close(self, code: int | None = None, reason: str | None = None) -> None:
        """
        Close the connection; before `accept`, reject it.

        Closing twice is fine: the client sees one close frame, with the first code. The
        consumer ends when the handler that called this returns.
        """
        await self._fc_runner.state.close(code, reason)

    # A consumer sends events, but this method sends frames, as existing code expects.
    async def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> None:
        """
        Send a frame; with `close`, then close with 1000 or the given code.

        The call waits for a slow client, for at most `send_timeout`; then the connection is
        closed with 1013. On a closed connection, the call only increments `sent_after_close` in
        the layer's statistics. Cancelling has no side effects. Tasks of the application may
        send, too. Raises ConsumerStateError before `accept`.
        """
        if text_data is None and bytes_data is None:
            raise ValueError("send() was given neither text_data nor bytes_data")
        event: dict[str, Any] = {"type": "websocket.send", "text": text_data}
        if text_data is None:
            event = {"type": "websocket.send", "bytes": bytes_data}
        # The server takes most frames at once, and those need no coroutine.
        pending = self._fc_runner.state.begin(event)
        if pending is not None:
            await pending
        if close:
            await self.close(NORMAL if close is True else close)

    async def join_group(self, group: str) -> None:
        """
        Join a group, and replay the messages of it that the client has missed.

        Missed messages are handled once the connection is accepted and no handler runs, before
        newer messages of the group. Every message sent after this returns is handled. For a
        client without the protocol, the call is a `group_add`. Joining twice is fine. Leave
        with `leave_group`.

        Raises the errors of the layer's `join`; the group is not joined then.
        """
        await self._fc_runner.state.join(group)

    async def leave_group(self, group: str) -> None:
        """
        Leave a group, and drop missed messages that are not handled yet.

        Leaving a group that was never joined is fine. A message in transit may still be
        handled; its frames have no place.
        """
        await self._fc_runner.state.leave(group)


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer):
    """
    A WebSocket with JSON in its frames. Override `receive_json`.

    A frame that is not JSON, or not text, is the client's mistake and closes the connection;
    see `on_invalid_json` and `on_binary_frame`.
    """

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        """Decode a frame for `receive_json`, which also gets `kwargs`."""
        if text_data is None:
            await self.on_binary_frame(bytes_data or b"")
            return
        try:
            content = await self.decode_json(text_data)
        except (ValueError, RecursionError, msgspec.DecodeError) as exc:
            await self.on_invalid_json(text_data, exc)
        else:
            await self.receive_json(content, **kwargs)

    @classmethod
    def forwarded_frame(cls, message: ChannelMessage) -> str | bytes:
        """Return the frame of a message in `forwards`: the message, with its type, as JSON."""
        return msgspec.json.encode(message).decode()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Handle a decoded frame."""

    async def send_json(self, content: Any, close: bool | int = False) -> None:
        """Encode `content` and send it as text; `close` is the same as for `send`."""
        # Not through an overridden `send`, which may do something else.
        text = await self.encode_json(content)
        await AsyncWebsocketConsumer.send(self, text_data=text, close=close)

    async def on_invalid_json(self, text_data: str, exc: Exception) -> None:  # noqa: ARG002
        """Called with a frame that cannot be decoded; closes with 1007 unless overridden."""
        await self._fc_runner.state.close(INVALID_DATA, f"invalid JSON: {exc}")

    async def on_binary_frame(self, bytes_data: bytes) -> None:  # noqa: ARG002
        """Called with a binary frame; closes with 1003 unless overridden."""
        await self._fc_runner.state.close(
            UNSUPPORTED_DATA, "only text frames with JSON are understood"
        )

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        """Return the value of a frame. Its exceptions go to `on_invalid_json`."""
        return msgspec.json.decode(text_data)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        """Return the text of a frame for a value."""
        return msgspec.json.encode(content).decode()
