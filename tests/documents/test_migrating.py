"""The code of docs/migrating runs on both sides of a migration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fast_channels.layers import InMemoryChannelLayer
from tests.documents.support import ROOT, block_with

DJANGO = ROOT / "docs" / "migrating" / "django-channels.md"
FORMER = ROOT / "docs" / "migrating" / "fast-channels.md"
EXAMPLES = ROOT / "docs" / "examples" / "migrating"
SHOP = Path(__file__).with_name("shop.py")
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

PATIENCE = 50


@pytest.fixture
def command():
    """Return a function that gives the interpreter of a side and its environment."""
    if not PEER_PYTHON.exists():
        reason = "no .venv-peers with what the examples migrate from: run `make .venv-peers/.ready`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)

    def command(side, redis_url, folder):
        environment = os.environ | {"REDIS_URL": redis_url, "DATABASE": f"{folder}/{side}.sqlite3"}
        environment.pop("PYTHONPATH", None)
        if side == "before":
            # channels_redis waits for 5 s at a time, which is the default timeout of redis-py 8.
            environment["REDIS_URL"] += "?socket_timeout=60"
            return PEER_PYTHON, environment
        return sys.executable, environment | {"PYTHONPATH": str(ROOT / "src")}

    return command


def run(command, *arguments):
    """Run a program to its end and return its output."""
    python, environment = command
    result = subprocess.run(
        [python, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("side", ["before", "after"])
def test_shop_serves_its_clients(side, command, redis_url, tmp_path):
    """Django Channels and this library pass one conversation."""
    assert run(command(side, redis_url, tmp_path), SHOP, side, "check") == "passed\n"


@pytest.fixture
def talk(command, redis_url, tmp_path):
    """Return a function that starts a client on a side; its lines are its frames."""
    with contextlib.ExitStack() as stack:

        def talk(side, *arguments):
            python, environment = command(side, redis_url, tmp_path)
            process = subprocess.Popen(
                [python, *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield talk


def say(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def test_clients_of_both_sides_are_in_one_room(talk):
    """While both sides use one Redis, clients of both get every message."""
    sides = {side: talk(side, SHOP, side, "talk") for side in ("before", "after")}
    for process in sides.values():
        # The clients are now in the room.
        assert process.stdout.readline() == "{'members': 1}\n"
    for side, process in sides.items():
        say(process, f"hello from {side}")
        for hearer in sides.values():
            heard = hearer.stdout.readline()
            assert heard == f"{{'who': 'ann', 'text': 'hello from {side}'}}\n"


def test_clients_of_both_versions_are_in_one_room(talk):
    """Processes of fast-channels 1.1 and of this library, with one file, share a room."""
    old = talk("before", SHOP.with_name("room.py"))
    assert old.stdout.readline() == "joined (en)\n"
    new = talk("after", SHOP.with_name("room.py"))
    for hearer in (old, new):
        assert hearer.stdout.readline() == "joined (en)\n"
    for speaker in (old, new):
        say(speaker, "hello")
        for hearer in (old, new):
            assert hearer.stdout.readline() == "message: hello\n"


@pytest.mark.parametrize("side", ["before", "after"])
def test_code_for_the_former_version_runs_unchanged(side, command, redis_url, tmp_path):
    """One file runs with fast-channels 1.1 and with this library."""
    script = EXAMPLES / "fast_channels" / "check_chat.py"
    assert run(command(side, redis_url, tmp_path), script) == "passed\n"


def test_application_of_today_starts(command, redis_url, tmp_path):
    """The lifespan of main.py opens its layers and checks the consumers in mounted routes."""
    check = (
        "import asyncio, main\n"
        "from fast_channels import channel_layers\n"
        "async def start():\n"
        "    async with channel_layers.lifespan(main.app):\n"
        "        print(channel_layers['orders'].health().state)\n"
        "asyncio.run(start())\n"
    )
    python, environment = command("after", redis_url, tmp_path)
    result = subprocess.run(
        [python, "-c", check],
        cwd=EXAMPLES / "fast_channels",
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("ready\n", "")


# The answers to tests/documents/former.py: of 1.1, and of this version.
ANSWERS = {
    "option_of_pubsub": (None, "TypeError"),
    "initkwargs": (["unknown"], "TypeError"),
    "groups_without_a_layer": (None, "ConsumerStateError"),
    "unknown_alias": (None, "UnknownLayer"),
    "no_layer": (None, "InvalidChannelLayerError"),
    "int_key": (None, "InvalidMessage"),
    "datetime_in_memory": (None, "InvalidMessage"),
    "handler_that_fails": ("ValueError", 1011),
    "type_without_a_handler": ("ValueError", "hello"),
    "type_of_the_library": (1000, "hello"),
    "groups_that_were_joined_by_hand": (["by-hand"], []),
    "json_that_is_none": ("JSONDecodeError", 1007),
    "nan": ("NaN", "null"),
    "close_with_send": (True, 1000),
}


@pytest.mark.parametrize("side", ["before", "after"])
def test_versions_differ_as_the_page_says(side, command, redis_url, tmp_path):
    """Both versions answer as the tables of fast-channels.md say, which name current errors."""
    answers = json.loads(run(command(side, redis_url, tmp_path), SHOP.with_name("former.py")))
    assert answers == {name: both[side == "after"] for name, both in ANSWERS.items()}
    for _, now in ANSWERS.values():
        if isinstance(now, str) and now.endswith(("Error", "Layer", "Message")):
            assert f"`{now}`" in FORMER.read_text()


async def test_mails_of_the_old_side_become_work(registry):
    """The script of django-channels.md turns messages to the old channel into work."""
    names = {}
    exec(block_with(DJANGO, "forward_mails"), names)
    async with InMemoryChannelLayer() as default, InMemoryChannelLayer() as work:
        registry.register("default", default)
        registry.register("work", work)
        forwarding = asyncio.create_task(names["forward_mails"]())
        await default.send("mails", {"type": "mail.send", "text": "hi"})
        async with asyncio.timeout(10), work.take("mails") as mail:
            assert mail.message == {"type": "mail.send", "text": "hi"}
        forwarding.cancel()
        await asyncio.wait([forwarding])
