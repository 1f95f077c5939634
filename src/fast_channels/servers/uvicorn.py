"""A WebSocket protocol for `uvicorn --ws`. Needs the extra `uvicorn`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

from fast_channels.exceptions import MissingExtra, UnsuitableLibrary

from .coalescing import LARGE, CoalescingTransport

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGISendEvent

try:
    import uvicorn
except ImportError:
    raise MissingExtra("coalescing the writes of uvicorn", "uvicorn") from None
try:
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
    from websockets.frames import Frame, Opcode
    from websockets.protocol import State
except ImportError as exc:
    raise UnsuitableLibrary("uvicorn", uvicorn.__version__, str(exc), "uvicorn") from None
if "pause_writing" not in vars(WebSocketsSansIOProtocol):
    # Before 0.52.1 it goes on sending to a client that does not read.
    reason = "its WebSocket protocol has no flow control"
    raise UnsuitableLibrary("uvicorn", uvicorn.__version__, reason, "uvicorn")

__all__ = ["CoalescingWebSocketProtocol"]


# For the bursts that a process is likely to be in. Together they take no more than
# 16 MiB, and then only if all texts are as long as they may be.
@lru_cache(maxsize=128)
def text_frame(text: str) -> bytes:
    """Return what is the same for all who are sent a text: servers do not mask their frames."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


class CoalescingWebSocketProtocol(WebSocketsSansIOProtocol):
    """
    What uvicorn uses by default, with one system call for all that a client is sent at a time.

        uvicorn --ws fast_channels.servers.uvicorn:CoalescingWebSocketProtocol chat:app

    Frames of every kind reach the client as they would without it, in the same
    order. When each of them is written, CoalescingTransport says. The frame of a
    text that several clients are sent is made once, unless it is compressed for
    each of them (`--ws-per-message-deflate`, which is uvicorn's default).
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(CoalescingTransport(cast("asyncio.Transport", transport)))

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.send" and self._is_plain():
            text = message.get("text")
            if text is not None and message.get("bytes") is None and len(text) < LARGE:
                self.transport.write(text_frame(text))
                return
        await super().send(message)

    def shutdown(self) -> None:
        # Who has said goodbye and is not gone yet is leaving already. Uvicorn would say
        # it a second time, fail, and neither close other connections nor end the lifespan.
        if not self.transport.is_closing():
            super().shutdown()

    def _is_plain(self) -> bool:
        """Whether a frame can be sent now, and nothing is to be done to it."""
        return (
            self.conn.state is State.OPEN
            and not self.conn.extensions
            and not self.disconnected
            and self.writable.is_set()
        )
