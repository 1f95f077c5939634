"""Processes that the suite starts, measures and always ends, each by its id."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK")

# The server has the first core to itself; the processes that make load share the others.
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = CORES[:1]
LOAD_CORES = CORES[1:] or CORES

# Seconds until a process must have reported that it is ready.
START_TIMEOUT = 30.0
# Seconds from the signal to end until a process is killed.
END_TIMEOUT = 5.0


class ChildFailed(Exception):
    """A process ended, did not answer, or reported an error."""


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, or 0.0 if it is gone or `pid` is 0."""
    # The clock of clock_getcpuclockid(3) on Linux counts nanoseconds. /proc counts hundredths of
    # a second, and a short run may take less than one.
    clock = ~pid << 3 | 2
    with contextlib.suppress(OSError):
        # The clock of process 0 is the clock of this process.
        return time.clock_gettime(clock) if pid else 0.0
    return 0.0


def machine_seconds() -> float:
    """Return the user and system time of all processes of the machine."""
    user, nice, system = Path("/proc/stat").read_text(encoding="utf-8").split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / TICKS


def own_seconds() -> float:
    """Return the CPU time of the suite and of all processes that it has started and ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def children(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    with contextlib.suppress(OSError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def private_bytes(pid: int) -> int:
    """Return the memory that would be free without this process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [line for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))]
    return sum(int(line.split()[1]) for line in private) * 1024


class Process:
    """
    One process on the given cores. The end of its `with` block ends it.

    If the process fails, the error quotes its standard error.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        cores: Sequence[int],
        descriptors: Sequence[int] = (),
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(  # noqa: S603 - the suite makes the command
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=descriptors,
            # Ctrl+C in the terminal must reach only the suite, which ends the others.
            start_new_session=True,
        )
        self.pid = self.process.pid
        # Before the process starts threads, which would keep the cores of their start.
        os.sched_setaffinity(self.pid, cores)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        family = [self.pid, *children(self.pid)]
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_TIMEOUT)
        for pid in family if self.process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def family(self) -> list[int]:
        return [self.pid, *children(self.pid)]

    def cpu(self) -> float:
        """Return the CPU seconds of this process and of the processes that it started."""
        return sum(cpu_seconds(pid) for pid in self.family())

    def complaint(self) -> str:
        """Return the last line of standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


class Worker(Process):
    """A process of benchmarks.load, which obeys commands."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] = LOAD_CORES,
        descriptors: Sequence[int] = (),
    ) -> None:
        command = [python, "-m", f"benchmarks.load.{module}", *arguments]
        super().__init__(command, environment or {}, cores, descriptors)
        self._buffer = b""

    def __enter__(self) -> Self:
        try:
            self._answer(START_TIMEOUT)
        except BaseException:
            self.__exit__()
            raise
        return self

    def call(self, do: str, *, timeout: float = 60.0, **arguments: Any) -> dict[str, Any]:
        """Send a command, and return the answer."""
        self.ask(do, **arguments)
        return self._answer(timeout)

    def ask(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, timeout: float = 60.0) -> dict[str, Any]:
        """Return the answer to the command that `ask` sent."""
        return self._answer(timeout)

    def _answer(self, timeout: float) -> dict[str, Any]:
        answered = json.loads(self._line(time.monotonic() + timeout))
        if "error" in answered:
            raise ChildFailed(answered["error"])
        return dict(answered)

    def _line(self, deadline: float) -> bytes:
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise ChildFailed("a process of the load did not answer in time")
            read = os.read(self.process.stdout.fileno(), 65536)
            if not read:
                raise ChildFailed(f"a process of the load ended: {self.complaint()}")
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


class Server(Process):
    """A uvicorn server with one application. It listens when the `with` block begins."""

    def __init__(
        self,
        app: str,
        port: int,
        *,
        python: str,
        options: Sequence[str],
        environment: Mapping[str, str],
        workers: int = 1,
    ) -> None:
        self.port = port
        command = [python, "-m", "uvicorn", f"benchmarks.apps.{app}:app", "--port", str(port)]
        command += ["--log-level", "warning", "--no-access-log", *options]
        if workers > 1:
            command += ["--workers", str(workers)]
        super().__init__(command, environment, SERVER_CORES)

    def __enter__(self) -> Self:
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not listens(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ChildFailed(f"the server did not start: {self.complaint()}")
            time.sleep(0.02)  # a poll: the server does not report that it listens


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Yield the reading end and the writing end of a pipe between two other processes."""
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)
