"""
Work survives kills of workers, and of a server that writes to its disk.

`SOAK=1` sends ten thousand numbers and kills many more processes.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fast_channels.exceptions import ChannelFull, LayerUnavailable
from fast_channels.testing.server import ValkeyServer
from tests.chaos import work_app
from tests.chaos.support import number

SOAK = bool(os.environ.get("SOAK"))
NUMBERS = 10_000 if SOAK else 600
KILLS = 25 if SOAK else 3
SERVER_KILLS = 6 if SOAK else 1
WORKERS, CONCURRENCY = 2, 4

# Upper bound in seconds for everything on a busy machine.
PATIENCE = 400 if SOAK else 50

ROOT = Path(__file__).parents[2]


class Crew:
    """Worker processes, and the entries that they have written."""

    def __init__(self, log):
        self.log = log
        self.processes = []
        self.killed = []

    def start(self):
        with (self.log / "output").open("ab") as output:
            command = [
                *(sys.executable, "-m", "fast_channels", "worker"),
                *("tests.chaos.work_app:router", "numbers"),
                *("--setup", "tests.chaos.work_app:setup"),
                *("--concurrency", str(CONCURRENCY), "--log-level", "ERROR"),
            ]
            self.processes.append(subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output))

    def kill_one(self):
        """End the oldest worker, and start another."""
        process = self.processes.pop(0)
        process.kill()
        process.wait()
        self.killed.append(process.pid)
        self.start()

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()

    def entries(self, what):
        """Yield the worker and the number of each entry of one kind."""
        for path in self.log.glob("*.log"):
            for line in path.read_text().splitlines():
                kind, n, _ = line.split(",")
                if kind == what:
                    yield int(path.stem), int(n)

    def done(self):
        return Counter(n for _, n in self.entries("has done"))


@pytest.fixture
def crew(server, tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("WORK_LOG", str(tmp_path))
    crew = Crew(tmp_path)
    for _ in range(WORKERS):
        crew.start()
    yield crew
    crew.end()


@pytest.fixture
def server(tmp_path_factory):
    """A server that keeps confirmed writes even if it is killed."""
    directory = tmp_path_factory.mktemp("data")
    options = ["--dir", str(directory), "--appendonly", "yes"]
    with ValkeyServer(options=options) as server:
        yield server


async def send_all(layer, unsure):
    """Send every number until it is accepted; numbers that may be queued twice are `unsure`."""
    for n in range(NUMBERS):
        while True:
            try:
                await layer.send("numbers", number(n))
                break
            except ChannelFull:
                await asyncio.sleep(0.01)
            except LayerUnavailable:
                unsure.add(n)
                await asyncio.sleep(0.05)
        if n % 20 == 0:
            # The work must last long enough for the kills.
            await asyncio.sleep(0.02)


async def at_random_moments(crew, times, strike):
    """Call `strike` that many times during the work, evenly spread."""
    for stroke in range(times):
        least = NUMBERS * (stroke + random.uniform(0.2, 0.8)) / times * 0.9
        while len(await asyncio.to_thread(crew.done)) < least:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(strike)


@pytest.mark.timeout(PATIENCE + 30)
async def test_killed_workers_lose_nothing(crew):
    """Every number is done; only the work of killed workers is done twice."""
    unsure = set()
    async with asyncio.timeout(PATIENCE), work_app.layer() as layer:
        sending = asyncio.create_task(send_all(layer, unsure))
        await at_random_moments(crew, KILLS, crew.kill_one)
        await sending
        await all_done(crew)
        assert await layer.dead_letters("numbers") == []
    assert not unsure
    twice = {n for n, times in crew.done().items() if times > 1}
    report(crew, twice, unsure)
    begun = Counter(n for _, n in crew.entries("begins"))
    again = {n for n, times in begun.items() if times > 1}
    assert again <= {n for pid, n in crew.entries("begins") if pid in crew.killed}
    assert len(again) <= KILLS * CONCURRENCY


@pytest.mark.timeout(PATIENCE + 30)
async def test_killed_server_that_writes_to_its_disk_loses_nothing(crew, server):
    """Every number is done; only leased or unanswered work is done or sent twice."""
    unsure = set()

    def strike():
        server.kill()
        time.sleep(0.2)  # an outage that workers and senders notice, and no shorter one
        server.start()

    async with asyncio.timeout(PATIENCE), work_app.layer() as layer:
        sending = asyncio.create_task(send_all(layer, unsure))
        await at_random_moments(crew, SERVER_KILLS, strike)
        await sending
        await all_done(crew)
        assert await layer.dead_letters("numbers") == []
    twice = {n for n, times in crew.done().items() if times > 1}
    report(crew, twice, unsure)
    assert len(twice - unsure) <= SERVER_KILLS * WORKERS * CONCURRENCY


async def all_done(crew):
    while len(await asyncio.to_thread(crew.done)) < NUMBERS:
        for process in crew.processes:
            assert process.poll() is None, (crew.log / "output").read_text()
        await asyncio.sleep(0.05)
    # Work that is leased for the second time.
    await asyncio.sleep(2 * work_app.VISIBILITY_TIMEOUT if SOAK else 0.2)


def report(crew, twice, unsure):
    """Print figures for `pytest -s`."""
    begun = Counter(n for _, n in crew.entries("begins"))
    again = sum(times > 1 for times in begun.values())
    print(  # noqa: T201
        f"\n{NUMBERS} numbers, {len(crew.killed)} workers killed: {again} begun twice, "
        f"{len(twice)} done twice, {len(unsure)} sent without an answer"
    )
