"""A producer or a consumer of one shared channel, without consumer classes."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import time
from typing import Any

from benchmarks.apps.settings import TYPE
from benchmarks.load.commands import obey, run

CHANNEL = "work"
# Senders at the same time, and messages sent with one call.
SENDERS = 100
BATCH = 100
END = "end"


class Pipeline:
    """Both ends of the channel; a process uses one of them."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        # The messages that all senders together have sent.
        self._sent = 0

    async def abilities(self) -> dict[str, Any]:
        return {"batch": hasattr(self._layer, "send_many")}

    async def produce(self, how: str, seconds: float, limit: int, size: int) -> dict[str, Any]:
        """Send for `seconds`, or up to `limit` messages; then send the last message, END."""
        self._sent = 0
        message = {"type": TYPE, "text": "x" * size}
        began = time.monotonic()
        produce = {"one": self._one, "many": self._many, "batch": self._batch}[how]
        await produce(message, limit, began + seconds)
        await self._layer.send(CHANNEL, {"type": TYPE, "text": END})
        return {"sent": self._sent, "began": began}

    async def _one(self, message: dict[str, str], limit: int, until: float) -> None:
        while self._sent < limit and self._goes_on(until):
            self._sent += 1
            await self._layer.send(CHANNEL, message)

    async def _many(self, message: dict[str, str], limit: int, until: float) -> None:
        await asyncio.gather(*[self._one(message, limit, until) for _ in range(SENDERS)])

    async def _batch(self, message: dict[str, str], limit: int, until: float) -> None:
        while self._sent < limit and self._goes_on(until):
            self._sent += BATCH
            await self._layer.send_many(CHANNEL, [message] * BATCH)

    def _goes_on(self, until: float) -> bool:
        """Return True if time is left. The first message is always sent."""
        return not self._sent or time.monotonic() < until

    async def consume(self) -> dict[str, Any]:
        """Receive until the message END."""
        began = time.monotonic()
        received = 0
        while (await self._layer.receive(CHANNEL))["text"] != END:
            received += 1
        return {"received": received, "began": began, "ended": time.monotonic()}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--app", required=True)
    app = parser.parse_args().app
    async with importlib.import_module(f"benchmarks.apps.{app}").open_layer() as layer:
        pipeline = Pipeline(layer)
        names = ("abilities", "produce", "consume")
        await obey({name: getattr(pipeline, name) for name in names})


if __name__ == "__main__":
    run(main())
