"""
An application and its connections in one process, without a server and sockets.

Therefore only the work of a toolkit is measured, from a broadcast to the last `send`. The ASGI
side of a connection is a queue and a counter.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import time
from typing import Any

from benchmarks.load.commands import obey, run
from benchmarks.load.wires import WIRES, Wire

# Seconds until a connection must be accepted, or a broadcast must have reached all members.
TIMEOUT = 120.0


class Count:
    """Counts the texts that the application sends. A caller can wait for a number of them."""

    def __init__(self) -> None:
        self.sent = 0
        self._goal = 0
        self._reached = asyncio.Event()

    def one(self) -> None:
        self.sent += 1
        if self.sent == self._goal:
            self._reached.set()

    def expect(self, more: int) -> None:
        """Let `reached` wait for `more` texts from now on."""
        self._goal = self.sent + more
        self._reached.clear()

    async def reached(self) -> None:
        await self._reached.wait()


class Connection:
    """The server of one client, from the application's side."""

    def __init__(self, wire: Wire, purpose: str, count: Count) -> None:
        self._wire = wire
        self._purpose = purpose
        self._count = count
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})
        self._ready = asyncio.Event()
        # A reference, because an event loop keeps none.
        self._task: asyncio.Task[None] | None = None

    async def open(self, app: Any) -> None:
        path, _, query = self._wire.path(self._purpose).partition("?")
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            # The headers that servers pass on; engine.io checks the last one.
            "headers": [
                (b"host", b"127.0.0.1"),
                (b"connection", b"Upgrade"),
                (b"upgrade", b"websocket"),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "subprotocols": [],
            "extensions": {},
            "state": {},
        }
        self._task = asyncio.create_task(app(scope, self._events.get, self._send))
        await asyncio.wait_for(self._ready.wait(), TIMEOUT)

    def say(self, text: str) -> None:
        """Let a frame arrive from the client."""
        frame = self._wire.wrap(text, self._purpose)
        self._events.put_nowait({"type": "websocket.receive", "text": frame, "bytes": None})

    async def _send(self, event: dict[str, Any]) -> None:
        if self._ready.is_set():
            self._count.one()
        elif event["type"] == "websocket.accept":
            if self._wire.ready_at_once:
                self._ready.set()
        elif event["type"] == "websocket.send":
            self._shake_hands(event["text"])

    def _shake_hands(self, frame: str) -> None:
        if answer := self._wire.answer(frame, self._purpose):
            self._events.put_nowait({"type": "websocket.receive", "text": answer, "bytes": None})
        if self._wire.is_ready(frame):
            self._ready.set()


class Audience:
    """The members of the group, and a connection that publishes to it."""

    def __init__(self, app: Any, wire: Wire, size: int) -> None:
        self._app = app
        self._wire = wire
        self._text = "x" * size
        self._count = Count()
        self._connections: list[Connection] = []
        self._speaker = Connection(wire, "publish", Count())

    async def open(self) -> None:
        await self._speaker.open(self._app)

    async def grow(self, members: int) -> None:
        """Open connections until the group has `members` members."""
        while len(self._connections) < members:
            connection = Connection(self._wire, "room", self._count)
            await connection.open(self._app)
            self._connections.append(connection)

    async def broadcast(self, times: int, seconds: float) -> dict[str, Any]:
        """
        Broadcast `times` times or for `seconds`. Return the CPU seconds of one broadcast.

        The first broadcast warms up, and counts only if it took longer than `seconds`.
        """
        first = await self._timed()
        if first > seconds:
            return {"cpu": first, "times": 1}
        taken: list[float] = []
        until = time.monotonic() + seconds
        while len(taken) < times and (not taken or time.monotonic() < until):
            taken.append(await self._timed())
        return {"cpu": sum(taken) / len(taken), "times": len(taken)}

    async def _timed(self) -> float:
        self._count.expect(len(self._connections))
        began = time.process_time()
        self._speaker.say(self._text)
        async with asyncio.timeout(TIMEOUT):
            await self._count.reached()
        return time.process_time() - began


@contextlib.asynccontextmanager
async def alive(app: Any) -> Any:
    """Keep the lifespan of an application open, if it has one."""
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    events.put_nowait({"type": "lifespan.startup"})
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    living = asyncio.create_task(app(scope, events.get, answers.put))
    answering = asyncio.create_task(answers.get())
    await asyncio.wait([living, answering], return_when=asyncio.FIRST_COMPLETED)
    if living.done():
        # An application that raises here supports no lifespan, as servers assume.
        living.exception()
    try:
        yield
    finally:
        living.cancel()
        answering.cancel()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--app", required=True)
    parser.add_argument("--wire", choices=WIRES, default="plain")
    parser.add_argument("--size", type=int, default=100)
    chosen = parser.parse_args()
    app = importlib.import_module(f"benchmarks.apps.{chosen.app}").app
    async with alive(app):
        audience = Audience(app, WIRES[chosen.wire], chosen.size)
        await audience.open()
        await obey({"grow": audience.grow, "broadcast": audience.broadcast})


if __name__ == "__main__":
    run(main())
