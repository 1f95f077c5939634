"""The tasks of a Celery worker: `celery --app celery_tasks worker`."""

from __future__ import annotations

import reports
from celery import Celery
from layers import REDIS_URL

app = Celery("reports", broker=REDIS_URL)
app.conf.task_ignore_result = True


@app.task
def build(name: str) -> None:
    reports.build(name)
