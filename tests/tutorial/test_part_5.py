"""The results and the mistakes of 5-showcase.md happen as described."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

from starlette.routing import WebSocketRoute

from fast_channels.client import connect
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.worker import Worker
from sandbox.layers import layer_table
from sandbox.start_dev import ANALYTICS_WORKER
from sandbox.tutorial.steps import all_steps, prepare, solve, templates
from sandbox.worker_app import router
from tests.documents.support import block_with
from tests.showcase.support import PATIENCE, Process, WebServer, run_module
from tests.tutorial.support import PAGES, ROOT, assert_printed, console, nowhere, refusal

SHOWCASE = PAGES / "5-showcase.md"

# A wrong type of work.
EVENT = {"type": "analytics_events", "id": "1", "event": "page_view /"}


def module_of(command: list[str]) -> list[str]:
    """Return the module behind `python -m`."""
    assert command[:2] == ["python", "-m"]
    return command[2:]


def solve_steps(folder, last: str) -> None:
    """Bring a reader's folder to the state after this step of part 5."""
    solve(folder, 4)
    numbers = list(all_steps())
    done = numbers[: numbers.index(last) + 1]
    for template in templates():
        path = folder / "sandbox" / template.path
        for step in template.steps:
            if step.number in done:
                path.write_text(path.read_text().replace(step.todo, step.code))


async def test_script_speaks_to_three_layers_before_there_are_analytics(tmp_path, redis_url):
    """The script runs with the options of the page; the socket for events does not exist yet."""
    folder = tmp_path / "tutorial"
    prepare(folder)
    solve_steps(folder, "5.4")
    command = module_of(console(SHOWCASE, "python -m sandbox.external_sender"))
    with WebServer(tmp_path / "log", redis_url, folder=folder) as server:
        async with (
            server.socket("chat") as chat,
            server.socket("reliable") as reliable,
            server.socket("notifications") as notifications,
        ):
            done = await asyncio.to_thread(run_module, *command, redis_url=redis_url, folder=folder)
            assert done.returncode == 0, done.stderr
            for client in (chat, reliable, notifications):
                await client.until("maintenance tonight")
    assert "analytics" not in done.stdout


async def test_reliable_chat_makes_up_for_a_lost_connection(stage):
    """Messages of others are replayed in order; the plain chat has lost them."""
    server = stage(5).server
    async with connect(server.address("reliable?name=ada")) as away:
        await away.send("before")
        assert (await anext(away)).data == "ada: before"
        places = away.places
    async with server.socket("reliable?name=bob") as other, server.socket("chat") as chat:
        for text in ("1", "2", "3"):
            await other.send(text)
            await other.until(f"bob: {text}")
        await chat.send("for those who are here")
        await chat.until("for those")
    async with connect(server.address("reliable"), places=places) as back:
        missed = [await anext(back) for _ in range(3)]
    expected = [(f"bob: {text}", True) for text in ("1", "2", "3")]
    assert [(m.data, m.replayed) for m in missed] == expected
    async with server.socket("chat?name=ada") as chat:
        await chat.send("after")
        assert await chat.next() == "ada: after"


async def test_analytics_worker_counts_waiting_events(stage):
    """The command of the page starts the worker; events sent before that are not lost."""
    running = stage(5)
    worker = console(SHOWCASE, "fast-channels")
    assert [worker[0].replace("-", "_"), *worker[1:]] == ANALYTICS_WORKER[:-2]
    running.analytics_worker.stop()
    async with running.server.socket("analytics") as client:
        await client.send("page_view /pricing")
        assert await client.until("page_view") == "📊 Analytics: page_view /pricing"
        running.analytics_worker.start()
        assert await client.until("page_view") == "counted: page_view /pricing"


