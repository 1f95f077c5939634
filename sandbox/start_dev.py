"""
The whole showcase with one command: `python sandbox/start_dev.py`.

Starts a broker unless one answers, the RQ worker, the analytics worker and uvicorn, and waits
until they answer. Stops all of them on Ctrl+C, on SIGTERM, or when one ends by itself. Only
the analytics worker is restarted, because killing it loses no event.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self
from urllib.parse import urlsplit

import redis
import rq

from fast_channels.exceptions import MissingServer, ServerDidNotStart
from fast_channels.testing.server import ValkeyServer, answers

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
WEB_PORT = 8080
BROKER_PORT = 6399

# All processes must answer within this time.
START_TIMEOUT_SECONDS = 30.0
CHECK_INTERVAL_SECONDS = 0.1
# Longer than the longest job takes.
STOP_TIMEOUT_SECONDS = 5.0

# A process that ends this soon could not start at all, so restarting it would not help.
SHORT_LIFE_SECONDS = 2.0

# Arguments of Python that run the worker that counts events.
ANALYTICS_WORKER = [
    *("fast_channels", "worker", "sandbox.worker_app:router", "analytics"),
    *("--layer", "analytics", "--setup", "sandbox.layers:setup_layers"),
    *("--log-level", "WARNING"),
]


class CannotGoOn(Exception):
    """Raise this with the line that the user of the command reads."""


class StopRequested(Exception):
    """Ctrl+C was pressed, or a SIGTERM arrived."""


class Signals:
    """
    Remembers that a signal asked this process to stop.

    The handler sets a flag. An exception from it could arrive after a process has started and
    before the line that makes sure it is stopped.
    """

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._receive)

    def _receive(self, *_: object) -> None:
        self.received = True

    def pause(self) -> None:
        """Wait a moment. Raises StopRequested after a signal."""
        # Several processes and a port have no common event to wait for.
        time.sleep(CHECK_INTERVAL_SECONDS)  # a poll: see above
        if self.received:
            raise StopRequested


class Child:
    """A child process that runs a Python module. Leaving the block ends it."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.arguments = arguments
        self.environment = environment

    def __enter__(self) -> Self:
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", *self.arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            # Ctrl+C reaches this process only, which ends its children in order.
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        # A second SIGTERM makes uvicorn and RQ end without finishing their work.
        for ask in (self.process.terminate, self.process.terminate, self.process.kill):
            ask()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_SECONDS)
                return
        self.process.wait()

    def check(self) -> None:
        if (code := self.process.poll()) is not None:
            raise CannotGoOn(f"{self.name} ended by itself with exit code {code}")


class RestartedChild(Child):
    """A child process that is restarted when it ends, unless it could not start at all."""

    def check(self) -> None:
        if self.process.poll() is not None:
            if time.monotonic() - self.started_at < SHORT_LIFE_SECONDS:
                super().check()
            print(f"{self.name} ended and is started again", flush=True)
            self.__enter__()


class EmbeddedBroker(ValkeyServer):
    """A broker that this command starts, because none answered."""

    name = "the broker"

    def check(self) -> None:
        if not answers(self.port, timeout=STOP_TIMEOUT_SECONDS):
            raise CannotGoOn(f"{self.name} on port {self.port} ended by itself")


Process = Child | EmbeddedBroker


