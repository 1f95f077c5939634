"""The suite itself, with real servers and clients, for a moment."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import psutil
import pytest

from benchmarks.load.clients import Tally
from benchmarks.processes import ROOT, ChildFailed, Worker


def run(*arguments):
    """Run the suite on this interpreter, with no more than the tests have installed."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def rows_of(tmp_path, name):
    stored = json.loads((tmp_path / f"{name}.json").read_text())
    return {row["contender"]: row for row in stored["rows"]}


@pytest.mark.timeout(120)
def test_fanout_measures_bare_and_ours(tmp_path):
    """Every broadcast reaches every client, or there would be no row without an error."""
    done = run(
        *("fanout", "--contenders", "bare,ours-pubsub", "--clients", "3", "--window", "2"),
        *("--rounds", "1", "--seconds", "1.2", "--output", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path, "fanout")
    assert set(rows) == {"bare-pubsub", "ours-pubsub"}
    for row in rows.values():
        assert not row["error"]
        assert row["rounds"]["per_second"][0] > 0
        assert row["rounds"]["cpu"][0] > 0


@pytest.mark.timeout(120)
def test_pipeline_and_broadcast_measure_ours(tmp_path):
    """Those that need no server under test."""
    done = run(
        *("pipeline", "broadcast", "--contenders", "ours", "--audience", "5"),
        *("--rounds", "1", "--seconds", "0.1", "--output", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path, "pipeline")["ours-queue"]["rounds"]["per_second"][0] > 0
    assert rows_of(tmp_path, "broadcast")["ours-memory"]["rounds"]["cpu_ms"][0] > 0


def test_process_ends_with_its_block():
    """Also when the block ends with an error."""
    worker = Worker("clients", ["--port", "1"])
    with contextlib.suppress(ZeroDivisionError), worker:
        assert psutil.pid_exists(worker.pid)
        raise ZeroDivisionError
    assert not psutil.pid_exists(worker.pid)


def test_process_that_cannot_start_says_why():
    """The last line of what it wrote to standard error."""
    with pytest.raises(ChildFailed, match=r"No module named benchmarks\.load\.nothing"):
        Worker("nothing").__enter__()


def test_process_ends_when_nobody_tells_it_what_to_do():
    """However the suite came to its end, what it has started is gone."""
    with Worker("clients", ["--port", "1"]) as worker:
        worker.process.stdin.close()
        assert worker.process.wait(20) == 0


def test_credit_is_given_when_the_last_client_has_received():
    """Not when the first has, and once for each broadcast."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    tally = Tally(writing)
    tally.connections = 2
    for position in (0, 1):
        tally.arrived(position)
    with pytest.raises(BlockingIOError):
        os.read(reading, 10)
    tally.arrived(0)
    assert os.read(reading, 10) == b"."
    assert tally.frames == 3
    os.close(reading)
    os.close(writing)
