"""A WebSocket client for tests, without a server or a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec

from .application import ApplicationCommunicator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_channels.type_defs import ASGI3Application, ChannelHeaders


class WebsocketCommunicator(ApplicationCommunicator):
    """
    One WebSocket connection to an application.

    `path` may have a query string. `spec_version` is the version that a server would
    report in scope["asgi"], such as "2.4".
    """

    def __init__(
        self,
        application: ASGI3Application,
        path: str,
        headers: ChannelHeaders | None = None,
        subprotocols: Iterable[str] | None = None,
        spec_version: str | None = None,
    ) -> None:
        if not isinstance(path, str):
            raise TypeError(f"path is {path!r}; it must be a string such as '/ws/chat'")
        parsed = urlsplit(path)
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": unquote(parsed.path),
            "query_string": parsed.query.encode(),
            "headers": list(headers or ()),
            "subprotocols": list(subprotocols or ()),
        }
        if spec_version is not None:
            scope["asgi"] = {"version": "3.0", "spec_version": str(spec_version)}
        super().__init__(application, scope)
        self.response_headers: list[tuple[bytes, bytes]] | None = None
        """Headers that the application sent with its accept."""

    async def connect(self, timeout: float = 1) -> tuple[bool, int | str | None]:
        """Return (True, subprotocol), or (False, close code) if the application rejects."""
        await self.send_input({"type": "websocket.connect"})
        event = await self.receive_output(timeout)
        if event["type"] == "websocket.close":
            return False, event.get("code", 1000)
        _expect(event, "websocket.accept")
        self.response_headers = event.get("headers", [])
        return True, event.get("subprotocol")

    async def send_to(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send a frame of text or bytes to the application."""
        if (text_data is None) == (bytes_data is None):
            raise ValueError("send_to() takes either text_data or bytes_data")
        if text_data is not None:
            await self.send_input({"type": "websocket.receive", "text": text_data})
        else:
            await self.send_input({"type": "websocket.receive", "bytes": bytes_data})

    async def send_json_to(self, data: Any) -> None:
        """Send a value as JSON in a text frame."""
        await self.send_to(text_data=msgspec.json.encode(data).decode())

    async def receive_from(self, timeout: float = 1) -> str | bytes:
        """Return the next frame, text or bytes."""
        event = await self.receive_output(timeout)
        _expect(event, "websocket.send")
        text, data = event.get("text"), event.get("bytes")
        if (text is None) == (data is None):
            raise AssertionError(f"a frame must have either text or bytes: {event!r}")
        frame: str | bytes = text if text is not None else data
        return frame

    async def receive_json_from(self, timeout: float = 1) -> Any:
        """Return the value in the next frame, which must be text."""
        frame = await self.receive_from(timeout)
        if isinstance(frame, bytes):
            msg = f"JSON comes as text, this frame is binary: {frame!r}"
            raise AssertionError(msg)  # noqa: TRY004 - a test has failed
        return msgspec.json.decode(frame)

    async def disconnect(self, code: int = 1000, timeout: float = 1) -> None:
        """Disconnect, and wait for the application to end."""
        await self.send_input({"type": "websocket.disconnect", "code": code})
        await self.wait(timeout)


def _expect(event: Any, type_: str) -> None:
    if event["type"] != type_:
        raise AssertionError(f"expected {type_}, the application sent {event!r}")
