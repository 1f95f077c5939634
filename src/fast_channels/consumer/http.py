"""HTTP requests, answered at once or as a stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from fast_channels.exceptions import ConsumerStateError, StopConsumer
from fast_channels.type_defs import HttpDisconnectEvent, HttpRequestEvent

from .base import AsyncConsumer, Offered
from .runner import ConnectionState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_channels.type_defs import ChannelMessage

    from .runner import Runner

    Headers: TypeAlias = Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]

# StopConsumer, AsyncConsumer and the events are for code that imports them from here, as in 1.1.
__all__ = [
    "AsyncConsumer",
    "AsyncHttpConsumer",
    "HttpDisconnectEvent",
    "HttpRequestEvent",
    "StopConsumer",
]

logger = logging.getLogger("fast_channels.consumer")


class ResponseState(ConnectionState[Any]):
    """The state of the response to one HTTP request."""

    scope_type = "http"

    # True once the response has begun. It is complete when the connection is `over`.
    begun: bool = False
    # True if the process was about to end before handle() was called.
    _turned_away: bool = False

    def __init__(self, runner: Runner[Any]) -> None:
        super().__init__(runner)
        # The pieces of the request body that have arrived.
        self.body: list[bytes] = []
        self._size = 0

    def opened(self) -> None:
        # Handlers may ask the layer for the positions of their messages.
        self.runner.mailbox.positioned = True

    # -- request and response -------------------------------------------------

    async def collect(self, message: ChannelMessage) -> bytes | None:
        """Add a piece of the body; return the whole body when it is complete."""
        piece: bytes = message.get("body", b"")
        self.body.append(piece)
        self._size += len(piece)
        limit = self.consumer.max_body_size
        if self._size > limit:
            await self.send_response(413, f"the limit is {limit} bytes".encode())
            return None
        return None if message.get("more_body", False) else b"".join(self.body)

    def check_answered(self) -> None:
        if not self.begun:
            raise ConsumerStateError(f"{self.runner.name}.handle() sent no response")

    async def send_headers(self, status: int, headers: Headers | None) -> None:
        if self.begun:
            raise ConsumerStateError(
                f"{self.runner.name} sends headers, status {status}, after it has sent some; "
                "a response has one send_headers()"
            )
        self.begun = True
        pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
        event = {"type": "http.response.start", "status": status, "headers": list(pairs)}
        await self._send_quietly(event)

    async def send_body(self, body: bytes, *, more_body: bool = False) -> None:
        if not isinstance(body, bytes):
            raise TypeError(f"body is a {type(body).__name__}; encode it to bytes")
        if not self.begun:
            raise ConsumerStateError(
                f"{self.runner.name} sends a body before headers; call send_headers() first"
            )
        if self.over:
            # A handler that never looks must not block the loop.
            await asyncio.sleep(0)
            return
        self.over = not more_body
        await self._send_quietly(
            {"type": "http.response.body", "body": body, "more_body": more_body}
        )

    async def send_response(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        await self.send_headers(status, headers)
        await self.send_body(body)

    async def _send_quietly(self, event: ChannelMessage) -> None:
        if self.runner.gone:
            await asyncio.sleep(0)
            return
        try:
            await self.runner.send(event)
        except OSError:
            self.runner.gone = True

    # -- endings --------------------------------------------------------------

    async def failed(self, exc: Exception, message: ChannelMessage) -> None:
        await super().failed(exc, message)
        if self.begun:
            self._break_off()
        else:
            await self.send_response(500, b"Internal Server Error")

    async def overflowed(self) -> None:
        self._break_off()
        await super().overflowed()

    async def interrupted(self) -> None:
        if not self.runner.restarting:
            self._break_off()
        elif not self.begun:
            self._turned_away = True
            await self.send_response(503, b"Service Unavailable", [(b"retry-after", b"1")])
        await super().interrupted()

    def _break_off(self) -> None:
        # The status was sent. A response without an end shows the client that it is incomplete.
        self.over = True

    async def not_taken(self) -> None:
        self._break_off()
        await self.runner.break_off()

    async def cancelled(self) -> None:
        if self.runner.restarting and self.begun and not self.over:
            # A stopping server waits until the client has read the response so far, and a client
            # that does not read would block it.
            await self.runner.abort_and_let_notice()

    async def ended(self, failure: BaseException | None) -> None:
        try:
            if self.begun and not self.over and failure is None:
                await self.send_body(b"")
        except Exception as exc:  # noqa: BLE001 - servers raise different errors at the end
            logger.debug("%s: the last piece was not taken: %r", self.runner.name, exc)
        finally:
            # Even if the piece could not be sent because the client does not read.
            if not self._turned_away:
                await self._disconnect()

    async def _disconnect(self) -> None:
        try:
            await self.consumer.disconnect()
        except StopConsumer:
            pass
        except Exception:
            logger.exception("%s.disconnect failed", self.runner.name)


class AsyncHttpConsumer(AsyncConsumer):
    """
    One HTTP request. Override `handle`.

    Once the client has left, or has read nothing for `send_timeout`, sending does nothing;
    `disconnected` is True then.

    The consumer ends when the response is complete. If `handle` returns after a piece with
    `more_body`, handlers of messages from the layer can send the rest until the client leaves.
    On a layer with a history, `channel_layer.group_position(message)` returns the position of
    a group's message, from which a client can continue after a reconnect.
    """

    max_body_size: int = 2_621_440
    """Largest size of a request body in bytes; a larger one is answered with 413."""
    body: list[bytes] = cast("list[bytes]", Offered(lambda runner: runner.state.body, default=[]))
    """The pieces of the request body that have arrived."""

    _fc_runner: Runner[ResponseState]
    _fc_state = ResponseState

    # -- to override --------------------------------------------------------

    async def handle(self, body: bytes) -> None:
        """Answer the request with send_response(), or with send_headers() and send_body()."""
        raise NotImplementedError(f"{type(self).__name__} must define handle(body)")

    async def disconnect(self) -> None:
        """
        Called once when the response is complete or the client has left.

        Not called for a request that arrives while the process ends.
        """

    # -- to call ------------------------------------------------------------

    async def send_headers(self, *, status: int = 200, headers: Headers | None = None) -> None:
        """
        Begin the response. Raises ConsumerStateError the second time.

        `headers` are pairs of bytes, or a mapping.
        """
        await self._fc_runner.state.send_headers(status, headers)

    async def send_body(self, body: bytes, *, more_body: bool = False) -> None:
        """Send a piece of the body; without `more_body` it is the last one."""
        await self._fc_runner.state.send_body(body, more_body=more_body)

    async def send_response(
        self, status: int, body: bytes, *, headers: Headers | None = None
    ) -> None:
        """Send a whole response."""
        await self._fc_runner.state.send_response(status, body, headers)

    # -- from the server ----------------------------------------------------

    async def http_request(self, message: HttpRequestEvent) -> None:
        """Collect the body, then let `handle` answer."""
        body = await self._fc_runner.state.collect(message)
        if body is not None:
            await self.handle(body)
            self._fc_runner.state.check_answered()

    async def http_disconnect(self, message: HttpDisconnectEvent) -> None:
        """End the consumer, because the client is gone."""
