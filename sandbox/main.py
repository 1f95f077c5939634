"""The showcase application. Run `uvicorn sandbox.main:app`, or start_dev.py for all processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import Router, WebSocketRoute

from fast_channels.layers import channel_layers
from sandbox.apps.background_jobs.consumer import BackgroundJobConsumer
from sandbox.apps.room_chat.consumer import RoomChatConsumer
from sandbox.apps.showcase.consumer import (
    AnalyticsConsumer,
    ChatConsumer,
    NotificationConsumer,
    ReliableChatConsumer,
)
from sandbox.apps.system_chat.consumer import SystemMessageConsumer
from sandbox.layers import setup_layers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STATIC = Path(__file__).parent / "static"
# The library's client for browsers, which needs no build step.
CLIENT = Path(__file__).parents[1] / "clients" / "js"

# The page loads nothing from other servers and runs no inline script. Therefore even a message
# that reached it as HTML could not run code.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Browsers ask for changes each time, because developers edit these files.
    "Cache-Control": "no-cache",
}

# Before the application starts, because it looks for the layer of each consumer then.
setup_layers()

websockets = Router(
    routes=[
        WebSocketRoute("/system", SystemMessageConsumer.as_asgi()),
        WebSocketRoute("/room/{room_name:path}", RoomChatConsumer.as_asgi()),
        WebSocketRoute("/backgroundjob", BackgroundJobConsumer.as_asgi()),
        WebSocketRoute("/chat", ChatConsumer.as_asgi()),
        WebSocketRoute("/reliable", ReliableChatConsumer.as_asgi()),
        WebSocketRoute("/notifications", NotificationConsumer.as_asgi()),
        WebSocketRoute("/analytics", AnalyticsConsumer.as_asgi()),
    ]
)

app = FastAPI(title="Fast Channels showcase", lifespan=channel_layers.lifespan)
app.mount("/ws", websockets)
app.mount("/static/fast-channels", StaticFiles(directory=CLIENT))
app.mount("/static", StaticFiles(directory=STATIC))


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html")


@app.get("/healthz")
async def healthz() -> dict[str, dict[str, str]]:
    """
    Report the state of each layer. The application answers only while its layers are open.

    The status is 200 even if a layer is degraded: it recovers by itself, and restarting the
    process would not help.
    """
    aliases = channel_layers.list_aliases()
    return {"layers": {alias: channel_layers[alias].health().state for alias in aliases}}


@app.middleware("http")
async def add_page_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    if request.url.path == "/" or request.url.path.startswith("/static/"):
        response.headers.update(PAGE_HEADERS)
    return response
