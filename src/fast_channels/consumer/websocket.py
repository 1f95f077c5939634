"""WebSocket connections: text, bytes and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from fast_channels.exceptions import StopConsumer

from .base import AsyncConsumer
from .close_codes import INVALID_DATA, NO_CODE, NORMAL, UNSUPPORTED_DATA
from .ws_state import WebsocketState

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fast_channels.type_defs import (
        ChannelHeaders,
        ChannelMessage,
        WebSocketConnectEvent,
        WebSocketDisconnectEvent,
        WebSocketReceiveEvent,
    )

    from .base import Runner
    from .limits import RateLimit


class AsyncWebsocketConsumer(AsyncConsumer):
    """
    One WebSocket. Override `connect`, `receive` and `disconnect`.

    `disconnect` runs exactly once for every connection whose `connect` began
    and that was not rejected, whatever ends it. All groups are left without your
    help, after it.

    What clients may do is limited by `max_frame_size`, `rate_limit`, `max_connections`,
    the heartbeat and `send_timeout`. With `resumable` a client that was away is sent what
    it has missed.
    """

    groups: Sequence[str] = ()
    """Groups to join before `connect` runs, so that no message after accept is missed."""
    max_frame_size: int | None = 1_000_000
    """
    Bytes a frame may have; a larger one closes with 1009. None for no limit.

    A text of the default size still fits into one message of a layer's default size.
    """
    rate_limit: RateLimit | None = None
    """
    Frames a client may send, such as `RateLimit(per_second=10, burst=50)`; None for no limit.
    """
    max_connections: ClassVar[int | None] = None
    """
    Connections of this class that a process serves at once; None for no limit.

    One more is closed with 1013 before `connect`. Connections of subclasses do not count.
    """
    forwards: ClassVar[Collection[str]] = ()
    """
    Types of messages that go to the client as they are.

    `forwarded_frame` makes one frame of such a message for all connections of a class. No
    handler and no `send` of yours is called. Otherwise they are like other messages.
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
    The answer of clients that have nothing else to say. Any other frame is an answer, too.

    `receive` does not see it. White space in it does not matter.
    """
    resumable: ClassVar[bool] = False
    """
    Whether clients that speak `fast-channels.resume.v1` are sent what they missed while away.

    That holds for groups that are joined by way of `groups` and `join_group`. Missed messages
    are handled by the same handlers as live ones. Needs a layer with history.
    """
    retry_after: ClassVar[float | None] = None
    """
    Seconds that such a client waits at least before it reconnects; None leaves that to it.

    Told before a close with 1001, 1011, 1012 or 1013.
    """

    _fc_runner: Runner[WebsocketState]
    _fc_state = WebsocketState

    # -- from the server ----------------------------------------------------

    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:  # noqa: ARG002
        """Join `groups`, then let `connect` decide."""
        await self._fc_runner.state.connect()

    async def websocket_receive(self, message: WebSocketReceiveEvent) -> None:
        """Hand a frame to `receive`."""
        text, data = message.get("text"), message.get("bytes")
        if text is not None:
            await self.receive(text_data=text)
        elif data is not None:
            await self.receive(bytes_data=data)

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        """Let `disconnect` run: the client is gone, and the consumer ends."""
        await self._fc_runner.state.disconnect(message.get("code") or NO_CODE)
        raise StopConsumer

    # -- to override --------------------------------------------------------

    @classmethod
    def forwarded_frame(cls, message: ChannelMessage) -> str | bytes:
        """Return the frame of a message in `forwards`: what is under "text", or else "bytes"."""
        frame: str | bytes = message["text"] if "text" in message else message["bytes"]
        return frame

    async def connect(self) -> None:
        """Accept or reject the connection; accepts it unless overridden."""
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Handle a frame: one of the two is given."""

    async def disconnect(self, code: int) -> None:
        """Handle the end of the connection. Nothing can be sent any more."""

    async def not_recovered(self, group: str) -> None:
        """
        Called when messages of a group are lost to this client: send a snapshot here.

        They are no longer in the history, or it is not known which they are. Called once
        the connection is accepted and the client told, before anything newer of the group
        is handled. Nothing is made up for then. An error closes with 1011.
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

    # A consumer sends events, this one frames: the signature that people know.
    async def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> None:
        """
        Send a frame; with `close`, close after it, with 1000 or the code that is given.

        Waits while the client reads too little, for `send_timeout` at most; then
        the connection is closed with 1013. Once it is closed, from either side,
        this does nothing but count in `sent_after_close` of the layer's
        statistics. Cancelling leaves nothing behind. Tasks of your own may send,
        too. Raises ConsumerStateError before `accept`.
        """
        if text_data is None and bytes_data is None:
            raise ValueError("send() was given neither text_data nor bytes_data")
        event: dict[str, Any] = {"type": "websocket.send", "text": text_data}
        if text_data is None:
            event = {"type": "websocket.send", "bytes": bytes_data}
        # Most frames are taken at once; no coroutine is made for those.
        pending = self._fc_runner.state.begin(event)
        if pending is not None:
            await pending
        if close:
            await self.close(NORMAL if close is True else close)

    async def join_group(self, group: str) -> None:
        """
        Join a group, and make up for what the client has missed in it.

        What it missed is handled as soon as the connection is accepted and no
        handler runs, before anything newer of the group. Every message sent after this
        has returned is handled, as after `group_add`, which this is for a client
        that does not speak the protocol. Joining twice is fine. Leave with `leave_group`.

        Raises what the layer's `join` raises; the group is not joined then.
        """
        await self._fc_runner.state.join(group)

    async def leave_group(self, group: str) -> None:
        """
        Leave a group. Missed messages that are not handled yet are forgotten.

        Leaving one that was never joined is fine. A message that was already under way
        may still be handled; its frames have no place.
        """
        await self._fc_runner.state.leave(group)


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer):
    """
    A WebSocket whose frames are JSON. Override `receive_json`.

    A frame that is not JSON, or not text, is the client's mistake and closes the
    connection, by way of `on_invalid_json` and `on_binary_frame`.
    """

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        """Decode a frame for `receive_json`, which is also given `kwargs`."""
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
        """Encode `content` and send it as text; `close` is that of `send`."""
        # Not by way of a `send` of the user's own, which may be about something else.
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
        """Return the value of a frame. What this raises for bad ones goes to `on_invalid_json`."""
        return msgspec.json.decode(text_data)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        """Return the text of a frame for a value."""
        return msgspec.json.encode(content).decode()
