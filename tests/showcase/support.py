"""The processes of the showcase, and sockets that record their messages."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest
import redis
import websockets
from playwright.async_api import async_playwright, expect

from fast_channels.testing.server import free_port
from sandbox.start_dev import ANALYTICS_WORKER

ROOT = Path(__file__).resolve().parents[2]

# Upper bound in seconds for any step of a test.
PATIENCE = 15.0
# Upper bound in seconds for a process to start, together with others on a busy machine.
START_PATIENCE = 40.0


BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Process:
    """A Python module of the showcase in `folder` as a process, with its output in a file."""

    def __init__(self, log: Path, *arguments: str, redis_url: str, folder: Path = ROOT) -> None:
        self.log = log
        self.arguments = arguments
        self.folder = folder
        self.environment = {**os.environ, "REDIS_URL": redis_url}

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
            )

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            # Has no effect on a process that has ended.
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """End the process as a crash would."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_until(self, ready) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while not ready():
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                state = "ended" if ended else "is not ready"
                pytest.fail(f"{self.arguments} {state}: {self.output}")
            # Polling, because processes have no common way to say that they are ready.
            time.sleep(0.02)


class WebServer(Process):
    """The application, served by uvicorn on a port that stays the same over restarts."""

    def __init__(
        self,
        log: Path,
        redis_url: str,
        app: str = "sandbox.main:app",
        *options: str,
        folder: Path = ROOT,
    ) -> None:
        self.port = free_port()
        arguments = ("uvicorn", app, "--port", str(self.port), *options)
        super().__init__(log, *arguments, redis_url=redis_url, folder=folder)
        self.redis_url = redis_url
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        super().start()
        self.wait_until(lambda: page_answers(self.url))

    @asynccontextmanager
    async def socket(self, route: str):
        async with websockets.connect(self.address(route), max_size=None) as connection:
            yield Client(connection)

    def address(self, route: str) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/{route}"


class Worker(Process):
    """The RQ worker; ready when RQ lists it."""

    def __init__(self, log: Path, redis_url: str, folder: Path = ROOT) -> None:
        self.name = f"test-{os.getpid()}-{time.monotonic_ns()}"
        self.redis_url = redis_url
        arguments = ("sandbox.worker", "--name", self.name)
        super().__init__(log, *arguments, redis_url=redis_url, folder=folder)

    def __enter__(self) -> Self:
        self.start()
        with redis.Redis.from_url(self.redis_url) as connection:
            self.wait_until(lambda: connection.exists(f"rq:worker:{self.name}"))
        return self


class AnalyticsWorker(Process):
    """The process that counts events; events sent before it is ready wait for it."""

    def __init__(self, log: Path, redis_url: str, folder: Path = ROOT) -> None:
        super().__init__(log, *ANALYTICS_WORKER, redis_url=redis_url, folder=folder)


class Client:
    """A socket that can wait for one message among others."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection
        self.received: list[str] = []

    async def send(self, text: str | bytes) -> None:
        await self.connection.send(text)

    async def send_json(self, content: object) -> None:
        await self.send(json.dumps(content))

    async def next(self) -> str:
        try:
            async with asyncio.timeout(PATIENCE):
                text = await self.connection.recv()
        except TimeoutError:
            raise AssertionError(f"nothing came after {self.received[-20:]}") from None
        self.received.append(text)
        return text

    async def next_json(self) -> dict:
        return json.loads(await self.next())

    async def until(self, wanted: str) -> str:
        """Wait for a message with `wanted` in it, and return it."""
        while wanted not in (text := await self.next()):
            pass
        return text

    async def until_type(self, *types: str) -> dict:
        while (message := await self.next_json())["type"] not in types:
            pass
        return message

    async def closed(self) -> tuple[int, str]:
        """Wait until the server closes; return code and reason."""
        async with asyncio.timeout(PATIENCE):
            await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason


def page_answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def run_module(
    *arguments: str, redis_url: str, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a Python module of the showcase in `folder` to its end."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


def find_browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@asynccontextmanager
async def launched_browser():
    """Launch a browser that ends with the block; skip the test if none is installed."""
    path = find_browser()
    if path is None:
        reason = "no browser found: put chromium on the PATH, or its path into CHROMIUM"
        # On CI, a skipped test would look like a success.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    expect.set_options(timeout=PATIENCE * 1000)
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        yield running
        await running.close()
