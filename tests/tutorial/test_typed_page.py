"""A reader types the last page of the original tutorial, block by block, and everything works."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from playwright.async_api import expect

from fast_channels.client import connect
from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.layers import InMemoryChannelLayer, get_channel_layer
from fast_channels.testing import WebsocketCommunicator
from fast_channels.testing.server import free_port
from sandbox.apps.showcase.consumer import ChatConsumer, NotificationConsumer
from sandbox.tutorial.steps import prepare, solve
from tests.showcase.support import PATIENCE, ROOT, Process, WebServer, page_answers, run_module
from tests.tutorial import typed_page

# The first test starts a broker, workers and a server.
pytestmark = pytest.mark.timeout(150)


class Showcase(WebServer):
    """Everything that `START` starts, on ports of its own."""

    def __init__(self, folder, log):
        super().__init__(log, "", folder=folder)
        broker_port = free_port()
        _, script = shlex.split(typed_page.START)
        module = script.removesuffix(".py").replace("/", ".")
        self.arguments = (
            *(module, "--port", str(self.port)),
            *("--broker-port", str(broker_port)),
        )
        self.redis_url = f"redis://localhost:{broker_port}"

    def start(self):
        Process.start(self)
        self.wait_until(lambda: page_answers(self.url) and "Ctrl+C" in self.output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a reader who has done the first four parts and typed the last page."""
    folder = tmp_path_factory.mktemp("typed") / "tutorial"
    prepare(folder)
    solve(folder, 4)
    shutil.rmtree(folder / "sandbox" / "apps" / "showcase" / "__pycache__", ignore_errors=True)
    subprocess.run(["bash", "-ec", typed_page.MAKE_FOLDER], cwd=folder, check=True)
    for source, target in typed_page.INCLUDED.items():
        shutil.copy(ROOT / source, folder / target)
    with (folder / "sandbox" / "apps" / "showcase" / "consumer.py").open("a") as consumer:
        consumer.write(f"\n\n{typed_page.ANALYTICS_CONSUMER}")
    main = folder / "sandbox" / "main.py"
    lines = main.read_text().splitlines()
    for line in typed_page.UNCOMMENTED.splitlines():
        assert lines.count(f"# {line}") == 1, line
        lines[lines.index(f"# {line}")] = line
    main.write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def typed(folder, tmp_path_factory):
    with Showcase(folder, tmp_path_factory.mktemp("log") / "showcase.log") as running:
        yield running
    assert "Traceback" not in running.output
    assert "dead letter" not in running.output


def test_tree_has_the_files_of_the_page(folder):
    """Readers find each file where the page says."""
    missing = [path for path in typed_page.TREE if not (folder / path).is_file()]
    assert missing == []
    # The page includes these files of the repository.
    for path in typed_page.INCLUDED:
        assert (ROOT / path).is_file()


async def test_system_room_and_jobs_work_as_before(typed):
    """The parts before are not affected."""
    async with typed.socket("system") as client:
        await client.until("welcome")
        await client.send("hello")
        await client.until("hello")
    async with typed.socket("room/two%20words?name=ada") as one:
        assert "two words" in await one.next()
        async with typed.socket("room/two%20words?name=bob") as other:
            await one.until("bob")
            await other.send("hello")
            assert await one.next() == "bob: hello"
    async with typed.socket("backgroundjob") as client:
        await client.send_json({"type": "translate", "content": "hello"})
        assert (await client.until_type("job.finished"))["result"] == "ellohay"


@pytest.mark.parametrize("route", ["chat", "reliable"])
async def test_line_comes_back_over_both_chats(typed, route):
    """A frame is text, in both directions."""
    async with typed.socket(f"{route}?name=ada") as one, typed.socket(route) as other:
        await one.send("to both chats")
        for client in (one, other):
            assert await client.next() == "ada: to both chats"


async def test_reliable_chat_resumes(typed):
    """A client that was away receives the lines that it missed."""
    address = typed.address("reliable?name=ada")
    async with connect(address) as away:
        await away.send("before")
        assert (await anext(away)).data == "ada: before"
        places = away.places
    async with typed.socket("reliable?name=bob") as other:
        await other.send("missed")
        await other.until("missed")
    async with connect(address, places=places) as back:
        message = await anext(back)
    assert (message.data, message.replayed) == ("bob: missed", True)


async def test_notification_is_structured(typed):
    """A client sends and receives JSON."""
    async with typed.socket("notifications") as one, typed.socket("notifications") as other:
        await one.send_json({"message": "hello"})
        for client in (one, other):
            assert (await client.next_json())["message"] == "hello"


