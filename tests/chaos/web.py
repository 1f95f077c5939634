"""Uvicorn as a process, and many clients of it at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import websockets

from tests.servers.support import PATIENCE, ServerProcess, closing, complaints

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

HERE = Path(__file__).resolve().parent

# Development mode shows every ResourceWarning.
UVICORN = "python -X dev -m uvicorn --port {port} rolling:app"
# The pure Python protocols instead of the ones written in C.
PLAIN = f"{UVICORN} --loop asyncio --http h11 --ws wsproto"

# Without development mode: uvicorn's workers never close the stdin that they open.
WORKERS = "uvicorn --port {port} --workers 2 rolling:app"
PROGRAM = "python -X dev rolling.py {port}"

# Clients that shake hands at the same time.
AT_ONCE = 20


class WebProcess(ServerProcess):
    """The application of this directory under uvicorn; `environment` configures it."""

    def __init__(self, log: Path, *, command: str = UVICORN, **environment: str) -> None:
        super().__init__("uvicorn", log, command=command, directory=HERE, environment=environment)

    async def exit_code(self, timeout: float = PATIENCE) -> int:
        return await asyncio.to_thread(self.wait, timeout)

    def said(self, line: str) -> int:
        """Return how often the application has printed a line that begins with `line`."""
        return sum(other.startswith(line) for other in self.output.splitlines())

    def lasted(self, line: str) -> float:
        """Return the seconds from the first to the last line that begins with `line`."""
        lines = [other for other in self.output.splitlines() if other.startswith(line)]
        moments = [float(other.rpartition(" at ")[2]) for other in lines]
        return max(moments) - min(moments)

    async def says(self, line: str, count: int = 1) -> None:
        """Return when the application has printed such a line."""
        async with asyncio.timeout(PATIENCE):
            while self.said(line) < count:
                # The output is a file, so no event announces a new line.
                await asyncio.sleep(0.01)

    def assert_nothing_to_complain_about(self) -> None:
        found = complaints(self.output)
        found += [line for line in self.output.splitlines() if "Warning" in line]
        assert found == []


@contextlib.asynccontextmanager
async def clients(
    server: WebProcess, count: int
) -> AsyncGenerator[list[websockets.ClientConnection]]:
    """Connect many clients, and close the remaining ones at the end."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def connected() -> websockets.ClientConnection:
        async with gate:
            # No pings: they would test this machine and not the server.
            return await websockets.connect(server.url("ws"), ping_interval=None)

    opened = await asyncio.gather(*(connected() for _ in range(count)))
    try:
        yield opened
    finally:
        await asyncio.gather(*(client.close() for client in opened))


async def closed(client: websockets.ClientConnection) -> tuple[float, int | None]:
    """Return the time at which the server closed the connection, and its code."""
    code, _ = await closing(client)
    return time.monotonic(), code


async def fetched(server: WebProcess, path: str) -> tuple[int, bytes]:
    """Return status and body of a complete response; fail if it is incomplete."""
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        response = await client.get(f"http://127.0.0.1:{server.port}{path}")
        return response.status_code, response.content