def main() -> int:
    arguments = parse_arguments()
    signals = Signals()
    try:
        if arguments.only_broker:
            run_broker(arguments.broker_port, signals)
        run(arguments.port, arguments.broker_port, signals)
    except StopRequested:
        print("stopped", flush=True)
        return 0
    except (CannotGoOn, MissingServer, ServerDidNotStart) as error:
        print(f"start_dev: {error}", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Start the showcase: broker, workers, web server.")
    parser.add_argument("--port", type=int, default=WEB_PORT, help="of the page (8080)")
    parser.add_argument("--broker-port", type=int, default=BROKER_PORT, help="of Redis (6399)")
    parser.add_argument("--only-broker", action="store_true", help="start nothing else")
    return parser.parse_args()


def run_broker(port: int, signals: Signals) -> NoReturn:
    require_free_port(port, "pass --broker-port to use another")
    with EmbeddedBroker(port) as broker:
        print(f"broker at redis://localhost:{port}, Ctrl+C stops it", flush=True)
        while True:
            signals.pause()
            broker.check()


def run(port: int, broker_port: int, signals: Signals) -> NoReturn:
    """Start, watch and stop all processes. Ends only with an exception."""
    require_free_port(port, "pass --port to use another for the page")
    with contextlib.ExitStack() as children:
        url, broker = find_broker(broker_port)
        environment = {"REDIS_URL": url}
        worker_name = f"start-dev-{uuid.uuid4().hex}"
        worker = Child("the worker", ["sandbox.worker", "--name", worker_name], environment)
        analytics = RestartedChild("the analytics worker", ANALYTICS_WORKER, environment)
        server = Child("uvicorn", uvicorn_arguments(port), environment)
        running: list[Process] = [*broker, worker, analytics, server]
        for child in running:
            children.enter_context(child)
        wait_until(lambda: worker_answers(url, worker_name), running, signals)
        wait_until(lambda: page_answers(port), running, signals)
        print(welcome(port, url), flush=True)
        while True:
            signals.pause()
            for child in running:
                child.check()


def find_broker(port: int) -> tuple[str, list[EmbeddedBroker]]:
    """Return a broker's URL, and the broker if this command has to start it."""
    if given := os.environ.get("REDIS_URL"):
        require_broker(given, "REDIS_URL")
        return given, []
    url = f"redis://{HOST}:{port}"
    if answers(port, timeout=STOP_TIMEOUT_SECONDS):
        require_broker(url, f"port {port}")
        return url, []
    require_free_port(
        port, "it is not Redis that answers there; set REDIS_URL to use one elsewhere"
    )
    return url, [EmbeddedBroker(port)]


def require_broker(url: str, source: str) -> None:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as connection:
            connection.ping()
    except (redis.RedisError, ValueError) as error:
        raise CannotGoOn(f"{source}: no Redis at {without_password(url)}: {error}") from error


def require_free_port(port: int, remedy: str) -> None:
    # Connect first: on some systems, a server that listens on all addresses does not prevent
    # another one from binding to a single address.
    with socket.socket() as client:
        taken = client.connect_ex((HOST, port)) == 0
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except OSError as error:
        if not taken:
            raise CannotGoOn(f"port {port} cannot be used: {error.strerror}; {remedy}") from error
    if taken:
        raise CannotGoOn(f"port {port} is taken; {remedy}")


def uvicorn_arguments(port: int) -> list[str]:
    return [
        *("uvicorn", "sandbox.main:app", "--host", HOST, "--port", str(port)),
        *("--log-level", "warning", "--timeout-graceful-shutdown", "3"),
    ]


def wait_until(ready: Callable[[], bool], running: list[Process], signals: Signals) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not ready():
        for child in running:
            child.check()
        if time.monotonic() > deadline:
            names = ", ".join(child.name for child in running)
            raise CannotGoOn(
                f"not all of {names} answered within {START_TIMEOUT_SECONDS:.0f} seconds"
            )
        signals.pause()


def worker_answers(url: str, name: str) -> bool:
    """Return whether RQ lists the worker, which it does once the worker listens."""
    try:
        with redis.Redis.from_url(url) as connection:
            return bool(connection.exists(f"{rq.Worker.redis_worker_namespace_prefix}{name}"))
    except redis.RedisError:
        return False


def page_answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/healthz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def welcome(port: int, url: str) -> str:
    sender = [sys.executable, "-m", "sandbox.external_sender"]
    if url != f"redis://{HOST}:{BROKER_PORT}":
        sender = ["env", f"REDIS_URL={without_password(url)}", *sender]
    return f"""
  Fast Channels showcase   http://localhost:{port}
  broker                   {without_password(url)}

  Try this:
    open the page in two tabs, and write in the chats
    drop the connection of one tab, write in the other, and see which chat has it all
    run a background job and watch its bar
    send from outside the server, in another terminal:
      cd {shlex.quote(str(ROOT))} && {shlex.join(sender)}

  Ctrl+C stops everything.
"""


def without_password(url: str) -> str:
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@") if password else url


if __name__ == "__main__":
    sys.exit(main())
