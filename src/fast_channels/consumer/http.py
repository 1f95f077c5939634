"""HTTP requests, answered at once or as a stream."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fast_channels.exceptions import ConsumerStateError, StopConsumer

from .base import AsyncConsumer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.type_defs import ChannelMessage, HttpDisconnectEvent, HttpRequestEvent

logger = logging.getLogger("fast_channels.consumer")


class AsyncHttpConsumer(AsyncConsumer):
    """
    One HTTP request. Override `handle`.

    Once the client has left, or has read nothing for `send_timeout`, sending
    does nothing; `disconnected` is True then.

    The consumer ends when the response is complete. If `handle` returns while
    the response still has `more_body` to come, it goes on: handlers of messages
    from the layer can send the rest, until the client leaves. On a layer that keeps
    history `channel_layer.group_position(message)` tells them where a message of a
    group stands: what a client is to present when it comes back.
    """

    # Bytes a request body may have; a larger one is answered with 413.
    max_body_size: int = 2_621_440

    _scope_type = "http"
    # The request body as far as it has arrived.
    _body: bytes = b""
    _headers_sent: bool = False
    _complete: bool = False
    # Whether the process is about to end and handle() was not begun any more.
    _turned_away: bool = False

    # -- to override --------------------------------------------------------

    async def handle(self, body: bytes) -> None:
        """Answer the request, with send_response() or send_headers() and send_body()."""
        raise NotImplementedError(f"{type(self).__name__} must define handle(body)")

    async def disconnect(self) -> None:
        """
        Called once, when the response is complete or the client has left.

        Not for a request that came too late, while the process was ending.
        """

    # -- to call ------------------------------------------------------------

    async def send_headers(
        self, *, status: int = 200, headers: Iterable[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Begin the response. Raises ConsumerStateError the second time."""
        if self._headers_sent:
            raise ConsumerStateError(
                f"{type(self).__name__} sends headers, status {status}, after it has sent some; "
                "a response has one send_headers()"
            )
        self._headers_sent = True
        event = {"type": "http.response.start", "status": status, "headers": list(headers or ())}
        await self._send_quietly(event)

    async def send_body(self, body: bytes, *, more_body: bool = False) -> None:
        """Send a piece of the body; without `more_body` it is the last one."""
        if not isinstance(body, bytes):
            raise TypeError(f"body is a {type(body).__name__}; encode it to bytes")
        if not self._headers_sent:
            raise ConsumerStateError(
                f"{type(self).__name__} sends a body before headers; call send_headers() first"
            )
        if self._complete:
            # So that a handler that never looks does not hold up the loop.
            await asyncio.sleep(0)
            return
        self._complete = not more_body
        await self._send_quietly(
            {"type": "http.response.body", "body": body, "more_body": more_body}
        )

    async def send_response(
        self, status: int, body: bytes, *, headers: Iterable[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Send a whole response."""
        await self.send_headers(status=status, headers=headers)
        await self.send_body(body)

    # -- from the server ----------------------------------------------------

    async def http_request(self, message: HttpRequestEvent) -> None:
        """Collect the body, then let `handle` answer."""
        self._body += message.get("body", b"")
        if len(self._body) > self.max_body_size:
            await self.send_response(413, f"the limit is {self.max_body_size} bytes".encode())
        elif not message.get("more_body", False):
            await self.handle(self._body)
            if not self._headers_sent:
                raise ConsumerStateError(f"{type(self).__name__}.handle() sent no response")

    async def http_disconnect(self, message: HttpDisconnectEvent) -> None:
        """The client is gone: the consumer ends."""

    # -- beginning and end --------------------------------------------------

    async def _open(self) -> tuple[BaseChannelLayer | None, Mailbox]:
        layer, mailbox = await super()._open()
        mailbox.positioned = True
        return layer, mailbox

    async def _run(self, mailbox: Mailbox) -> None:
        try:
            await super()._run(mailbox)
        except asyncio.CancelledError:
            if self._restarting and self._headers_sent and not self._complete:
                # A server that is to stop waits until the client has read what
                # there is, and that may be never.
                await self._abort_and_let_notice()
            raise

    async def _guarded(self, message: ChannelMessage, *, from_layer: bool = False) -> None:
        await super()._guarded(message, from_layer=from_layer)
        if self._complete:
            raise StopConsumer

    async def _failed(self, exc: Exception, message: ChannelMessage) -> None:
        await super()._failed(exc, message)
        if self._headers_sent:
            self._break_off()
        else:
            await self.send_response(500, b"Internal Server Error")

    async def _overflowed(self, mailbox: Mailbox) -> None:
        self._break_off()
        await super()._overflowed(mailbox)

    async def _interrupted(self) -> None:
        if not self._restarting:
            self._break_off()
        elif not self._headers_sent:
            self._turned_away = True
            await self.send_response(503, b"Service Unavailable", headers=[(b"retry-after", b"1")])
        await super()._interrupted()

    def _break_off(self) -> None:
        # Too late for a status. A response that is never completed tells the
        # client that this was not all of it.
        self._complete = True

    async def _ended(self, failure: BaseException | None) -> None:
        try:
            if self._headers_sent and not self._complete and failure is None:
                await self.send_body(b"")
        except Exception as exc:  # noqa: BLE001 - servers differ in what they raise at the end
            logger.debug("%s: the last piece was not taken: %r", type(self).__name__, exc)
        finally:
            # Also if the piece could not be sent because nobody reads.
            if not self._turned_away:
                await self._disconnect()

    async def _disconnect(self) -> None:
        try:
            await self.disconnect()
        except StopConsumer:
            pass
        except Exception:
            logger.exception("%s.disconnect failed", type(self).__name__)

    async def _given_up(self) -> None:
        self._break_off()
        await self._break_off_slow()

    async def _send_quietly(self, event: ChannelMessage) -> None:
        if self.disconnected:
            await asyncio.sleep(0)
            return
        try:
            await self.send(event)
        except OSError:
            self.disconnected = True
