"""Pages show the progress of a job, even after a reload or on another device."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from typing import TYPE_CHECKING

from fastapi import BackgroundTasks, FastAPI
from starlette.routing import WebSocketRoute

from fast_channels import (
    AsyncJsonWebsocketConsumer,
    LayerUnavailable,
    RedisStreamsChannelLayer,
    SyncChannelLayer,
    channel_layers,
)

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

layer = RedisStreamsChannelLayer(
    [os.environ.get("REDIS_URL", "redis://localhost:6399")],
    prefix="progress",
    # Keep the last report of each job for an hour.
    history_size=1,
    history_ttl=3600,
)
channel_layers.register("progress", layer)

# People see no more than a few reports per second.
REPORT_INTERVAL_SECONDS = 0.2


class Progress:
    """Reports the progress of a job to its group, from blocking code in any process."""

    def __init__(self, job: uuid.UUID) -> None:
        self.group = job_group(job)
        self.layer = SyncChannelLayer(layer)
        self.number = self.percent = 0
        self.reported = 0.0
        """The time.monotonic() of the last report."""

    def at(self, percent: int) -> None:
        self.percent = percent
        if time.monotonic() - self.reported >= REPORT_INTERVAL_SECONDS:
            self.report("running")

    def report(self, state: str) -> None:
        self.number += 1
        self.reported = time.monotonic()
        message = {"state": state, "percent": self.percent, "number": self.number}
        # A report that fails must not fail the job.
        with contextlib.suppress(LayerUnavailable):
            self.layer.group_send(self.group, {"type": "job.progress", **message})


class ProgressConsumer(AsyncJsonWebsocketConsumer):
    """Sends `{"state": "waiting" | "running" | "done" | "failed", "percent": n}`."""

    channel_layer_alias = "progress"

    number = -1
    """The number of the last report that the client has got."""

    async def connect(self) -> None:
        group = job_group(self.scope["path_params"]["job"])
        await self.join_group(group)
        await self.accept()
        last = await self.channel_layer.history(group, limit=1)
        waiting = {"state": "waiting", "percent": 0, "number": 0}
        await self.job_progress(last.messages[-1].message if last.messages else waiting)

    async def job_progress(self, message: ChannelMessage) -> None:
        # A report from between joining and reading is in the mailbox and in the history.
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
    # Runs in a thread of this process. A worker of RQ or Celery may call the same function.
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
    # A row takes time and does nothing else.
    time.sleep(0.01)


def job_group(job: uuid.UUID) -> str:
    return f"job.{job.hex}"
