"""The application starts reports and notifies clients when a report is ready."""

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
    """Sends the name of each finished report, and the process that built it."""

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
    # Both calls block, so this is not an `async def`.
    if by == "celery":
        celery_tasks.build.delay(name)
    else:
        queue.enqueue(reports.build, name)
