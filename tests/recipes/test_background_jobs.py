"""docs/recipes/background-jobs.md: real workers of Celery and RQ, and a process as of cron."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fast_channels
from fast_channels.exceptions import LayerUnavailable
from tests.recipes.support import EXAMPLES, PAGES, PATIENCE

FOLDER = EXAMPLES / "background_jobs"

# The path from which a worker imports the library under test, whatever is installed.
SOURCE = Path(fast_channels.__file__).resolve().parents[1]


@pytest.fixture
async def server(serve):
    return await serve("background-jobs")


def command(program):
    """Return the line of the page that starts a program, as arguments."""
    lines = (PAGES / "background-jobs.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{program} ")]
    _, *arguments = shlex.split(line)
    found = sys.executable if program == "python" else Path(sys.executable).with_name(program)
    return [str(found), *arguments]


@pytest.fixture
def run(redis_url, tmp_path):
    """Run a program of the page in its folder while the test lasts; its output goes to a file."""

    @contextlib.contextmanager
    def run_one(program, *more):
        arguments = [word.replace("redis://localhost:6399", redis_url) for word in command(program)]
        environment = {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(SOURCE)}
        log = tmp_path / program
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*arguments, *more],
                cwd=FOLDER,
                env=environment,
                stdout=output,
                stderr=output,
                # Its own process group, which has the forked processes too.
                start_new_session=True,
            )
        try:
            yield process
        except AssertionError as error:
            error.add_note(log.read_text())
            raise
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                # A Celery worker once did not end, for unknown reasons. The test is about its
                # messages.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    return run_one


async def test_report_of_celery_reaches_the_browser(server, run):
    """The report comes from a process that the worker has forked."""
    async with server.socket("/ws/reports") as socket:
        # Skip asking other workers, which takes a second.
        with run("celery", "--without-mingle", "--without-gossip") as worker:
            await server.request("POST", "/reports/sales?by=celery")
            await server.request("POST", "/reports/stock?by=celery")
            reports = [await socket.next(), await socket.next()]
            assert {report["ready"] for report in reports} == {"sales", "stock"}
            assert not {worker.pid, os.getpid()} & {report["process"] for report in reports}


async def test_report_of_rq_reaches_the_browser(server, run):
    """The report comes from a process of its own for each job."""
    async with server.socket("/ws/reports") as socket:
        with run("rq") as worker:
            await server.request("POST", "/reports/sales?by=rq")
            await server.request("POST", "/reports/stock?by=rq")
            reports = [await socket.next(), await socket.next()]
            assert [report["ready"] for report in reports] == ["sales", "stock"]
            assert len({worker.pid, *(report["process"] for report in reports)}) == 3


async def test_report_of_a_cron_job_reaches_the_browser(server, run):
    """The message arrives although the process ends right after sending it."""
    async with server.socket("/ws/reports") as socket:
        with run("python") as process:
            assert (await socket.next())["ready"] == "nightly"
            assert await asyncio.to_thread(process.wait, PATIENCE) == 0


async def test_job_may_run_in_many_threads(server):
    """The threads share one sender."""
    names = [f"report-{n}" for n in range(50)]
    async with server.socket("/ws/reports") as socket:
        with ThreadPoolExecutor(8) as threads:
            building = [threads.submit(server.module.reports.build, name) for name in names]
            received = [(await socket.next())["ready"] for _ in names]
            for job in building:
                job.result()
    assert sorted(received) == sorted(names)


def test_outage_does_not_fail_a_job(load_recipe, monkeypatch):
    """The queue would run a failed job again."""
    module = load_recipe("background-jobs")
    asked = []

    def unavailable(group, _):
        asked.append(group)
        raise LayerUnavailable("the broker", "refused")

    monkeypatch.setattr(module.reports.sync_layer, "group_send", unavailable)
    module.reports.build("sales")
    assert asked == ["reports"]


async def test_layer_that_blocks_says_what_to_do_in_async_code(load_recipe):
    """The layer would block the loop that it waits for."""
    module = load_recipe("background-jobs")
    with pytest.raises(RuntimeError, match="was called on a running event loop"):
        module.reports.build("sales")
