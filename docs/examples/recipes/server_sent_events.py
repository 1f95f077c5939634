"""News for `EventSource`: a consumer sends messages of a group in one endless HTTP response."""

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

from fast_channels import (
    AsyncHttpConsumer,
    InMemoryChannelLayer,
    InvalidPosition,
    StopConsumer,
    channel_layers,
)

if TYPE_CHECKING:
    from fast_channels.layers.position import Position
    from fast_channels.type_defs import ChannelMessage

# A client that is too slow for its mailbox is closed, and reconnects without a loss.
channel_layers.register("news", InMemoryChannelLayer(history_size=1000, overflow="close"))

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # Without this header, nginx collects events until they fill a buffer.
    (b"x-accel-buffering", b"no"),
]

# Each client waits for a random time in this range, so that they do not all reconnect at once.
RETRY_MILLISECONDS = (1000, 4000)

# Proxies end a silent response, often after 60 seconds.
HEARTBEAT_SECONDS = 15.0


class NewsEvents(AsyncHttpConsumer):
    """Sends `news` events with their positions as ids, and `reset` if some news are lost."""

    channel_layer_alias = "news"

    heartbeat: asyncio.Task[None] | None = None

    async def handle(self, body: bytes) -> None:
        request = HTTPConnection(self.scope)
        # Browsers send the header on a reconnect; our page sends `since` with a new EventSource.
        last = request.headers.get("last-event-id") or request.query_params.get("since")
        # Join before the response begins, so that later messages reach the client.
        try:
            joined = await self.channel_layer.join("news", self.channel_name, since=last or None)
        except InvalidPosition:
            joined = await self.channel_layer.join("news", self.channel_name)
        await self.send_headers(headers=HEADERS)
        await self.send_body(
            f"retry: {random.randint(*RETRY_MILLISECONDS)}\n\n".encode(), more_body=True
        )
        if not joined.recovered:
            await self.send_event("reset", joined.position, {})
        for position, message in joined.messages:
            await self.send_event("news", position, message)
        self.heartbeat = asyncio.create_task(self.send_heartbeats())

    async def news_item(self, message: ChannelMessage) -> None:
        sent_to = self.channel_layer.group_position(message)
        if sent_to is not None:
            _group, position = sent_to
            await self.send_event("news", position, message)

    async def layer_gap(self, message: ChannelMessage) -> None:
        if not message["recovered"]:
            # End the response: the client reconnects and gets the news that it missed.
            raise StopConsumer

    async def send_event(self, name: str, position: Position, data: ChannelMessage) -> None:
        # A line break would end the field, but JSON has none.
        lines = f"event: {name}\nid: {position}\ndata: {msgspec.json.encode(data).decode()}\n\n"
        await self.send_body(lines.encode(), more_body=True)

    async def send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self.send_body(b": here\n\n", more_body=True)

    async def disconnect(self) -> None:
        if self.heartbeat is not None:
            self.heartbeat.cancel()


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
