"""
The jobs, run by the RQ worker: ordinary blocking code.

Each is a function of the text and a `Report`, through which it tells the
connection that asked how far it has come. The worker knows nothing about that
connection but its channel name.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.sync import SyncChannelLayer
from sandbox.layers import setup_layers

if TYPE_CHECKING:
    from rq.job import Job

# Name of the queue at RQ.
JOB_QUEUE = "showcase"


class Report:
    """Sends what happens to a job to one channel, from sync code."""

    def __init__(self, job_id: str, channel: str) -> None:
        setup_layers()
        self.layer = SyncChannelLayer("queue")
        self.job_id = job_id
        self.channel = channel

    def progress(self, percent: int, step: str) -> None:
        self._send({"type": "job.progress", "percent": percent, "step": step})

    def finished(self, result: str) -> None:
        self._send({"type": "job.finished", "result": result})

    def failed(self, reason: str) -> None:
        self._send({"type": "job.failed", "reason": reason})

    def _send(self, message: dict[str, Any]) -> None:
        # A broker that went away will be noticed by the worker itself. The job goes on.
        with contextlib.suppress(LayerUnavailable):
            self.layer.send(self.channel, {**message, "job_id": self.job_id})


JobFunction = Callable[[str, Report], str]


def default(content: str, report: Report) -> str:
    take_time(report, ["reading", "thinking", "writing"], seconds=1.0)
    return f"processed {len(content)} characters: {content}"


def translate(content: str, report: Report) -> str:
    """Into Pig Latin, the one language that needs no dictionary."""
    take_time(
        report, ["reading", "finding vowels", "moving letters", "adding endings"], seconds=1.4
    )
    return " ".join(map(pig_latin, content.split()))


def analyze(content: str, report: Report) -> str:
    """Raises ValueError for a text without a single word, which shows a job that fails."""
    take_time(report, ["finding words", "counting words"], seconds=0.8, end=50)
    words = [word for word in content.split() if any(map(str.isalnum, word))]
    if not words:
        raise ValueError(f"there is no word in {content!r:.60}")
    take_time(report, ["measuring words", "writing a summary"], seconds=0.8, start=50)
    longest = max(words, key=len)
    return f"{len(words)} words, {len(content)} characters, longest word {longest!r}"


def generate(content: str, report: Report) -> str:
    drafts = [f"draft {number}" for number in range(1, 7)]
    take_time(report, ["gathering ideas", *drafts, "polishing"], seconds=2.5)
    opening = random.choice(["Once there was", "Nobody expected", "Far away lived"])
    return f"{opening} {content}, and every message arrived in order."


JOBS: dict[str, JobFunction] = {
    "default": default,
    "translate": translate,
    "analyze": analyze,
    "generate": generate,
}


def run_job(job_type: str, content: str, *, job_id: str, channel: str) -> str:
    """What the consumer enqueues. An exception is RQ's to handle; it calls `report_failure`."""
    report = Report(job_id, channel)
    report.progress(0, "started")
    result = JOBS[job_type](content, report)
    report.finished(result)
    return result


def report_failure(job: Job, _connection: Any, _type: Any, error: Any, _traceback: Any) -> None:
    """For RQ: the job raised."""
    Report(job.id, job.kwargs["channel"]).failed(f"{type(error).__name__}: {error}")


def report_killed(job: Job, _pid: int, _status: int, _usage: Any) -> None:
    """For RQ: the process that ran the job died before it could say anything."""
    Report(job.id, job.kwargs["channel"]).failed("the process that ran this job was killed")


def take_time(
    report: Report, steps: Sequence[str], *, seconds: float, start: int = 0, end: int = 100
) -> None:
    """Stand in for real work: go through `steps`, from `start` percent to `end`."""
    for number, step in enumerate(steps):
        report.progress(start + (end - start) * number // len(steps), step)
        # This is the work: a job here takes time and nothing else.
        time.sleep(seconds / len(steps))
    report.progress(end, "done" if end == 100 else steps[-1])


def pig_latin(word: str) -> str:
    start = next((n for n, letter in enumerate(word) if letter.lower() in "aeiou"), 0)
    return f"{word[start:]}{word[:start]}ay" if start else f"{word}way"
