"""The log of the group, to which this process appends numbered messages."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from benchmarks.apps.settings import CAPACITY, GROUP, REDIS_URL, TYPE
from benchmarks.load.commands import obey, run
from fast_channels.layers import RedisStreamsChannelLayer

# Messages sent with one call.
BATCH = 500


class Log:
    """Appends messages with texts that begin with their offsets."""

    def __init__(self, layer: RedisStreamsChannelLayer) -> None:
        self._layer = layer
        self._appended = 0

    async def append(self, count: int, size: int, *, keyed: bool = False) -> dict[str, Any]:
        """Append `count` texts of `size` bytes. Return the position of the last one."""
        for start in range(0, count, BATCH):
            some = [self._message(size) for _ in range(min(BATCH, count - start))]
            if keyed:
                await self._append_keyed(some)
            else:
                await self._layer.group_send_many(GROUP, some)
        history = await self._layer.history(GROUP, limit=1)
        return {"position": str(history.position)}

    async def _append_keyed(self, messages: list[dict[str, Any]]) -> None:
        # As long as a UUID, which applications often use as a key.
        await asyncio.gather(
            *[
                self._layer.group_send(GROUP, message, idempotency_key=message["text"][:32])
                for message in messages
            ]
        )

    def _message(self, size: int) -> dict[str, Any]:
        self._appended += 1
        return {"type": TYPE, "text": f"{self._appended:032} ".ljust(size, "x")}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history-size", type=int, required=True)
    parser.add_argument("--history-ttl", type=float, required=True)
    chosen = parser.parse_args()
    layer = RedisStreamsChannelLayer(
        [REDIS_URL],
        capacity=CAPACITY,
        history_size=chosen.history_size,
        history_ttl=chosen.history_ttl,
    )
    async with layer:
        await obey({"append": Log(layer).append})


if __name__ == "__main__":
    run(main())
