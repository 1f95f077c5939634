"""
Publishes to the group from outside the server, with a limit of broadcasts in flight.

Runs in the contender's environment, with the contender's own `group_send`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import time
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect

from benchmarks.apps.settings import GROUP, LAYER, TYPE
from benchmarks.load.commands import obey, run
from benchmarks.load.wires import WIRES, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    Publish = Callable[[str], Awaitable[None]]

# Seconds until the last broadcast must have reached all clients.
DRAIN_TIMEOUT = 30.0
STAMP = 20


class Publisher:
    """Sends broadcasts. A byte from one of `credits_` confirms one for all clients of a process."""

    def __init__(self, publish: Publish, credits_: Sequence[int]) -> None:
        self._publish = publish
        # The descriptor of each client process → broadcasts that all of its clients received.
        self._received = dict.fromkeys(credits_, 0)
        self._sent = 0
        self._more = asyncio.Event()
        # Cleared to stop before the next broadcast, and never in the middle of one.
        self._going = False
        self._publishing: asyncio.Task[None] | None = None

    def listen(self) -> None:
        for descriptor in self._received:
            os.set_blocking(descriptor, False)
            loop = asyncio.get_running_loop()
            loop.add_reader(descriptor, self._credited, descriptor)

    def _credited(self, descriptor: int) -> None:
        credit = os.read(descriptor, 65536)
        self._received[descriptor] += len(credit)
        if not credit:
            asyncio.get_running_loop().remove_reader(descriptor)
        self._more.set()

    @property
    def received(self) -> int:
        return min(self._received.values())

    async def start(self, window: int, size: int, per_second: float = 0) -> None:
        """Publish texts of `size` bytes: `window` of them in flight, or `per_second`."""
        self._going = True
        publishing = self._pace(per_second, size) if per_second else self._flood(window, size)
        self._publishing = asyncio.create_task(publishing)

    async def stop(self) -> dict[str, Any]:
        """Stop, and wait until all clients have every broadcast, or the timeout has passed."""
        self._going = False
        self._more.set()
        if self._publishing is not None:
            await self._publishing
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT):
                await self._until(lambda: self.received >= self._sent)
        return {"sent": self._sent, "received": self.received}

    async def _flood(self, window: int, size: int) -> None:
        text = "x" * size
        while self._going:
            if self._sent - self.received < window:
                # Count first, because the clients may confirm before `publish` returns.
                self._sent += 1
                await self._publish(text)
            else:
                self._more.clear()
                await self._more.wait()

    async def _pace(self, per_second: float, size: int) -> None:
        padding = "x" * (size - STAMP)
        due = time.monotonic()
        while self._going:
            self._sent += 1
            await self._publish(f"{time.monotonic_ns():0{STAMP}}" + padding)
            due += 1 / per_second
            await asyncio.sleep(max(0, due - time.monotonic()))

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._more.clear()
            await self._more.wait()


@contextlib.asynccontextmanager
async def from_outside(app: str) -> AsyncIterator[Publish]:
    """Publish from another process, with the layer of the contender."""
    async with importlib.import_module(f"benchmarks.apps.{app}").open_layer() as layer:

        async def publish(text: str) -> None:
            await layer.group_send(GROUP, {"type": TYPE, "text": text})

        yield publish


@contextlib.asynccontextmanager
async def by_frame(port: int, wire: Wire) -> AsyncIterator[Publish]:
    """Ask the server to publish, because an in-memory layer cannot be reached from outside."""
    url = f"ws://127.0.0.1:{port}{wire.path('publish')}"
    async with connect(url, compression=None) as socket:
        if not wire.ready_at_once:
            frame = ""
            while not wire.is_ready(frame):
                frame = str(await socket.recv())
                if answer := wire.answer(frame, "publish"):
                    await socket.send(answer)

        async def publish(text: str) -> None:
            await socket.send(wire.wrap(text, "publish"))

        yield publish


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--app", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--wire", choices=WIRES, default="plain")
    parser.add_argument("--credit", type=int, nargs="+", required=True, help="file descriptors")
    chosen = parser.parse_args()
    memory = by_frame(chosen.port, WIRES[chosen.wire])
    async with memory if LAYER == "memory" else from_outside(chosen.app) as publish:
        publisher = Publisher(publish, chosen.credit)
        publisher.listen()
        await obey({"start": publisher.start, "stop": publisher.stop})


if __name__ == "__main__":
    run(main())