async def test_own_analytics_consumer_confirms_and_answers(typed):
    """The pasted class replaces the one with the TODO."""
    async with typed.socket("analytics") as client:
        assert await client.next() == "📊 Analytics tracking started!"
        await client.send("anything at all")
        assert await client.next() == "📊 Analytics: anything at all"


async def test_script_of_the_page_reaches_every_socket(typed):
    """The command runs to its end, and its messages arrive over all four layers."""
    program, dash_m, module = shlex.split(typed_page.SEND)
    assert (program, dash_m) == ("python", "-m")
    async with (
        typed.socket("chat") as chat,
        typed.socket("reliable") as reliable,
        typed.socket("notifications") as notifications,
        typed.socket("analytics") as analytics,
    ):
        done = await asyncio.to_thread(
            run_module, module, redis_url=typed.redis_url, folder=typed.folder
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        await chat.until("announcement 3 of 3")
        await reliable.until("announcement 3 of 3")
        assert (await notifications.next_json())["message"]
        for event in ("user_login", "page_view", "button_click", "session_duration", "error"):
            await analytics.until(event)


ORIGINAL_SENDER = f"""\
import asyncio

from fast_channels.layers import get_channel_layer
from sandbox.layers import setup_layers

setup_layers()
SENT = {typed_page.ORIGINAL_SENDER!r}
layers = {{alias: get_channel_layer(alias) for alias, _, _ in SENT}}


async def main():
    for alias, group, message in SENT:
        await layers[alias].group_send(group, message)


asyncio.run(main())
"""


async def test_original_sender_reaches_our_clients(typed, tmp_path):
    """Messages without data, author or time arrive, too."""
    script = tmp_path / "original_sender.py"
    script.write_text(ORIGINAL_SENDER)
    async with (
        typed.socket("chat") as chat,
        typed.socket("reliable") as reliable,
        typed.socket("notifications") as notifications,
        typed.socket("analytics") as analytics,
    ):
        environment = {"REDIS_URL": typed.redis_url, "PYTHONPATH": str(typed.folder)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, script), env={**os.environ, **environment}
        )
        assert await process.wait() == 0
        assert await chat.next() == "welcome"
        assert await reliable.next() == "maintenance"
        notification = await notifications.next_json()
        assert (notification["type"], notification["message"]) == ("notification", "busy")
        assert await analytics.until("Event") == "📊 Event: page_view:/x"


async def test_functions_of_the_sender_can_be_called_from_another_script(typed, tmp_path):
    """Each sends with its defaults, in a process that does nothing else."""
    names = (
        *("send_chat_message", "send_reliable_message", "send_notification"),
        *("send_analytics_event", "send_to_multiple_layers", "periodic_announcements"),
    )
    script = tmp_path / "one.py"
    async with typed.socket("reliable") as reliable, typed.socket("analytics") as analytics:
        script.write_text(
            "import asyncio, sys\n"
            "from sandbox import external_sender\n"
            "asyncio.run(getattr(external_sender, sys.argv[1])())\n"
        )
        environment = {"REDIS_URL": typed.redis_url, "PYTHONPATH": str(typed.folder)}
        for name in names:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", script, name), env={**os.environ, **environment}
            )
            assert await process.wait() == 0
        await reliable.until("announcement 3 of 3")
        await analytics.until("Event: error")


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_page_has_a_section_that_sends_over_both_chats(typed, open_page):
    """Readers type into the section "Showcase" and press "Send"."""
    page = await open_page(typed.url)
    section = page.get_by_role("region", name="Showcase", exact=True)
    await section.get_by_role("textbox").fill("hello")
    await section.get_by_role("button", name="Send", exact=True).press("Enter")
    for log in ("chat-log", "reliable-log"):
        await expect(section.locator(f"#{log} .said", has_text="hello")).to_have_count(1)
    await page.locator("#analytics-send").press("Enter")
    await expect(page.locator("#rate-total")).not_to_have_text("0")


# -- the section about customising --------------------------------------------


def pasted(block: str, **names) -> dict:
    """Run a block of the page where its names are known."""
    space = dict(names)
    exec(compile(block, "block", "exec"), space)
    return space


