"""An HTTP client for tests, without a server or a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from .application import ApplicationCommunicator

if TYPE_CHECKING:
    from fast_channels.type_defs import ASGI3Application, ChannelHeaders


class HttpCommunicator(ApplicationCommunicator):
    """One HTTP request to an application. `path` may have a query string."""

    def __init__(
        self,
        application: ASGI3Application,
        path: str,
        *,
        method: str = "GET",
        body: bytes = b"",
        headers: ChannelHeaders | None = None,
    ) -> None:
        parsed = urlsplit(path)
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": method.upper(),
            "path": unquote(parsed.path),
            "query_string": parsed.query.encode(),
            "headers": list(headers or ()),
        }
        super().__init__(application, scope)
        self.body = body
        self._sent = False

    async def send_request(self, *, more_body: bool = False) -> None:
        """Send the body; get_response() calls this unless the test has done so."""
        self._sent = True
        await self.send_input({"type": "http.request", "body": self.body, "more_body": more_body})

    async def get_response(self, timeout: float = 1) -> dict[str, Any]:
        """Return the whole response: `status`, `headers` and `body`."""
        if not self._sent:
            await self.send_request()
        start = await self.receive_output(timeout)
        if start["type"] != "http.response.start":
            raise AssertionError(f"expected http.response.start, got {start!r}")
        response = {"status": start["status"], "headers": list(start.get("headers", ()))}
        body = b""
        more_body = True
        while more_body:
            event = await self.receive_output(timeout)
            if event["type"] != "http.response.body":
                raise AssertionError(f"expected http.response.body, got {event!r}")
            body += event.get("body", b"")
            more_body = event.get("more_body", False)
        await self.wait(timeout)
        return {**response, "body": body}
