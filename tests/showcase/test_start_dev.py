"""The one command starts and stops everything, and names every obstacle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import psutil
import pytest
import websockets.sync.client

from fast_channels.testing.server import answers, free_port
from sandbox.start_dev import SHORT_LIFE_SECONDS
from tests.layers.support import comes_true
from tests.showcase.support import PATIENCE, ROOT, page_answers, run_module

START_DEV = ROOT / "sandbox" / "start_dev.py"


class StartDev:
    """start_dev.py as a process, started from a directory outside the project."""

    def __init__(
        self, directory, *, redis_url: str | None = None, broker_port: int | None = None
    ) -> None:
        self.port, self.broker_port = free_port(), broker_port or free_port()
        environment = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
        if redis_url is not None:
            environment["REDIS_URL"] = redis_url
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(START_DEV)),
                *("--port", str(self.port), "--broker-port", str(self.broker_port)),
            ],
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.children: list[psutil.Process] = []

    def wait_until_started(self) -> str:
        """Read its output up to the last line of the welcome."""
        watchdog = threading.Timer(2 * PATIENCE, self.process.kill)
        watchdog.start()
        welcome = ""
        for line in self.process.stdout:
            welcome += line
            if "Ctrl+C" in line:
                break
        else:
            pytest.fail(f"start_dev ended: {welcome}{self.process.stderr.read()}")
        watchdog.cancel()
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        return welcome

    def child(self, word: str) -> psutil.Process:
        (found,) = [child for child in self.children if word in " ".join(child.cmdline())]
        return found

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return the exit code and the error lines."""
        _, errors = self.process.communicate(timeout=2 * PATIENCE)
        return self.process.returncode, errors


@contextmanager
def start_dev(directory, **options):
    running = StartDev(directory, **options)
    try:
        yield running
    finally:
        for child in running.children:
            if child.is_running():
                child.kill()
        running.process.kill()
        running.process.communicate()


def refused(*arguments: str, redis_url: str = "") -> str:
    """Run start_dev.py where it cannot start; return the one line that it prints."""
    done = run_module("sandbox.start_dev", *arguments, redis_url=redis_url)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_starts_all_four_and_stops_them_when_asked(tmp_path, number):
    """The directory does not matter; afterwards no process is left and both ports are free."""
    with start_dev(tmp_path) as running:
        welcome = running.wait_until_started()
        assert f"http://localhost:{running.port}" in welcome
        (sender,) = [line for line in welcome.splitlines() if "sandbox.external_sender" in line]
        assert answers(running.broker_port, timeout=PATIENCE)
        assert page_answers(running.url)
        assert len(running.children) == 4
        # Pasted into a terminal that is somewhere else.
        pasted = ["bash", "-c", f"{sender} --rounds 0 --count 0"]
        sent = subprocess.run(pasted, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "maintenance tonight" in sent.stdout

        # An open page must not keep the server from ending.
        with websockets.sync.client.connect(f"ws://127.0.0.1:{running.port}/ws/chat"):
            running.process.send_signal(number)
            assert running.ended() == (0, "")
        assert not any(child.is_running() for child in running.children)
        assert not answers(running.broker_port)
        assert not page_answers(running.url)


def test_stops_a_worker_in_the_middle_of_a_job(tmp_path):
    """The process that runs the job ends too."""
    with start_dev(tmp_path) as running:
        running.wait_until_started()
        with websockets.sync.client.connect(
            f"ws://127.0.0.1:{running.port}/ws/backgroundjob"
        ) as client:
            client.send('{"type": "generate", "content": "x"}')
            # The process of the job is the fifth, and takes a few seconds.
            family = psutil.Process(running.process.pid)
            comes_true(lambda: len(family.children(recursive=True)) == 5)
            running.children = family.children(recursive=True)
            running.process.send_signal(signal.SIGINT)
            assert running.ended()[0] == 0
        assert not any(child.is_running() for child in running.children)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("uvicorn", "uvicorn ended by itself with exit code -9"),
        ("-server ", "the broker on port {port} ended by itself"),
    ],
)
def test_says_which_process_died_and_stops_the_others(tmp_path, word, said):
    """The exit code is 1, with one line and no process left."""
    with start_dev(tmp_path) as running:
        running.wait_until_started()
        running.child(word).kill()
        code, errors = running.ended()
        assert code == 1
        assert f"start_dev: {said.format(port=running.broker_port)}\n" in errors
        assert not any(child.is_running() for child in running.children)


def test_starts_the_analytics_worker_again(tmp_path):
    """After a kill, the new worker counts the event that was sent meanwhile."""
    with start_dev(tmp_path) as running:
        running.wait_until_started()
        with websockets.sync.client.connect(
            f"ws://127.0.0.1:{running.port}/ws/analytics"
        ) as client:
            assert client.recv(timeout=PATIENCE) == "📊 Analytics tracking started!"
            worker = running.child("sandbox.worker_app")
            # A worker that ends earlier, counted from before the welcome, is taken for one that
            # cannot start. The test must wait for time to pass.
            time.sleep(SHORT_LIFE_SECONDS)
            worker.kill()
            client.send("page_view /pricing")
            assert client.recv(timeout=PATIENCE) == "📊 Analytics: page_view /pricing"
            assert client.recv(timeout=PATIENCE) == "counted: page_view /pricing"
        running.process.send_signal(signal.SIGINT)
        assert running.ended()[0] == 0


def test_uses_the_broker_that_redis_url_names(tmp_path, broker):
    """The command starts no broker, and leaves that one running."""
    with start_dev(tmp_path, redis_url=broker.url) as running:
        assert broker.url in running.wait_until_started()
        assert len(running.children) == 3
        running.process.send_signal(signal.SIGINT)
        assert running.ended()[0] == 0
    assert answers(broker.port, timeout=PATIENCE)


def test_uses_a_broker_that_answers_already(tmp_path, broker):
    """Such a broker is on the usual port, as docker compose starts it."""
    with start_dev(tmp_path, broker_port=broker.port) as running:
        running.wait_until_started()
        assert len(running.children) == 3
        running.process.send_signal(signal.SIGINT)
        assert running.ended()[0] == 0
    assert answers(broker.port, timeout=PATIENCE)


@contextmanager
def listening():
    """A port with a listener that is neither a page nor Redis."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_says_that_the_port_of_the_page_is_taken():
    """The error comes before anything is started."""
    broker_port = free_port()
    with listening() as port:
        line = refused("--port", str(port), "--broker-port", str(broker_port))
    assert line == f"start_dev: port {port} is taken; pass --port to use another for the page"


def test_says_that_the_port_of_the_broker_is_taken_by_something_else():
    """The line says how to use a Redis elsewhere."""
    with listening() as port:
        line = refused("--port", str(free_port()), "--broker-port", str(port))
    assert line.startswith(f"start_dev: port {port} is taken; ")
    assert "REDIS_URL" in line


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:{port}", "nonsense"])
def test_says_that_redis_url_does_not_answer(url):
    """The line does not have the password."""
    line = refused("--port", str(free_port()), redis_url=url.format(port=free_port()))
    assert line.startswith("start_dev: REDIS_URL: no Redis at ")
    assert "secret" not in line
