"""WebSocket connections: text, bytes and JSON."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from fast_channels.exceptions import (
    AcceptConnection,
    ConsumerStateError,
    DenyConnection,
)

from .close_codes import (
    INVALID_DATA,
    NORMAL,
    TRY_AGAIN_LATER,
    UNSUPPORTED_DATA,
    Ending,
)
from .handlers import defined_by
from .resuming import ResumableConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_channels.type_defs import (
        ChannelMessage,
        WebSocketConnectEvent,
        WebSocketDisconnectEvent,
        WebSocketReceiveEvent,
    )

logger = logging.getLogger("fast_channels.consumer")


class AsyncWebsocketConsumer(ResumableConnection):
    """
    One WebSocket. Override `connect`, `receive` and `disconnect`.

    `disconnect` runs exactly once for every connection whose `connect` began
    and that was not rejected, whatever ends it. Groups, those of `groups` and
    others, are left without your help, after it.

    What clients may do is limited by `max_frame_size`, `rate_limit`, `max_connections`,
    the heartbeat and `send_timeout`. With `resumable` a client that was away is sent what
    it has missed.
    """

    # Joined before `connect` runs, so that nothing sent after accept is missed.
    groups: Sequence[str] = ()

    # -- from the server ----------------------------------------------------

    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:  # noqa: ARG002
        """Join `groups`, then let `connect` decide."""
        self._check_once()
        if not self._has_place():
            full = Ending(TRY_AGAIN_LATER, "too many connections", "max_connections")
            await self._turn_away(full)
            return
        if not await self._has_come_in_order():
            return
        for group in self.groups:
            await self.join_group(group)
        self._owes_disconnect = True
        try:
            await self.connect()
        except AcceptConnection:
            if self._state == "connecting":
                await self.accept()
        except DenyConnection:
            await self.close()

    async def websocket_receive(self, message: WebSocketReceiveEvent) -> None:
        """Hand a frame to `receive`."""
        text, data = message.get("text"), message.get("bytes")
        if text is not None:
            await self.receive(text_data=text)
        elif data is not None:
            await self.receive(bytes_data=data)

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        """The client is gone: the consumer ends, which runs `disconnect`."""

    @classmethod
    def _check(cls) -> None:
        super()._check()
        if cls.groups and cls.channel_layer_alias is None:
            raise ConsumerStateError(
                f"{cls.__name__} has groups {list(cls.groups)!r} but no channel layer; "
                "set channel_layer_alias"
            )

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

    # -- to call ------------------------------------------------------------

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
        pending = self._begin_frame(event)
        if pending is not None:
            await self._finish_sending(pending, event)
        if close:
            await self.close(NORMAL if close is True else close)


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer):
    """
    A WebSocket whose frames are JSON. Override `receive_json`.

    What is no JSON, or no text, is the client's mistake and closes the
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
    def _check(cls) -> None:
        super()._check()
        base = AsyncJsonWebsocketConsumer
        own_json = defined_by(cls, "encode_json") is not base
        if cls.forwards and own_json and defined_by(cls, "forwarded_frame") is base:
            raise ConsumerStateError(
                f"{cls.__name__} has an encode_json() of its own, which cannot be awaited for "
                "messages in forwards; define forwarded_frame(message) as well"
            )

    @classmethod
    def forwarded_frame(cls, message: ChannelMessage) -> str | bytes:
        """Return the frame of a message in `forwards`: the message, with its type, as JSON."""
        return msgspec.json.encode(message).decode()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Handle a decoded frame."""

    async def send_json(self, content: Any, close: bool | int = False) -> None:
        """Encode `content` and send it as text; `close` is that of `send`."""
        await self.send(text_data=await self.encode_json(content), close=close)

    async def on_invalid_json(self, text_data: str, exc: Exception) -> None:  # noqa: ARG002
        """Called with a frame that cannot be decoded; closes with 1007 unless overridden."""
        await self.close(INVALID_DATA, f"invalid JSON: {exc}")

    async def on_binary_frame(self, bytes_data: bytes) -> None:  # noqa: ARG002
        """Called with a binary frame; closes with 1003 unless overridden."""
        await self.close(UNSUPPORTED_DATA, "only text frames with JSON are understood")

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        """Return the value of a frame. What this raises for bad ones goes to `on_invalid_json`."""
        return msgspec.json.decode(text_data)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        """Return the text of a frame for a value."""
        return msgspec.json.encode(content).decode()