class Terminal(Process):
    """A terminal that runs a module, and gets typed lines of the page."""

    def start(self) -> None:
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                text=True,
            )

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    def type_in(self, line: str) -> None:
        assert line in SHOWCASE.read_text()
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    async def shows(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while text not in self.output:
                await asyncio.sleep(0.02)


async def test_customised_application_hears_alerts_of_a_script(stage, tmp_path):
    """Each of the three commands of the page is a process, next to the showcase."""
    running = stage(5)
    app = console(SHOWCASE, "uvicorn")[1]
    client, address = module_of(console(SHOWCASE, "python -m websockets"))
    alert = module_of(console(SHOWCASE, "python -m sandbox.customizing"))
    assert address.startswith("ws://localhost:8081/ws/")
    with running.web_server(app=app) as server:
        route = address.rpartition("/")[2]
        with Terminal(tmp_path / "shown", client, server.address(route), redis_url="") as terminal:
            await terminal.shows("Connected")
            done = await asyncio.to_thread(
                run_module, *alert, redis_url=running.redis_url, folder=running.folder
            )
            assert done.returncode == 0, done.stderr
            printed = '{"type":"alert","severity":"high","message":"disk is almost full"}'
            assert printed in SHOWCASE.read_text()
            await terminal.shows(printed)
            terminal.type_in('{"type": "watch", "severity": "high"}')
            await terminal.shows('{"type":"watching","severity":"high"}')
            async with (
                running.server.socket("notifications") as notifications,
                running.server.socket("chat") as chat,
            ):
                terminal.type_in(
                    '{"type": "alert", "severity": "high", "message": "no disk at all"}'
                )
                assert (await notifications.next_json())["message"] == "no disk at all"
                assert await chat.next() == "monitoring: no disk at all"


def test_one_command_for_everything_is_in_the_folder(tmp_path):
    """The command is the showcase's; tests/showcase/test_start_dev.py shows all that it does."""
    _, script = console(SHOWCASE, "python sandbox/start_dev.py")
    folder = tmp_path / "tutorial"
    prepare(folder)
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert "Start the showcase: broker, workers, web server." in done.stdout
    assert (folder / script).read_text() == (ROOT / script).read_text()


async def test_resumable_chat_on_a_layer_without_history_ends_the_start(registry, load, redis_url):
    """The reader copied the alias of the chat before it."""
    registry.register("chat", layer_table(redis_url)["chat"]["layer"])
    wrong, right = (
        f'channel_layer_alias = "{alias}"\n    resumable = True' for alias in ("chat", "queue")
    )
    module = load("apps/showcase/consumer.py", 5, wrong, right)
    output = await refusal(registry, WebSocketRoute("/", module.ReliableChatConsumer.as_asgi()))
    assert_printed(block_with(SHOWCASE, "MissingCapability", "text"), output)


def test_analytics_worker_without_its_layer_ends_with_a_sentence(tmp_path):
    """The page shows the layers that exist before the step."""
    folder = tmp_path / "tutorial"
    prepare(folder)
    solve(folder, 3)
    command = ["fast_channels", *console(SHOWCASE, "fast-channels")[1:]]
    done = run_module(*command, redis_url=nowhere(), folder=folder)
    assert done.returncode == 2
    assert_printed(block_with(SHOWCASE, "sandbox.worker_app", "text"), done.stderr)


async def test_event_without_a_handler_is_a_dead_letter(caplog):
    """The layer keeps the event, and the log names the type without a handler."""
    async with InMemoryChannelLayer() as layer:
        worker = Worker(router, ["analytics"], layer=layer, concurrency=1)
        running = asyncio.create_task(worker.run())
        await layer.send("analytics", EVENT)
        async with asyncio.timeout(PATIENCE):
            while not (dead := await layer.dead_letters("analytics")):
                await asyncio.sleep(0.005)
        worker.stop()
        await running
    assert dead[0].message == EVENT
    assert_printed(block_with(SHOWCASE, "dead letter", "text"), caplog.text)


def test_script_without_a_broker_ends_with_a_sentence():
    """The output has no traceback."""
    done = run_module("sandbox.external_sender", redis_url=nowhere())
    assert done.returncode == 1
    assert_printed(block_with(SHOWCASE, "external_sender: ", "text"), done.stderr)


def test_port_that_is_taken_is_named():
    """The error comes before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_module("sandbox.start_dev", "--port", port, redis_url="")
    assert done.returncode == 1
    assert_printed(block_with(SHOWCASE, "start_dev: ", "text"), done.stderr)
