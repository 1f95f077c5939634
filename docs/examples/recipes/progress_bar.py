"""How far a job has come, also for a page that was loaded again, or on another device."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from typing import TYPE_CHECKING

from fastapi import BackgroundTasks, FastAPI
from starlette.routing import WebSocketRoute

from fast_channels import AsyncJsonWebsocketConsumer, channel_layers
from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers import RedisStreamsChannelLayer
from fast_channels.layers.sync import SyncChannelLayer

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

layer = RedisStreamsChannelLayer(
    [os.environ.get("REDIS_URL", "redis://localhost:6399")],
    prefix="progress",
    # Of each job the last report, for an hour.
    history_size=1,
    history_ttl=3600,
)
channel_layers.register("progress", layer)

# Seconds between two reports, for people see no more.
PACE = 0.2


class Progress:
    """Reports to whoever watches a job. For blocking code, in any process."""

    def __init__(self, job: uuid.UUID) -> None:
        self.group = job_group(job)
        self.layer = SyncChannelLayer(layer)
        self.number = self.percent = 0
        # By time.monotonic().
        self.reported = 0.0

    def at(self, percent: int) -> None:
        self.percent = percent
        if time.monotonic() - self.reported >= PACE:
            self.report("running")

    def report(self, state: str) -> None:
        self.number += 1
        self.reported = time.monotonic()
        message = {"state": state, "percent": self.percent, "number": self.number}
        # The job goes on, also if nobody hears of it.
        with contextlib.suppress(LayerUnavailable):
            self.layer.group_send(self.group, {"type": "job.progress", **message})


class ProgressConsumer(AsyncJsonWebsocketConsumer):
    """Out: `{"state": "waiting" | "running" | "done" | "failed", "percent": n}`."""

    channel_layer_alias = "progress"

    # Of the last report that the client was sent.
    number = -1

    async def connect(self) -> None:
        group = job_group(self.scope["path_params"]["job"])
        await self.join_group(group)
        await self.accept()
        last = await self.channel_layer.history(group, limit=1)
        waiting = {"state": "waiting", "percent": 0, "number": 0}
        await self.job_progress(last.messages[-1].message if last.messages else waiting)

    async def job_progress(self, message: ChannelMessage) -> None:
        # What came between joining and reading is in the mailbox and in the history.
        if message["number"] > self.number:
            self.number = message["number"]
            await self.send_json({"state": message["state"], "percent": message["percent"]})


app = FastAPI(
    routes=[WebSocketRoute("/ws/jobs/{job:uuid}", ProgressConsumer.as_asgi())],
    lifespan=channel_layers.lifespan,
)


@app.post("/jobs")
async def start(rows: int, tasks: BackgroundTasks) -> dict[str, uuid.UUID]:
    job = uuid.uuid4()
    # In a thread of this process. A worker of RQ or Celery would call the same function.
    tasks.add_task(import_rows, job, rows)
    return {"job": job}


def import_rows(job: uuid.UUID, rows: int) -> None:
    progress = Progress(job)
    try:
        for row in range(rows):
            progress.at(100 * row // rows)
            import_row(row)
    except Exception:
        progress.report("failed")
        raise
    progress.percent = 100
    progress.report("done")


def import_row(_row: int) -> None:
    """Stand in for real work, which blocks."""
    # This is the work: a row here takes time and nothing else.
    time.sleep(0.01)


def job_group(job: uuid.UUID) -> str:
    return f"job.{job.hex}"