async def test_own_layer_is_pasted_into_the_table(folder, redis_url, tmp_path):
    """The alias is registered with the others, and its layer works."""
    shutil.copytree(folder, tmp_path / "tutorial")
    layers = tmp_path / "tutorial" / "sandbox" / "layers.py"
    first = '        "memory": {'
    assert layers.read_text().count(first) == 1
    layers.write_text(layers.read_text().replace(first, f"{typed_page.MONITORING_LAYER}{first}"))
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, time\n"
        "from fast_channels.layers import get_channel_layer\n"
        "from sandbox.layers import setup_layers\n"
        f"{typed_page.MONITORING_ALERT}\n"
        "async def main():\n"
        "    async with get_channel_layer('monitoring') as layer:\n"
        "        channel = await layer.new_channel()\n"
        "        await layer.group_add('alerts', channel)\n"
        "        await send_monitoring_alert()\n"
        "        print((await layer.receive(channel))['data']['message'])\n"
        "setup_layers()\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, script],
        env={
            **os.environ,
            "REDIS_URL": redis_url,
            "PYTHONPATH": str(tmp_path / "tutorial"),
        },
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert (done.stderr, done.stdout) == ("", "CPU usage above 90%\n")


async def test_own_json_consumer_runs():
    """The reader writes the two methods that it calls."""
    base = pasted(
        typed_page.CUSTOM_CONSUMER, AsyncJsonWebsocketConsumer=AsyncJsonWebsocketConsumer
    )["CustomJsonConsumer"]

    class Custom(base):
        async def handle_user_action(self, payload):
            await self.send_json(["user", payload])

        async def handle_system_event(self, payload):
            await self.send_json(["system", payload])

    client = WebsocketCommunicator(Custom.as_asgi(), "/")
    await client.connect()
    for type_, who in (("user_action", "user"), ("system_event", "system")):
        await client.send_json_to({"type": type_, "payload": {"a": 1}})
        assert await client.receive_json_from() == [who, {"a": 1}]
    await client.disconnect()


async def test_own_script_alerts_its_group(registry):
    """A consumer in the group handles the type and reads the data."""
    registry.register("monitoring", InMemoryChannelLayer())

    class Alerts(AsyncJsonWebsocketConsumer):
        channel_layer_alias = "monitoring"
        groups = ("alerts",)

        async def alert_message(self, event):
            await self.send_json(event["data"])

    space = pasted(typed_page.MONITORING_ALERT, get_channel_layer=get_channel_layer, time=time)
    async with registry["monitoring"]:
        client = WebsocketCommunicator(Alerts.as_asgi(), "/")
        await client.connect()
        await space["send_monitoring_alert"]()
        alert = await client.receive_json_from()
        assert (alert["severity"], alert["message"]) == ("high", "CPU usage above 90%")
        await client.disconnect()


class Analytics(AsyncWebsocketConsumer):
    channel_layer_alias = "analytics"
    groups = ("analytics_group",)

    async def analytics_message(self, event):
        await self.send(event["message"])


class Chat(ChatConsumer):
    groups = ("chat_group",)


class Notifications(NotificationConsumer):
    groups = ("notifications_group",)
    notifications_message = NotificationConsumer.notification_message


async def test_own_analytics_consumer_runs_in_the_finished_file(registry):
    """A reader may paste the class below the consumers of the showcase itself."""
    registry.register("analytics", InMemoryChannelLayer())
    finished = (ROOT / "sandbox" / "apps" / "showcase" / "consumer.py").read_text()
    space = pasted(f"{finished}\n\n{typed_page.ANALYTICS_CONSUMER}", __name__="pasted")
    async with registry["analytics"]:
        client = WebsocketCommunicator(space["AnalyticsConsumer"].as_asgi(), "/")
        await client.connect()
        assert await client.receive_from() == "📊 Analytics tracking started!"
        await client.send_to("hello")
        assert await client.receive_from() == "📊 Analytics: hello"
        await client.disconnect()


async def test_broadcast_reaches_every_layer(registry):
    """Consumers of the showcase need the group's name, and one a second name for its handler."""
    for alias in ("chat", "notifications", "analytics"):
        registry.register(alias, InMemoryChannelLayer())
    space = pasted(typed_page.BROADCAST, get_channel_layer=get_channel_layer)
    async with registry["chat"], registry["notifications"], registry["analytics"]:
        clients = [
            WebsocketCommunicator(consumer.as_asgi(), "/")
            for consumer in (Chat, Notifications, Analytics)
        ]
        for client in clients:
            await client.connect()
        await space["broadcast_to_all_layers"]("to all")
        chat, notifications, analytics = clients
        assert await chat.receive_from() == "to all"
        assert (await notifications.receive_json_from())["message"] == "to all"
        assert await analytics.receive_from() == "to all"
        for client in clients:
            await client.disconnect()
