"""The showcase application. Run `uvicorn sandbox.main:app`, or start_dev.py for all processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from fast_channels.layers import channel_layers
from fast_channels.routing import WebSocketRouter
from sandbox.apps.background_jobs.consumer import BackgroundJobConsumer
from sandbox.apps.room_chat.consumer import RoomChatConsumer
from sandbox.apps.showcase.consumer import (
    AnalyticsConsumer,
    ChatConsumer,
    NotificationConsumer,
    ReliableChatConsumer,
)
from sandbox.apps.showcase.history import router as history_router
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

ws_router = WebSocketRouter()
ws_router.add_websocket_route("/system", SystemMessageConsumer.as_asgi())
ws_router.add_websocket_route("/room/{room_name:path}", RoomChatConsumer.as_asgi())
ws_router.add_websocket_route("/backgroundjob", BackgroundJobConsumer.as_asgi())
ws_router.add_websocket_route("/chat", ChatConsumer.as_asgi())
ws_router.add_websocket_route("/reliable", ReliableChatConsumer.as_asgi())
ws_router.add_websocket_route("/notifications", NotificationConsumer.as_asgi())
ws_router.add_websocket_route("/analytics", AnalyticsConsumer.as_asgi())

app = FastAPI(title="Fast Channels showcase", lifespan=channel_layers.lifespan)
app.include_router(history_router)
app.mount("/ws", ws_router)
app.mount("/static/fast-channels", StaticFiles(directory=CLIENT))
app.mount("/static", StaticFiles(directory=STATIC))


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html")


@app.get("/sockets", include_in_schema=False)
async def sockets() -> list[str]:
    """Return the paths of all sockets. The page shows the panels that have theirs."""
    return [route.path for route in ws_router.routes]


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
