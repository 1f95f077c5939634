"""
The jobs: ordinary blocking functions, which the RQ worker runs.

Each takes a text and a `Report`, and reports its progress to the connection that asked. The
worker knows only the channel name of that connection.
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

# The name of the queue at RQ.
JOB_QUEUE = "showcase"


class Report:
    """Sends the progress and the result of a job to one channel, from blocking code."""

    def __init__(self, job_id: str, channel: str) -> None:
        # TODO 4.2: register the layers, and open "queue" for blocking code
        self.job_id = job_id
        self.channel = channel

    def progress(self, percent: int, step: str) -> None:
        self._send({"type": "job.progress", "percent": percent, "step": step})

    def finished(self, result: str) -> None:
        self._send({"type": "job.finished", "result": result})

    def failed(self, reason: str) -> None:
        self._send({"type": "job.failed", "reason": reason})

    # TODO 4.3: send a message to the channel of the connection that asked


JobFunction = Callable[[str, Report], str]


def default(content: str, report: Report) -> str:
    take_time(report, ["reading", "thinking", "writing"], seconds=1.0)
    return f"processed {len(content)} characters: {content}"


def translate(content: str, report: Report) -> str:
    """Translate into Pig Latin, the one language that needs no dictionary."""
    take_time(
        report, ["reading", "finding vowels", "moving letters", "adding endings"], seconds=1.4
    )
    return " ".join(map(pig_latin, content.split()))


def analyze(content: str, report: Report) -> str:
    """Count words. Raises ValueError for a text without any, which shows a job that fails."""
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
    opening = random.choice(["Once there was", "No one expected", "Far away lived"])
    return f"{opening} {content}, and every message arrived in order."


JOBS: dict[str, JobFunction] = {
    "default": default,
    "translate": translate,
    "analyze": analyze,
    "generate": generate,
}


def run_job(job_type: str, content: str, *, job_id: str, channel: str) -> str:
    """Run a job in the worker. If it raises an exception, RQ calls `report_failure`."""
    # TODO 4.4: report the start, run the job, report the result


def report_failure(job: Job, _connection: Any, _type: Any, error: Any, _traceback: Any) -> None:
    """Report the exception of a job. RQ calls this."""
    Report(job.id, job.kwargs["channel"]).failed(f"{type(error).__name__}: {error}")


def report_killed(job: Job, _pid: int, _status: int, _usage: Any) -> None:
    """Report that the process of a job died before it could report anything. RQ calls this."""
    Report(job.id, job.kwargs["channel"]).failed("the process that ran this job was killed")


def take_time(
    report: Report, steps: Sequence[str], *, seconds: float, start: int = 0, end: int = 100
) -> None:
    """Simulate work: report each of `steps`, from `start` percent to `end`."""
    for number, step in enumerate(steps):
        report.progress(start + (end - start) * number // len(steps), step)
        # Sleeping is the whole work of this job.
        time.sleep(seconds / len(steps))
    report.progress(end, "done" if end == 100 else steps[-1])


def pig_latin(word: str) -> str:
    start = next((n for n, letter in enumerate(word) if letter.lower() in "aeiou"), 0)
    return f"{word[start:]}{word[:start]}ay" if start else f"{word}way"
