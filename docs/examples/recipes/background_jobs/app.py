"""The application: starts reports, and tells all who watch when one is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import celery_tasks
import redis
import reports
import rq
from fastapi import FastAPI
from layers import REDIS_URL
from starlette.routing import WebSocketRoute

from fast_channels import AsyncJsonWebsocketConsumer, channel_layers

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

queue = rq.Queue("reports", connection=redis.Redis.from_url(REDIS_URL))


class ReportConsumer(AsyncJsonWebsocketConsumer):
    """Tells which report is ready, and which process has built it."""

    channel_layer_alias = "reports"
    groups = ["reports"]

    async def report_ready(self, message: ChannelMessage) -> None:
        await self.send_json({"ready": message["name"], "process": message["process"]})


app = FastAPI(
    routes=[WebSocketRoute("/ws/reports", ReportConsumer.as_asgi())],
    lifespan=channel_layers.lifespan,
)


@app.post("/reports/{name}", status_code=202)
def start(name: str, by: Literal["celery", "rq"]) -> None:
    # Both block, so this is no `async def`.
    if by == "celery":
        celery_tasks.build.delay(name)
    else:
        queue.enqueue(reports.build, name)
