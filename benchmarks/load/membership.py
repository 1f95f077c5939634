"""One channel that joins and leaves groups, while it is in many others."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import statistics
import time
from typing import Any

from benchmarks.load.commands import obey, run

# Joins at the same time, when they are not measured.
BATCH = 100


class Memberships:
    """The groups of one channel."""

    def __init__(self, layer: Any, channel: str) -> None:
        self._layer = layer
        self._channel = channel
        self._joined = 0

    async def grow(self, groups: int) -> None:
        """Join until the channel is in `groups` groups."""
        while self._joined < groups:
            wanted = range(self._joined, min(groups, self._joined + BATCH))
            await asyncio.gather(
                *[self._layer.group_add(f"group.{n}", self._channel) for n in wanted]
            )
            self._joined = wanted.stop

    async def join(self, times: int) -> dict[str, Any]:
        """Join one more group and leave it, `times` times. Return the median in microseconds."""
        taken = []
        for number in range(times):
            began = time.perf_counter()
            await self._layer.group_add(f"another.{number}", self._channel)
            await self._layer.group_discard(f"another.{number}", self._channel)
            taken.append(time.perf_counter() - began)
        return {"micros": statistics.median(taken) * 1e6}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--app", required=True)
    app = parser.parse_args().app
    async with importlib.import_module(f"benchmarks.apps.{app}").open_layer() as layer:
        memberships = Memberships(layer, await layer.new_channel())
        await obey({"grow": memberships.grow, "join": memberships.join})


if __name__ == "__main__":
    run(main())
