"""docs/recipes/progress-bar.md."""

from __future__ import annotations

import asyncio
import threading
import uuid

import pytest

from fast_channels.exceptions import LayerUnavailable


@pytest.fixture
async def server(serve, monkeypatch):
    server = await serve("progress-bar")
    monkeypatch.setattr(server.module, "REPORT_INTERVAL_SECONDS", 0.0)
    return server


@pytest.fixture
def row(server, monkeypatch):
    """Let the job continue by one row, or fail at it."""
    gate = threading.Semaphore(0)
    bad = threading.Event()

    def import_row(_):
        assert gate.acquire(timeout=15)
        if bad.is_set():
            raise ZeroDivisionError

    monkeypatch.setattr(server.module, "import_row", import_row)
    gate.bad = bad
    yield gate
    # A waiting job must not keep the server of a failed test alive.
    gate.release(100)


def running(percent):
    return {"state": "running", "percent": percent}


async def start(server, rows):
    job = (await server.request("POST", "/jobs", params={"rows": rows}))["job"]
    return f"/ws/jobs/{job}"


async def follow(socket):
    """Return the values of a bar until its end."""
    shown = [await socket.next()]
    while shown[-1]["state"] not in ("done", "failed"):
        shown.append(await socket.next())
    return shown


async def test_bar_goes_from_its_start_to_its_end(server):
    """The bar never goes back; the job of the page runs at its own pace."""
    async with server.socket(await start(server, 20)) as socket:
        shown = await follow(socket)
    assert shown[-1] == {"state": "done", "percent": 100}
    percents = [frame["percent"] for frame in shown]
    assert percents == sorted(percents)


async def test_page_that_is_loaded_again_shows_how_far_the_job_is(server, row):
    """The page shows the progress half-way without a new report, and follows until the end."""
    path = await start(server, 4)
    async with server.socket(path) as socket:
        row.release(2)
        while await socket.next() != running(50):
            pass
    async with server.socket(path) as again, server.socket(path) as phone:
        assert await again.next() == await phone.next() == running(50)
        row.release(2)
        assert await follow(again) == await follow(phone)
    async with server.socket(path) as late:
        assert await late.next() == {"state": "done", "percent": 100}


async def test_report_between_joining_and_reading_is_shown_once(server, monkeypatch):
    """The report is both in the mailbox and in the history."""
    layer, job = server.module.layer, uuid.uuid4()
    history = layer.history

    async def report(percent, number):
        message = {"state": "running", "percent": percent, "number": number}
        await layer.group_send(f"job.{job.hex}", {"type": "job.progress", **message})

    async def later(*args, **options):
        await report(10, 1)
        return await history(*args, **options)

    monkeypatch.setattr(layer, "history", later)
    async with server.socket(f"/ws/jobs/{job}") as socket:
        assert await socket.next() == running(10)
        await report(20, 2)
        assert await socket.next() == running(20)


async def test_job_that_has_not_begun_is_waiting(server):
    """An unknown job is waiting, too."""
    async with server.socket(f"/ws/jobs/{uuid.uuid4()}") as socket:
        assert await socket.next() == {"state": "waiting", "percent": 0}


async def test_job_that_fails_says_so_where_it_stood(server, row):
    """Clients that connect later are told, too."""
    path = await start(server, 4)
    async with server.socket(path) as socket:
        row.release(1)
        while await socket.next() != running(25):
            pass
        row.bad.set()
        row.release(1)
        assert await socket.next() == {"state": "failed", "percent": 25}
    async with server.socket(path) as late:
        assert await late.next() == {"state": "failed", "percent": 25}


async def test_not_every_row_is_reported(server, monkeypatch):
    """The last report is always sent."""
    monkeypatch.setattr(server.module, "REPORT_INTERVAL_SECONDS", 60.0)
    monkeypatch.setattr(server.module, "import_row", lambda _: None)
    path = await start(server, 5000)
    async with server.socket(path) as socket:
        shown = await follow(socket)
    assert len(shown) <= 3
    assert shown[-1] == {"state": "done", "percent": 100}


async def test_outage_does_not_fail_the_job(server, monkeypatch):
    """A report that cannot be sent is left out."""

    async def unavailable(*_, **__):
        raise LayerUnavailable("the broker", "refused")

    monkeypatch.setattr(server.module.layer, "group_send", unavailable)
    done = []
    monkeypatch.setattr(server.module, "import_row", done.append)
    await asyncio.to_thread(server.module.import_rows, uuid.uuid4(), 3)
    assert done == [0, 1, 2]
