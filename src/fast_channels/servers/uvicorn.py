"""A WebSocket protocol for `uvicorn --ws`. Needs the extra `uvicorn`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

from fast_channels.exceptions import MissingExtra, UnsuitableLibrary

from .transport import MAX_JOINED_BYTES, CoalescingTransport

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
    # uvicorn before 0.52.1 continues to send to a client that does not read.
    reason = "its WebSocket protocol has no flow control"
    raise UnsuitableLibrary("uvicorn", uvicorn.__version__, reason, "uvicorn")

__all__ = ["CoalescingWebSocketProtocol"]


# Large enough for the broadcasts that a process is likely to send at the same time. The
# cache takes at most 16 MiB, and only if all texts have the maximal length.
@lru_cache(maxsize=128)
def text_frame(text: str) -> bytes:
    """Return the frame of a text. All clients share it, because servers do not mask frames."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


class CoalescingWebSocketProtocol(WebSocketsSansIOProtocol):
    """
    The default protocol of uvicorn, with one system call for all frames of a turn.

        uvicorn --ws fast_channels.servers.uvicorn:CoalescingWebSocketProtocol chat:app

    Clients receive the same frames in the same order as without this class;
    `CoalescingTransport` describes when each frame is written. Several clients share one frame
    for the same text, unless it is compressed for each of them (`--ws-per-message-deflate`,
    uvicorn's default).
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(CoalescingTransport(cast("asyncio.Transport", transport)))

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.send" and self._is_plain():
            text = message.get("text")
            if text is not None and message.get("bytes") is None and len(text) < MAX_JOINED_BYTES:
                self.transport.write(text_frame(text))
                return
        await super().send(message)

    def shutdown(self) -> None:
        # On a connection that has sent its close frame already, uvicorn would send another one,
        # fail, and neither close the other connections nor end the lifespan.
        if not self.transport.is_closing():
            super().shutdown()

    def _is_plain(self) -> bool:
        """Return whether a frame can be sent now and unchanged."""
        return (
            self.conn.state is State.OPEN
            and not self.conn.extensions
            and not self.disconnected
            and self.writable.is_set()
        )
