"""News for `EventSource`: an HTTP response that never ends, fed by a layer."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.requests import HTTPConnection
from starlette.routing import Route

from fast_channels import AsyncHttpConsumer, InMemoryChannelLayer, channel_layers
from fast_channels.exceptions import InvalidPosition, StopConsumer

if TYPE_CHECKING:
    from fast_channels.layers.position import Position
    from fast_channels.type_defs import ChannelMessage

# A client that is too slow for its mailbox is closed. It comes back and loses nothing.
channel_layers.register("news", InMemoryChannelLayer(history_size=1000, overflow="close"))

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # nginx would collect events until they fill a buffer.
    (b"x-accel-buffering", b"no"),
]

# Milliseconds that a client waits before it comes back; each is told another time, so that
# they do not all come back at once.
RETRY = (1000, 4000)

# Seconds between signs of life. Proxies end a response that is silent, often after 60.
HEARTBEAT = 15.0


class NewsEvents(AsyncHttpConsumer):
    """Events `news`, each with its position as id; `reset` if some are lost to this client."""

    channel_layer_alias = "news"

    # Sends the signs of life.
    heart: asyncio.Task[None] | None = None

    async def handle(self, body: bytes) -> None:
        request = HTTPConnection(self.scope)
        # Sent by the browser when it comes back, and by a page that made a new EventSource.
        last = request.headers.get("last-event-id") or request.query_params.get("since")
        # Before the response begins: what is sent after the client has seen that arrives.
        try:
            joined = await self.channel_layer.join("news", self.channel_name, since=last or None)
        except InvalidPosition:
            joined = await self.channel_layer.join("news", self.channel_name)
        await self.send_headers(headers=HEADERS)
        await self.send_body(f"retry: {random.randint(*RETRY)}\n\n".encode(), more_body=True)
        if not joined.recovered:
            await self.send_event("reset", joined.position, {})
        for position, message in joined.messages:
            await self.send_event("news", position, message)
        self.heart = asyncio.create_task(self.beat())

    async def news_item(self, message: ChannelMessage) -> None:
        place = self.channel_layer.group_position(message)
        if place is not None:
            await self.send_event("news", place[1], message)

    async def layer_gap(self, message: ChannelMessage) -> None:
        if not message["recovered"]:
            # The response ends, the client comes back, and is told what it missed.
            raise StopConsumer

    async def send_event(self, name: str, position: Position, data: ChannelMessage) -> None:
        # JSON has no line breaks, which would end the field.
        lines = f"event: {name}\nid: {position}\ndata: {msgspec.json.encode(data).decode()}\n\n"
        await self.send_body(lines.encode(), more_body=True)

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            await self.send_body(b": here\n\n", more_body=True)

    async def disconnect(self) -> None:
        if self.heart is not None:
            self.heart.cancel()


app = FastAPI(
    routes=[Route("/events", NewsEvents.as_asgi(), methods=["GET"])],
    lifespan=channel_layers.lifespan,
)


@app.post("/news")
async def publish(text: str) -> None:
    await channel_layers["news"].group_send("news", {"type": "news.item", "text": text})


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_suffix(".html"))
