"""Background jobs: the socket, RQ, a worker process, and back."""

from __future__ import annotations

import psutil
import pytest

from fast_channels.testing.server import ValkeyServer
from tests.layers.support import becomes
from tests.showcase.support import WebServer


@pytest.fixture
def without_worker(logs, request):
    """A separate showcase without a worker, with a broker that a test may end."""
    log = logs / f"{request.node.name}.log"
    with ValkeyServer() as broker, WebServer(log, broker.url) as server:
        yield server, broker


@pytest.mark.usefixtures("calm", "worker")
@pytest.mark.parametrize(
    ("job_type", "content", "result"),
    [
        ("default", "some text", "processed 9 characters: some text"),
        ("translate", "hello apple string", "ellohay appleway ingstray"),
        ("analyze", "three short words", "3 words, 17 characters, longest word 'three'"),
        ("generate", "a channel", "a channel, and every message arrived in order."),
    ],
)
async def test_job_reports_its_progress_and_then_its_result(showcase, job_type, content, result):
    """Percent only grows, reaches 100, and the result comes last."""
    async with showcase.socket("backgroundjob") as client:
        await client.send_json({"type": job_type, "content": content})
        queued = await client.next_json()
        assert queued["type"] == "job.queued"
        assert (queued["job_type"], queued["content"]) == (job_type, content)
        percents = []
        while (report := await client.next_json())["type"] == "job.progress":
            assert report["job_id"] == queued["job_id"]
            percents.append(report["percent"])
        assert percents[0] == 0
        assert percents[-1] == 100
        assert percents == sorted(percents)
        assert len(set(percents)) >= 4
        assert report["type"] == "job.finished"
        assert report["result"].endswith(result)


@pytest.mark.usefixtures("calm", "worker")
async def test_only_the_connection_that_asked_hears_of_the_job(showcase):
    """Each of two connections gets its own job, and nothing of the other's."""
    async with showcase.socket("backgroundjob") as one, showcase.socket("backgroundjob") as other:
        await one.send_json({"type": "default", "content": "one"})
        await other.send_json({"type": "default", "content": "other"})
        for client, content in ((one, "one"), (other, "other")):
            own = (await client.next_json())["job_id"]
            while (report := await client.next_json())["type"] != "job.finished":
                assert report["job_id"] == own
            assert report["result"].endswith(f": {content}")


@pytest.mark.usefixtures("worker")
async def test_job_that_raises_is_reported_as_failed(showcase):
    """The reason is the text of the error."""
    async with showcase.socket("backgroundjob") as client:
        await client.send_json({"type": "analyze", "content": "?!"})
        report = await client.until_type("job.failed", "job.finished")
        assert report["type"] == "job.failed"
        assert report["reason"] == "ValueError: there is no word in '?!'"


async def test_job_whose_process_is_killed_is_reported_as_failed(showcase, worker):
    """The worker reports in place of the killed process, and takes the next job."""
    children = psutil.Process(worker.process.pid).children
    async with showcase.socket("backgroundjob") as client:
        # The process may belong to the job before, which has reported its end already.
        await becomes(lambda: not children())
        await client.send_json({"type": "generate", "content": "a job"})
        # The job runs for a few seconds, and is killed at once.
        await becomes(children)
        (horse,) = children()
        horse.kill()
        report = await client.until_type("job.failed", "job.finished")
        assert report["reason"] == "the process that ran this job was killed"
        await client.send_json({"type": "default", "content": "next"})
        assert (await client.until_type("job.failed", "job.finished"))["type"] == "job.finished"


@pytest.mark.usefixtures("worker")
async def test_client_that_left_does_not_stop_the_worker(showcase):
    """The job of the client that left ends, and the next one runs."""
    async with showcase.socket("backgroundjob") as client:
        await client.send_json({"type": "default", "content": "never mind"})
        await client.next_json()
    async with showcase.socket("backgroundjob") as client:
        await client.send_json({"type": "default", "content": "mine"})
        assert (await client.until_type("job.finished"))["result"].endswith(": mine")


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ([], "got [], a job is an object such as"),
        ("translate", "got 'translate', a job is an object"),
        ({}, "type is None, accepted are default, translate, analyze, generate"),
        ({"type": "dance", "content": "x"}, "type is 'dance', accepted are default, translate"),
        ({"type": ["default"], "content": "x"}, "type is ['default'], accepted are"),
        ({"type": "default"}, "content is None, accepted is text that is not empty"),
        ({"type": "default", "content": " "}, "content is ' ', accepted is text"),
        ({"type": "default", "content": {"a": 1}}, "content is {'a': 1}, accepted is text"),
        ({"type": "default", "content": "x" * 2001}, "content has 2001 characters, at most 2000"),
    ],
)
async def test_request_that_starts_no_job_is_answered_with_a_sentence(showcase, request_, said):
    """The answer has the value and the accepted ones; the connection continues."""
    async with showcase.socket("backgroundjob") as client:
        for _ in range(2):
            await client.send_json(request_)
            answer = await client.next_json()
            assert answer["type"] == "error"
            assert said in answer["message"]


async def test_connection_may_have_ten_unfinished_jobs(without_worker):
    """The eleventh job is refused, for this connection only."""
    server, _ = without_worker
    async with server.socket("backgroundjob") as greedy, server.socket("backgroundjob") as other:
        for _ in range(10):
            await greedy.send_json({"type": "default", "content": "x"})
            assert (await greedy.next_json())["type"] == "job.queued"
        await greedy.send_json({"type": "default", "content": "x"})
        answer = await greedy.next_json()
        assert answer["message"] == "10 jobs are not finished yet, wait for one of them"
        await other.send_json({"type": "default", "content": "x"})
        assert (await other.next_json())["type"] == "job.queued"


async def test_broker_that_went_away_is_an_answer_and_not_a_crash(without_worker):
    """Jobs and lines are refused with a sentence, and work again once the broker is back."""
    server, broker = without_worker
    async with server.socket("backgroundjob") as jobs, server.socket("chat") as chat:
        await chat.send("before")
        await chat.until("before")
        broker.kill()
        await jobs.send_json({"type": "default", "content": "x"})
        answer = await jobs.next_json()
        assert answer["type"] == "error"
        assert answer["message"].startswith("the job was not started, Redis does not answer")
        await chat.send("meanwhile")
        assert "does not answer" in await chat.until("not sent")
        broker.start()
        await jobs.send_json({"type": "default", "content": "x"})
        assert (await jobs.until_type("job.queued", "error"))["type"] == "job.queued"
        await chat.until("notice: the broker was away for")
        await chat.send("after")
        await chat.until("after")


@pytest.mark.parametrize("route", ["chat", "reliable", "notifications", "analytics"])
async def test_client_that_leaves_while_the_broker_is_away_is_no_error(without_worker, route):
    """The group is left, and the log has no traceback."""
    server, broker = without_worker
    async with server.socket(route) as client:
        # Each consumer sends what its client sends to the group, so it has joined the group.
        await client.send_json({"message": "here"})
        await client.until("here")
        broker.kill()
        await client.connection.close()
        async with server.socket("system") as other:
            await other.until("welcome")
    # The server waits for each disconnect() before it ends.
    server.stop()
    assert "Traceback" not in server.output
