"""The mistakes in 1-preparation.md, 2-system-messages.md and 3-room-chat.md happen as described."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys

from starlette.routing import Router, WebSocketRoute

from fast_channels.layers import InMemoryChannelLayer
from fast_channels.testing import WebsocketCommunicator
from sandbox.layers import layer_table
from sandbox.tutorial import __main__ as command
from sandbox.tutorial.steps import Template, all_steps
from tests.documents.support import block_with
from tests.showcase.support import run_module
from tests.tutorial.support import PAGES, assert_printed, console, recipe, refusal, register

PREPARATION = PAGES / "1-preparation.md"
SYSTEM_MESSAGES = PAGES / "2-system-messages.md"
ROOM_CHAT = PAGES / "3-room-chat.md"


def room_of(consumer_class) -> WebSocketRoute:
    return WebSocketRoute("/room/{room_name:path}", consumer_class.as_asgi())


async def test_finished_showcase_asks_for_the_broker(registry):
    """Without a broker, the error names the address that does not answer."""
    register(registry, layer_table)
    quote = block_with(PREPARATION, "LayerUnavailable", "text")
    assert_printed(quote, await refusal(registry))


async def test_room_without_a_broker_is_told(registry, stage):
    """The layer of part 3 needs the broker at the start."""
    layers = Template(all_steps()["3.1"].path).solved(3)
    space: dict = {}
    exec(compile(layers, "layers.py", "exec"), space)
    register(registry, space["layer_table"])
    assert registry.list_aliases() == ["memory", "chat"]
    quote = block_with(ROOM_CHAT, "LayerUnavailable", "text")
    assert_printed(quote, await refusal(registry))


def test_port_that_is_taken_is_told(tmp_path):
    """The application is not started."""
    program, *arguments, _ = console(PREPARATION, "uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments, port],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode != 0
    assert_printed(block_with(PREPARATION, "Errno", "text"), done.stderr)


def test_folder_is_not_made_twice(tmp_path, monkeypatch, capsys):
    """The second call leaves the folder alone."""
    monkeypatch.setattr(sys, "argv", ["tutorial", str(tmp_path / "tutorial")])
    assert command.main() == 0
    assert command.main() == 1
    assert_printed(block_with(PREPARATION, "File exists", "text"), capsys.readouterr().err)


async def test_consumer_that_sends_before_it_accepts_is_told(load, caplog):
    """The send is refused, and the log names the missing call."""
    step = all_steps()["2.1"]
    module = load(step.path, 2, "", "        await self.accept()\n")
    client = WebsocketCommunicator(module.SystemMessageConsumer.as_asgi(), "/")
    assert (await client.connect())[0] is False
    assert_printed(block_with(SYSTEM_MESSAGES, "ConsumerStateError", "text"), caplog.text)


async def test_consumer_without_receive_line_ends_one_connection(without, caplog):
    """The connection gets the code of the page, and the log has a traceback."""
    module = without("2.4")
    client = WebsocketCommunicator(module.SystemMessageConsumer.as_asgi(), "/")
    await client.connect()
    await client.receive_from()
    await client.send_to("hello")
    assert (await client.receive_output())["code"] == 1011
    assert_printed(block_with(SYSTEM_MESSAGES, "NotImplementedError", "text"), caplog.text)


async def test_room_without_its_layer_is_told(without, registry):
    """The application does not start."""
    layers = without("3.1")
    register(registry, layers.layer_table)
    room = importlib.import_module("sandbox.apps.room_chat.consumer")
    output = await refusal(registry, room_of(room.RoomChatConsumer))
    assert_printed(block_with(ROOM_CHAT, "UnknownLayer", "text"), output)


async def test_message_without_a_handler_is_told(without, registry, caplog):
    """The connection continues."""
    registry.register("chat", InMemoryChannelLayer())
    room = Router(routes=[room_of(without("3.5").RoomChatConsumer)])
    async with registry.lifespan(room):
        client = WebsocketCommunicator(room, "/room/lobby")
        assert (await client.connect())[0]
        assert await client.receive_nothing()
        await client.disconnect()
    assert_printed(block_with(ROOM_CHAT, "has no handler", "text"), caplog.text)


def test_broker_that_runs_already_is_told(valkey):
    """The command of the page says so."""
    assert recipe(ROOM_CHAT).rstrip().endswith("sandbox/start_dev.py --only-broker")
    arguments = ("--only-broker", "--broker-port", str(valkey.port))
    done = run_module("sandbox.start_dev", *arguments, redis_url="")
    assert done.returncode == 1
    assert_printed(block_with(ROOM_CHAT, "start_dev", "text"), done.stderr)
