"""A WebSocket protocol for `uvicorn --ws`. Needs the extra `uvicorn`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fast_channels.exceptions import MissingExtra, UnsuitableLibrary

from .coalescing import CoalescingTransport

if TYPE_CHECKING:
    import asyncio

try:
    import uvicorn
except ImportError:
    raise MissingExtra("coalescing the writes of uvicorn", "uvicorn") from None
try:
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
except ImportError as exc:
    raise UnsuitableLibrary("uvicorn", uvicorn.__version__, str(exc), "uvicorn") from None
if "pause_writing" not in vars(WebSocketsSansIOProtocol):
    # Before 0.52.1 it goes on sending to a client that does not read.
    reason = "its WebSocket protocol has no flow control"
    raise UnsuitableLibrary("uvicorn", uvicorn.__version__, reason, "uvicorn")

__all__ = ["CoalescingWebSocketProtocol"]


class CoalescingWebSocketProtocol(WebSocketsSansIOProtocol):
    """
    What uvicorn uses by default, with one system call for all that a client is sent at a time.

        uvicorn --ws fast_channels.servers.uvicorn:CoalescingWebSocketProtocol chat:app

    Frames of every kind reach the client as they would without it, in the same
    order. When each of them is written, CoalescingTransport says.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(CoalescingTransport(cast("asyncio.Transport", transport)))
