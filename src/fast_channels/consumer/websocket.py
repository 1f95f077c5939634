"""WebSocket connections: text, bytes and JSON."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from fast_channels.exceptions import (
    AcceptConnection,
    ConsumerStateError,
    DenyConnection,
    StopConsumer,
)

from .base import AsyncConsumer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.type_defs import (
        ChannelHeaders,
        ChannelMessage,
        WebSocketConnectEvent,
        WebSocketDisconnectEvent,
        WebSocketReceiveEvent,
    )

logger = logging.getLogger("fast_channels.consumer")

# Close codes of RFC 6455, section 7.4.1, and of the IANA registry it founded.
NORMAL = 1000
GOING_AWAY = 1001
UNSUPPORTED_DATA = 1003
NO_CODE = 1005
INVALID_DATA = 1007
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013

# Stands in the mailbox for a frame that is too large to be kept there.
TOO_LARGE: WebSocketReceiveEvent = {"type": "websocket.receive"}

# Seconds that the server may take to send a close frame.
CLOSE_TIMEOUT = 5.0

# A close frame holds 125 bytes, two of which are the code.
REASON_LIMIT = 123

# connecting: before accept. open: frames may be sent. closed: by us, by the
# client or by an error; nothing is sent any more.
State = Literal["connecting", "open", "closed"]


class AsyncWebsocketConsumer(AsyncConsumer):
    """
    One WebSocket. Override `connect`, `receive` and `disconnect`.

    `disconnect` runs exactly once for every connection whose `connect` began
    and that was not rejected, whatever ends it. Groups, those of `groups` and
    others, are left without your help, after it.
    """

    # Joined before `connect` runs, so that nothing sent after accept is missed.
    groups: Sequence[str] = ()
    # Bytes a frame may have; a larger one closes with 1009. None for no limit.
    # A text of this size still fits into one message of a layer's default size.
    max_frame_size: int | None = 1_000_000

    _scope_type = "websocket"
    _state: State = "connecting"
    # True from when connect() begins, unless the connection is rejected.
    _owes_disconnect: bool = False
    # What disconnect() will be told; whoever closes first sets it.
    _close_code: int = GOING_AWAY

    # -- from the server ----------------------------------------------------

    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:  # noqa: ARG002
        """Join `groups`, then let `connect` decide."""
        self._check()
        for group in self.groups:
            await self.channel_layer.group_add(group, self.channel_name)
        self._owes_disconnect = True
        try:
            await self.connect()
        except AcceptConnection:
            if self._state == "connecting":
                await self.accept()
        except DenyConnection:
            await self.close()

    async def websocket_receive(self, message: WebSocketReceiveEvent) -> None:
        """Hand a frame to `receive`, if it is not too large."""
        text, data = message.get("text"), message.get("bytes")
        if message is TOO_LARGE:
            await self.close(MESSAGE_TOO_BIG, f"a frame may have {self.max_frame_size} bytes")
        elif text is not None:
            await self.receive(text_data=text)
        elif data is not None:
            await self.receive(bytes_data=data)

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        """The client is gone: the consumer ends, which runs `disconnect`."""

    # -- to override --------------------------------------------------------

    async def connect(self) -> None:
        """Accept or reject the connection; accepts it unless overridden."""
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Handle a frame: one of the two is given."""

    async def disconnect(self, code: int) -> None:
        """Handle the end of the connection. Nothing can be sent any more."""

    # -- to call ------------------------------------------------------------

    async def accept(
        self, subprotocol: str | None = None, headers: ChannelHeaders | None = None
    ) -> None:
        """Complete the handshake. Raises ConsumerStateError the second time."""
        if self._state == "closed":
            return
        if self._state == "open":
            raise ConsumerStateError(
                f"{type(self).__name__} accepts a connection that is accepted already; "
                "call accept() once, in connect()"
            )
        self._state = "open"
        event = {"type": "websocket.accept", "subprotocol": subprotocol}
        await self._base_send({**event, "headers": list(headers or [])})

    # A consumer sends events, this one frames: the signature that people know.
    async def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool = False,
    ) -> None:
        """
        Send a frame; with `close`, close with 1000 after it.

        Once the connection is closed, from either side, this does nothing but
        count. Raises ConsumerStateError before `accept`.
        """
        if text_data is None and bytes_data is None:
            raise ValueError("send() was given neither text_data nor bytes_data")
        if self._state == "connecting":
            raise ConsumerStateError(
                f"{type(self).__name__} sends before the connection is accepted; "
                "call accept() in connect() first"
            )
        if self._state == "closed" or self.disconnected:
            self._count_sent_after_close()
        elif text_data is not None:
            await self._base_send({"type": "websocket.send", "text": text_data})
        else:
            await self._base_send({"type": "websocket.send", "bytes": bytes_data})
        if close:
            await self.close(NORMAL)

    async def close(self, code: int | None = None, reason: str | None = None) -> None:
        """
        Close the connection, before `accept` reject it. Closing twice is fine.

        The consumer ends when the handler that called this returns.
        """
        if self._state == "connecting":
            # Rejected: it never was a connection, so nothing is disconnected.
            self._owes_disconnect = False
        await self._shut(NORMAL if code is None else code, reason or "")

    # -- endings ------------------------------------------------------------

    async def _guarded(self, message: ChannelMessage, *, from_layer: bool = False) -> None:
        if message["type"] == "websocket.disconnect" and self._state != "closed":
            self._state = "closed"
            self._close_code = message.get("code") or NO_CODE
        await super()._guarded(message, from_layer=from_layer)
        if self._state == "closed":
            raise StopConsumer

    @classmethod
    def _check(cls) -> None:
        if cls.groups and cls.channel_layer_alias is None:
            raise ConsumerStateError(
                f"{cls.__name__} has groups {list(cls.groups)!r} but no channel layer; "
                "set channel_layer_alias"
            )

    async def _failed(self, exc: Exception, message: ChannelMessage) -> None:
        await super()._failed(exc, message)
        await self._shut(INTERNAL_ERROR)

    async def _overflowed(self, mailbox: Mailbox) -> None:
        await self._shut(TRY_AGAIN_LATER, "slow")
        await super()._overflowed(mailbox)

    async def _interrupted(self) -> None:
        if self._restarting and self._state == "connecting" and not self._owes_disconnect:
            # A browser that is rejected sees 1006, as if the network had failed.
            await self.accept()
        reason = "restarting" if self._restarting else "messages may have been lost"
        await self._shut(SERVICE_RESTART, reason)
        await super()._interrupted()

    async def _ended(self, failure: BaseException | None) -> None:
        try:
            code = SERVICE_RESTART if self._restarting else GOING_AWAY
            await self._shut(NORMAL if failure is None else code)
        except Exception as exc:  # noqa: BLE001 - servers differ in what they raise at the end
            logger.debug("%s: the close frame was not taken: %r", type(self).__name__, exc)
        finally:
            # Also if the frame could not be sent because nobody reads.
            await self._disconnect_once()

    async def _disconnect_once(self) -> None:
        if not self._owes_disconnect:
            return
        self._owes_disconnect = False
        try:
            await self.disconnect(self._close_code)
        except StopConsumer:
            pass
        except Exception:
            logger.exception("%s.disconnect failed", type(self).__name__)

    async def _shut(self, code: int, reason: str = "") -> None:
        """Send the one close frame, unless the connection is closed."""
        if self._state == "closed":
            return
        self._state = "closed"
        self._close_code = code
        # The caller may be another task than the one that waits there.
        self._mailbox.close()
        if not self.disconnected:
            event = {"type": "websocket.close", "code": code, "reason": _shortened(reason)}
            # A client that does not read must not keep us here.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    # Granian sends no close frame while somebody receives.
                    await self._stop_receiving()
                    await self._base_send(event)

    async def _base_send(self, event: ChannelMessage) -> None:
        try:
            await self.base_send(event)
        except OSError:
            # What servers raise, by the ASGI specification, once the client is
            # gone. The event that says so, and with which code, is under way.
            self.disconnected = True
            self._count_sent_after_close()

    def _count_sent_after_close(self) -> None:
        # None was opened for a client that came during a drain.
        if hasattr(self, "channel_layer"):
            self.channel_layer.count_sent_after_close()

    def _admitted(self, event: ChannelMessage) -> ChannelMessage:
        if event["type"] != "websocket.receive":
            return event
        return TOO_LARGE if self._too_large(event.get("text"), event.get("bytes")) else event

    def _too_large(self, text: str | None, data: bytes | None) -> bool:
        limit = self.max_frame_size
        if limit is None:
            return False
        if text is not None:
            # A character takes one to four bytes; count them only if it matters.
            return len(text) * 4 > limit and len(text.encode(errors="replace")) > limit
        return data is not None and len(data) > limit


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
        if text_data is None:
            await self.on_binary_frame(bytes_data or b"")
            return
        try:
            content = await self.decode_json(text_data)
        except (ValueError, RecursionError, msgspec.DecodeError) as exc:
            await self.on_invalid_json(text_data, exc)
        else:
            await self.receive_json(content, **kwargs)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Handle a decoded frame."""

    async def send_json(self, content: Any, close: bool = False) -> None:
        """Encode `content` and send it as text; with `close`, close with 1000 after it."""
        await self.send(text_data=await self.encode_json(content), close=close)

    async def on_invalid_json(self, text_data: str, exc: Exception) -> None:  # noqa: ARG002
        """Called with a frame that cannot be decoded; closes with 1007 unless overridden."""
        await self.close(INVALID_DATA, f"invalid JSON: {exc}")

    async def on_binary_frame(self, bytes_data: bytes) -> None:  # noqa: ARG002
        """Called with a binary frame; closes with 1003 unless overridden."""
        await self.close(UNSUPPORTED_DATA, "only text frames with JSON are understood")

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        return msgspec.json.decode(text_data)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        return msgspec.json.encode(content).decode()


def _shortened(reason: str) -> str:
    return reason.encode(errors="replace")[:REASON_LIMIT].decode(errors="ignore")
