"""The benchmarks themselves, with real servers and clients, for a moment."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import psutil
import pytest

from benchmarks.cases.history import Case, measured
from benchmarks.cases.replay import BEFORE, scene
from benchmarks.contenders import CONTENDERS
from benchmarks.load.clients import Tally
from benchmarks.load.returning import Goal, Resuming
from benchmarks.processes import ROOT, ChildFailed, Worker
from benchmarks.settings import Place, Settings
from fast_channels.testing.server import ValkeyServer


def run(*arguments):
    """Run the benchmarks on this interpreter, with only the packages that tests have."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def rows_of(tmp_path, name):
    stored = json.loads((tmp_path / f"{name}.json").read_text())
    return {row["contender"]: row for row in stored["rows"]}


STREAMS = next(one for one in CONTENDERS if one.name == "ours-streams")


def message(offset, *, number=0):
    place = ["room", f"0123456789abcdef-{offset}-7", number]
    return json.dumps({"p": place, "replay": True, "t": f"{offset:032} xxx"})


def joined(missed, *, recovered=True):
    position = "0123456789abcdef-10-7"
    told = {"recovered": recovered, "position": position, "missed": missed}
    return json.dumps({"resume": {"room": told}})


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_fanout_measures_bare_and_ours(tmp_path):
    """Every broadcast reaches every client; otherwise the row would have an error."""
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
@pytest.mark.slow
def test_pipeline_and_broadcast_measure_ours(tmp_path):
    """These benchmarks need no server under test."""
    done = run(
        *("pipeline", "broadcast", "--contenders", "ours", "--audience", "5"),
        *("--rounds", "1", "--seconds", "0.1", "--output", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path, "pipeline")["ours-queue"]["rounds"]["per_second"][0] > 0
    assert rows_of(tmp_path, "broadcast")["ours-memory"]["rounds"]["cpu_ms"][0] > 0


def test_process_ends_with_its_block():
    """The process ends even if the block raises."""
    worker = Worker("clients", ["--port", "1"])
    with contextlib.suppress(ZeroDivisionError), worker:
        assert psutil.pid_exists(worker.pid)
        raise ZeroDivisionError
    assert not psutil.pid_exists(worker.pid)


def test_process_that_cannot_start_says_why():
    """The error has the last line that the process wrote to standard error."""
    with pytest.raises(ChildFailed, match=r"No module named benchmarks\.load\.nothing"):
        Worker("nothing").__enter__()


def test_process_ends_when_nobody_tells_it_what_to_do():
    """The processes of a benchmark end, no matter how the benchmark ended."""
    with Worker("clients", ["--port", "1"]) as worker:
        worker.process.stdin.close()
        assert worker.process.wait(20) == 0


def test_credit_is_given_when_the_last_client_has_received():
    """A broadcast counts once, when its last client has received it."""
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


@pytest.mark.timeout(120)
def test_replay_measures_clients_that_come_back():
    """
    Each client gets each message once and in order, and then the next one; otherwise it fails.
    """
    with ValkeyServer() as valkey:
        place = Place(valkey, Settings(returning=3))
        with scene(STREAMS, place) as one:
            position = one.append(BEFORE)
            one.append(40)
            found = one.measure(lambda: one.come(40, position))
    assert found["seconds"] > 0
    assert found["server_share"] > 0


@pytest.mark.timeout(120)
def test_history_is_measured_when_it_is_full():
    """The history keeps one message before the oldest, and the position of the log."""
    with ValkeyServer() as valkey:
        found = measured(Case(2, 100), STREAMS, Place(valkey, Settings(appended=1000)))
    assert found["messages"] == 3
    assert found["keys"] == 2
    assert 3 * 100 < found["last"] * 1024 < 500 * 100
    assert found["growth"] == found["last"] / found["full"]


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([message(12)], "message 12 came in the place of 11"),
        ([message(11), message(11)], "message 11 came in the place of 12"),
        ([message(11, number=1)], "message 11 came as"),
        ([joined(1)], "the server has resumed with"),
        ([joined(2, recovered=False)], "the server has resumed with"),
    ],
)
async def test_client_that_resumes_takes_nothing_but_what_it_missed(frames, error):
    """A missing, duplicate or foreign message is an error."""
    goal = Goal()
    client = Resuming(goal, 10)
    client.wants = 12
    goal.set(1)
    for frame in frames:
        client.read(frame)
    with pytest.raises(RuntimeError, match=error):
        await goal.reached()


async def test_client_that_resumes_is_done_when_it_has_all():
    """The client finishes after the last message, or at once if it missed none."""
    goal = Goal()
    client = Resuming(goal, 10)
    client.wants = 12
    goal.set(2)
    for frame in (joined(2), message(11), message(12)):
        assert client.had < client.wants
        client.read(frame)
    Resuming(goal, 10).read(joined(0))
    await goal.reached()
