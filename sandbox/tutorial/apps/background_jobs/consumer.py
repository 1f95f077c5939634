"""Background jobs: a worker process reports to the one connection that asked."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import redis
import rq

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from sandbox.layers import redis_url
from sandbox.tasks import JOB_QUEUE, JOBS, report_failure, run_job

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

MAX_CONTENT_LENGTH = 2_000

# Jobs that one connection may have waiting or running.
MAX_UNFINISHED = 10

# RQ stops a job after the one, and forgets its result after the other.
JOB_TIMEOUT_SECONDS = 30
RESULT_TTL_SECONDS = 300


class JobRefused(Exception):
    """Raise this with the sentence that the client receives."""


class BackgroundJobConsumer(AsyncJsonWebsocketConsumer):
    """
    Starts jobs for its client and forwards the reports of the worker.

    In: `{"type": "translate", "content": "..."}`. Out, each with the `job_id`:
    `job.queued`, `job.progress` with `percent` and `step`, then `job.finished` with `result`
    or `job.failed` with `reason`. If a request starts no job, the answer is
    `{"type": "error", "message": "..."}`.
    """

    channel_layer_alias = "queue"

    # TODO 4.5: accept the connection, with no job unfinished

    # TODO 4.6: start the job that the client asks for

    # TODO 4.7: hand the job to RQ, with the name of our channel

    # TODO 4.8: pass on what the worker reports


def job_request(content: Any) -> tuple[str, str]:
    """Return the job type and the text in a client's JSON. Raise JobRefused if they are wrong."""
    if not isinstance(content, dict):
        raise JobRefused(
            f"got {content!r:.60}, a job is an object such as "
            '{"type": "translate", "content": "..."}'
        )
    job_type, text = content.get("type"), content.get("content")
    if not isinstance(job_type, str) or job_type not in JOBS:
        raise JobRefused(f"type is {job_type!r:.60}, accepted are {', '.join(JOBS)}")
    if not isinstance(text, str) or not text.strip():
        raise JobRefused(f"content is {text!r:.60}, accepted is text that is not empty")
    if len(text) > MAX_CONTENT_LENGTH:
        raise JobRefused(f"content has {len(text)} characters, at most {MAX_CONTENT_LENGTH} fit")
    return job_type, text.strip()


def enqueue(job_id: str, job_type: str, text: str, channel: str) -> None:
    """Queue a job. Blocks, and raises redis.RedisError if the broker does not answer."""
    connection = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=5)
    with connection:
        rq.Queue(JOB_QUEUE, connection=connection).enqueue_call(
            run_job,
            args=(job_type, text),
            kwargs={"job_id": job_id, "channel": channel},
            job_id=job_id,
            timeout=JOB_TIMEOUT_SECONDS,
            result_ttl=RESULT_TTL_SECONDS,
            failure_ttl=RESULT_TTL_SECONDS,
            on_failure=rq.Callback(report_failure),
        )
