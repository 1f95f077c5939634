"""
A chat that is ready to deploy: `uvicorn service:app`.

REDIS_URL is the address of the server; DRAIN_TIMEOUT and DRAIN_SPREAD are in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from starlette.routing import WebSocketRoute

from fast_channels import AsyncWebsocketConsumer, RateLimit, RedisPubSubChannelLayer, channel_layers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fast_channels import BaseChannelLayer
    from fast_channels.type_defs import ChannelMessage

# Uvicorn configures only its own loggers.
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
logger = logging.getLogger("service")

# Seconds between two lines of statistics in the log.
REPORT_INTERVAL = 60.0

channel_layers.register("chat", RedisPubSubChannelLayer(hosts=[os.environ["REDIS_URL"]]))
channel_layers.drain_timeout = float(os.environ.get("DRAIN_TIMEOUT", "25"))
channel_layers.drain_spread = float(os.environ.get("DRAIN_SPREAD", "10"))


class ChatConsumer(AsyncWebsocketConsumer):
    """A chat: every client reads every message."""

    channel_layer_alias = "chat"
    groups = ["lobby"]
    # Chat messages are short, and people do not type faster than this.
    max_frame_size = 4_000
    rate_limit = RateLimit(per_second=5, burst=20)
    # Per process, as far as its memory and its file descriptors allow.
    max_connections = 10_000

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data:
            message = {"type": "chat.message", "text": text_data}
            await self.channel_layer.group_send("lobby", message)

    async def chat_message(self, message: ChannelMessage) -> None:
        await self.send(message["text"])


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Keep the layers open, and log their statistics."""
    async with channel_layers.lifespan(app):
        reporting = asyncio.create_task(report())
        try:
            yield
        finally:
            reporting.cancel()


async def report() -> None:
    """Log the statistics of every layer, once in each interval."""
    while True:
        await asyncio.sleep(REPORT_INTERVAL)
        for alias in channel_layers.list_aliases():
            layer = channel_layers[alias]
            logger.info("%s is %s: %s", alias, layer.health().state, layer.statistics())


app = FastAPI(lifespan=lifespan, routes=[WebSocketRoute("/ws/chat", ChatConsumer.as_asgi())])


# start of health
@app.get("/healthz")
async def healthz(response: Response) -> dict[str, str]:
    """Answer 503 while this process drains; a degraded layer recovers by itself."""
    if channel_layers.connections.refusing:
        response.status_code = 503
    return {alias: channel_layers[alias].health().state for alias in channel_layers.list_aliases()}


# end of health
# start of metrics
# Fields of Statistics that say how many there are now. The other fields only grow.
GAUGES = {"channels", "waiting", "groups", "members", "subscriptions"}


@app.get("/metrics", response_class=PlainTextResponse)
async def metrics() -> str:
    """Return the counters of this process in the text format of Prometheus."""
    layers = {alias: channel_layers[alias] for alias in channel_layers.list_aliases()}
    numbers = {alias: numbers_of(layer) for alias, layer in layers.items()}
    lines: list[str] = []
    for name in dict.fromkeys(name for of_layer in numbers.values() for name in of_layer):
        kind = "gauge" if name in GAUGES or name == "ready" else "counter"
        full = f"fast_channels_{name}" + ("_total" if kind == "counter" else "")
        lines.append(f"# TYPE {full} {kind}")
        lines += [f'{full}{{layer="{alias}"}} {numbers[alias][name]}' for alias in numbers]
    return "\n".join([*lines, ""])


def numbers_of(layer: BaseChannelLayer) -> dict[str, int]:
    """Return the counters of a layer, and 1 for `ready` if its server answers."""
    return {**asdict(layer.statistics()), "ready": int(layer.health().state == "ready")}


# end of metrics
