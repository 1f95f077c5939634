"""The command `fast-channels`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fast_channels
from fast_channels.cli import main
from fast_channels.layers import RedisStreamsChannelLayer

ROOT = Path(__file__).parent.parent
ROUTER = "tests.worker_app:router"
SETUP = ["--setup", "tests.worker_app:setup"]


@pytest.fixture(autouse=True)
def aliases(registry):
    """Keep the aliases that the command registers out of other tests."""


def test_version_is_printed(capsys):
    """The command does nothing else."""
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"fast-channels {fast_channels.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([ROUTER, "echo"], "no channel layer is called 'default'; registered: none"),
        (["tests.nowhere:router", "echo"], "cannot import 'tests.nowhere': No module named"),
        (["tests.worker_app:rooter", "echo"], "'tests.worker_app' has no 'rooter'"),
        (["tests.worker_app", "echo"], "'tests.worker_app' names nothing; write module:name"),
        (["tests.worker_app:Echo", "echo"], "is a type; name a ChannelNameRouter"),
        ([ROUTER, "ehco", "--setup", "tests.worker_app:setup_memory"], "routed: 'echo'"),
        ([ROUTER, "echo", "--layer", "x"], "no channel layer is called 'x'"),
        ([ROUTER, "echo", "--setup", "tests.worker_app:__doc__"], "is a str; name a function"),
        ([ROUTER, "echo", "--setup", "tests.worker_app:nothing"], "has no 'nothing'"),
        (
            [ROUTER, "echo", "--setup", "tests.worker_app:setup_memory", "--drain-timeout", "-1"],
            "drain_timeout is -1.0",
        ),
    ],
)
def test_mistake_is_one_sentence(arguments, sentence, capsys):
    """The sentence goes to stderr, and the exit code is 2."""
    assert main(["worker", *arguments]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.startswith("fast-channels: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["worker"], ["worker", ROUTER], ["worker", ROUTER, "echo", "--concurrency=0"]]
)
def test_incomplete_command_is_told_how_to_use_it(arguments, capsys):
    """argparse prints the usage, with the same exit code."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: fast-channels")


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_concurrency_that_is_none_is_told_what_it_is(number, capsys):
    """The error names the option of the command, and no Python name."""
    with pytest.raises(SystemExit):
        main(["worker", ROUTER, "echo", f"--concurrency={number}"])
    sentence = f"argument --concurrency: {number!r} is not a whole number of at least 1"
    assert sentence in capsys.readouterr().err


def test_signal_after_the_end_changes_nothing(registry):
    """An impatient user may send a second signal after the loop has closed."""
    with restored_signals():
        main(["worker", ROUTER, "echo", "--setup", "tests.worker_app:setup_stopping"])
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def restored_signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_broker_that_does_not_answer_is_one_sentence(monkeypatch, capsys):
    """The exit code differs, because the broker may come back."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert main(["worker", ROUTER, "echo", *SETUP]) == 1
    assert "does not answer" in capsys.readouterr().err


@pytest.fixture
def worker(redis_url, tmp_path):
    """Start a process that works on the channel "echo", and logs into tmp_path."""
    with (tmp_path / "log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fast_channels", "worker", ROUTER, "echo", *SETUP],
            cwd=ROOT,
            env={**os.environ, "REDIS_URL": redis_url},
            stdout=output,
            stderr=output,
        )
    yield process
    process.kill()
    process.wait()


async def test_worker_works_until_it_is_told_to_stop(redis_url, worker, tmp_path):
    """After SIGTERM the process ends with 0, and later messages wait."""
    async with RedisStreamsChannelLayer([redis_url]) as layer:
        inbox = await layer.open_channel()
        await layer.group_add("echoes", inbox.name)
        await layer.send("echo", {"type": "echo", "group": "echoes", "n": 1})
        async with asyncio.timeout(20):
            assert (await inbox.get())["n"] == 1
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 10) == 0
        await layer.send("echo", {"type": "echo", "group": "echoes", "n": 2})
        assert (await layer.receive("echo"))["n"] == 2
    assert "stopped: 1 done" in (tmp_path / "log").read_text()
