"""Which of several workers a process is."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

import pytest

from fast_channels.layers.workers import place_among_workers

# Prints its place once it has one; what it does before is the first argument.
SCRIPT = """
import signal, sys, threading
from fast_channels.layers.workers import place_among_workers

def say_place():
    with place_among_workers() as place:
        print(place, flush=True)
        sys.stdin.read()

server = lambda *_: None
exec(sys.argv[1])
"""
SERVE = "signal.signal(signal.SIGTERM, server); say_place()"
TWICE = """
signal.signal(signal.SIGTERM, server)
with place_among_workers() as outer:
    print(outer, end="")
    say_place()
"""
SCRIPT_ONLY = "say_place()"
IN_THREAD = """
signal.signal(signal.SIGTERM, server)
thread = threading.Thread(target=say_place)
thread.start()
thread.join()
"""
EVENT_LOOP = """
import asyncio
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server)
    say_place()
asyncio.run(main())
"""


class Worker:
    """A process that has taken a place until it is told to end."""

    def __init__(self, *arguments, directory):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
        )
        self.place = self.process.stdout.readline().strip()

    def end(self):
        self.process.communicate(timeout=10)

    def kill(self):
        self.process.kill()
        self.end()


@pytest.fixture
def start(tmp_path):
    workers = []

    def start(does=SERVE, *arguments, directory=tmp_path):
        workers.append(Worker(does, *arguments, directory=directory))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


@pytest.mark.parametrize("does", [SERVE, EVENT_LOOP], ids=["function", "event loop"])
def test_workers_of_one_server_have_places(start, does):
    """The first, the second, and all others; however the server listens for signals."""
    assert [start(does).place for _ in range(4)] == ["0", "1", "2", "2"]


def test_place_is_free_when_its_worker_is_gone(start):
    """In order or not, as with --reload and when a server replaces a worker that died."""
    first, second = start(), start()
    first.end()
    assert start().place == "0"
    second.kill()
    assert start().place == "1"


def test_all_places_are_in_one_file(start, monkeypatch, tmp_path):
    """However many servers there were, and however they ended."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for port in range(3):
        assert start(SERVE, str(port)).place == "0"
        start(SERVE, str(port)).kill()
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]


def test_other_command_or_directory_is_another_server(start, tmp_path):
    """Two applications that were started from one shell are no workers of each other."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert start(SERVE, "--port", "1").place == "0"
    assert start(SERVE, "--port", "2").place == "0"
    assert start(SERVE, "--port", "1", directory=elsewhere).place == "0"


def test_lifespan_within_a_lifespan_is_one_worker(start):
    """An application that is mounted in another may have its own."""
    assert start(TWICE).place == "00"
    assert start(TWICE).place == "11"


@pytest.mark.parametrize("does", [SCRIPT_ONLY, IN_THREAD], ids=["script", "thread"])
def test_process_that_serves_nothing_is_no_worker(start, does):
    """Two tests or scripts at once, as under pytest-xdist, are none."""
    assert [start(does).place for _ in range(3)] == ["0"] * 3


def test_without_a_place_for_locks_nothing_is_said(monkeypatch, tmp_path):
    """It is a hint; an application must not fail for it."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    try:
        with place_among_workers() as place:
            assert place == 0
    finally:
        signal.signal(signal.SIGTERM, before)
