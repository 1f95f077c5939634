"""ASGI servers as processes, and a WebSocket client to talk to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import websockets

import fast_channels
from fast_channels.testing.server import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parent

# The path from which a server imports the library under test, whatever is installed.
SOURCE = Path(fast_channels.__file__).resolve().parents[1]

# Seconds until a test gives up on a server or a message.
PATIENCE = 15.0

# Seconds for a server to start, as long as others start at the same time.
START_PATIENCE = 40.0

COALESCING = "fast_channels.servers.uvicorn:CoalescingWebSocketProtocol"

COMMANDS = {
    "uvicorn_websockets": "uvicorn --port {port} --ws websockets {application}",
    "uvicorn_sansio": "uvicorn --port {port} --ws websockets-sansio {application}",
    "uvicorn_coalescing": f"uvicorn --port {{port}} --ws {COALESCING} {{application}}",
    "uvicorn_wsproto": "uvicorn --port {port} --ws wsproto {application}",
    "hypercorn": "hypercorn --graceful-timeout 1 --bind 127.0.0.1:{port} {application}",
    "granian": "granian --interface asgi --port {port} {application}",
}


class ServerProcess:
    """
    One server with an application, on a free port of loopback; its output goes to a file.

    By default it serves the application of this directory.
    """

    # The folder of the application, and its name in there.
    folder = HERE
    application = "application:app"

    def __init__(
        self,
        name: str,
        log: Path,
        *,
        command: str | None = None,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = free_port()
        self.log = log
        # Characters of the output that a test has seen.
        self._seen = 0
        words = (command or COMMANDS[name]).format(port=self.port, application=self.application)
        program, *arguments = words.split()
        folder = directory or self.folder
        path = os.pathsep.join(map(str, (folder, SOURCE)))
        own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(environment or {})}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name(program), *arguments],
                cwd=folder,
                env={**os.environ, **own},
                stdout=output,
                stderr=output,
                # Its own process group, because Granian's workers are processes too.
                start_new_session=True,
            )
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                # Servers have no common way to say that they are ready.
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise AssertionError(f"the server did not start:\n{self.output}")

    @property
    def pid(self) -> int:
        """Process id of the server, or of the parent of its workers."""
        return self._process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def new_output(self) -> str:
        """Return the lines printed since the last call."""
        output = self.output
        new, self._seen = output[self._seen :], len(output)
        return new

    def url(self, path: str, room: str = "") -> str:
        return f"ws://127.0.0.1:{self.port}/{path}?room={room}"

    def tell(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the server's first process."""
        self._process.send_signal(number)

    def tell_all(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to all of its processes, as a terminal or a supervisor may do."""
        os.killpg(self._process.pid, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end and return the exit code; raise TimeoutExpired if it takes too long."""
        return self._process.wait(timeout)

    def stop(self) -> None:
        """Stop the server as a supervisor would; raise TimeoutExpired if it takes too long."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            # The server still runs, so the group is still the one that was started here.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise


def complaints(output: str) -> list[str]:
    """Return the lines of a server's output that show an unhandled error."""
    words = ("Traceback", "Exception", "ERROR", "Error:")
    return [line for line in output.splitlines() if any(word in line for word in words)]


class Room:
    """A chat room that no other test uses, on one server in one framework."""

    def __init__(self, server: ServerProcess, framework: str) -> None:
        self.name = uuid.uuid4().hex
        self.url = server.url(f"{framework}/ws/chat", self.name)

    async def enter(self) -> websockets.ClientConnection:
        # Without a limit, so that a client that stops reading can still close.
        return await websockets.connect(self.url, max_queue=None)


async def heard(client: websockets.ClientConnection, count: int = 1) -> list[str | bytes]:
    """Return the next frames of a client."""
    async with asyncio.timeout(PATIENCE):
        return [await client.recv() for _ in range(count)]


async def closing(client: websockets.ClientConnection) -> tuple[int | None, str | None]:
    """Wait for the server to close; return its code and reason."""
    with contextlib.suppress(websockets.ConnectionClosed):
        async with asyncio.timeout(PATIENCE):
            # Skip frames before the close frame.
            while True:
                await client.recv()
    return client.close_code, client.close_reason
