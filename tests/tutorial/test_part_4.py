"""The results and the mistakes of 4-background-jobs.md happen as described."""

from __future__ import annotations

import asyncio

from starlette.routing import Router, WebSocketRoute

from fast_channels.layers import InMemoryChannelLayer
from fast_channels.testing import WebsocketCommunicator
from sandbox.apps.background_jobs import consumer
from sandbox.apps.background_jobs.consumer import BackgroundJobConsumer
from sandbox.apps.room_chat.consumer import RoomChatConsumer
from sandbox.tutorial.solutions.part_4 import tell_lobby
from tests.documents.support import block_with
from tests.showcase.support import run_module
from tests.tutorial.support import PAGES, assert_printed, console, nowhere, refusal, register

BACKGROUND_JOBS = PAGES / "4-background-jobs.md"


async def test_job_is_done_by_a_worker_and_reported(stage):
    """The worker of the page reports each step to the connection that asked."""
    running = stage(4)
    module = console(BACKGROUND_JOBS, "python")[2]
    assert running.worker.arguments[0] == module
    server = running.server
    async with server.socket("backgroundjob") as one, server.socket("backgroundjob") as other:
        await one.send_json({"type": "translate", "content": "hello apple"})
        assert (await one.next_json())["type"] == "job.queued"
        steps = []
        while (report := await one.next_json())["type"] == "job.progress":
            steps.append(report["percent"])
        assert report["result"] == "ellohay appleway"
        # The bar begins, fills in four steps, and is full.
        assert steps == [0, 0, 25, 50, 75, 100]
        # The worker prints nothing while all is well.
        assert running.worker.output == ""
        await other.send_json({"type": "analyze", "content": "?!"})
        reports = [await other.next_json()]
        while reports[-1]["type"] != "job.failed":
            reports.append(await other.next_json())
    assert {report["job_id"] for report in reports} == {reports[0]["job_id"]}
    assert reports[-1]["reason"].startswith("ValueError: ")


async def asker(registry, consumer_class):
    """A client of a consumer for jobs, on a layer in memory."""
    registry.register("queue", InMemoryChannelLayer())
    client = WebsocketCommunicator(consumer_class.as_asgi(), "/")
    assert (await client.connect())[0]
    return client


async def test_job_without_a_broker_is_refused_with_a_sentence(registry, monkeypatch):
    """The connection continues."""
    monkeypatch.setattr(consumer, "redis_url", nowhere())
    client = await asker(registry, BackgroundJobConsumer)
    await client.send_json_to({"type": "default", "content": "x"})
    answer = (await client.receive_json_from(timeout=5))["message"]
    assert_printed(block_with(BACKGROUND_JOBS, "not started", "text"), answer)
    await client.disconnect()


def test_worker_without_a_broker_ends_with_a_sentence():
    """The output has no traceback."""
    done = run_module(console(BACKGROUND_JOBS, "python")[2], redis_url=nowhere())
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert_printed(block_with(BACKGROUND_JOBS, "worker: ", "text"), done.stderr)


async def test_route_without_its_layer_ends_the_start(registry, without):
    """The page shows the layers that exist after part 3."""
    register(registry, without("4.1").layer_table)
    output = await refusal(registry, WebSocketRoute("/", BackgroundJobConsumer.as_asgi()))
    assert_printed(block_with(BACKGROUND_JOBS, "UnknownLayer", "text"), output)


async def test_report_without_a_handler_is_skipped_and_logged(registry, without, caplog):
    """The connection continues."""
    client = await asker(registry, without("4.8").BackgroundJobConsumer)
    layer = registry["queue"]
    (channel,) = layer.channels
    await layer.send(channel, {"type": "job.progress", "job_id": "1", "percent": 10})
    await client.send_json_to([])
    assert (await client.receive_json_from())["type"] == "error"
    await client.disconnect()
    assert_printed(block_with(BACKGROUND_JOBS, "has no handler", "text"), caplog.text)


async def test_exercise_of_part_4_is_solved(registry, load):
    """The lobby and the client that asked read the end of a job."""
    for alias in ("chat", "queue"):
        registry.register(alias, InMemoryChannelLayer())
    end = '        self._send({"type": "job.finished", "result": result})\n'
    call = '        tell_lobby(f"worker: {result}")\n'
    assert call.strip() in BACKGROUND_JOBS.read_text()
    tasks = load("tasks.py", 4, end + call, end)
    tasks.tell_lobby = tell_lobby
    rooms = Router(routes=[WebSocketRoute("/{room_name:path}", RoomChatConsumer.as_asgi())])
    async with registry["chat"], registry["queue"] as queue:
        guest = WebsocketCommunicator(rooms, "/lobby")
        await guest.connect()
        assert "joined" in await guest.receive_from()
        channel = await queue.new_channel()
        report = await asyncio.to_thread(tasks.Report, "1", channel)
        await asyncio.to_thread(report.finished, "done")
        assert await guest.receive_from() == "worker: done"
        assert (await queue.receive(channel))["result"] == "done"
        await guest.disconnect()
