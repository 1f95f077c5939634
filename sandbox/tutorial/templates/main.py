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
        # TODO 2.2: route /system to SystemMessageConsumer
        # TODO 3.6: route /room/{room_name} to RoomChatConsumer
        # TODO 4.9: route /backgroundjob to BackgroundJobConsumer
        # TODO 5.3: route /chat to ChatConsumer
        # TODO 5.4: route /reliable to ReliableChatConsumer
        # TODO 5.8: route /notifications to NotificationConsumer
        # TODO 5.15: route /analytics to AnalyticsConsumer
    ]
)

# TODO 1.1: the application, whose lifespan opens and closes the layers
app.mount("/ws", websockets)
app.mount("/static/fast-channels", StaticFiles(directory=CLIENT))
app.mount("/static", StaticFiles(directory=STATIC))


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html")


# TODO 1.2: an endpoint that says how the layers are


@app.middleware("http")
async def add_page_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    if request.url.path == "/" or request.url.path.startswith("/static/"):
        response.headers.update(PAGE_HEADERS)
    return response
