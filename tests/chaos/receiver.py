"""A process that receives jobs as fast as it can, and then hangs until it is killed."""

from __future__ import annotations

import asyncio
import sys
import time

from fast_channels.layers import RedisChannelLayer
from fast_channels.testing import inspect

# Numbers to receive at least.
ENOUGH = 100

# What it prints before it stands still.
STANDS_STILL = "stands still"


async def main(url, lease):
    layer = RedisChannelLayer([url], lease=float(lease))
    number = 0
    while number < ENOUGH or not inspect.prefetched(layer, "jobs"):
        number = (await layer.receive("jobs"))["n"]
        # A line that was written is there for the reader, whatever ends this process.
        print(number, flush=True)  # noqa: T201 - its parent reads it
        # None is to be received within a millisecond of another: what is may come
        # twice after a kill. Blocking, for with a turn of the loop it would not.
        time.sleep(0.0015)  # noqa: ASYNC251 - more than the millisecond above
    print(STANDS_STILL, flush=True)  # noqa: T201
    # It is killed here. With the loop standing still nothing that it holds goes back.
    time.sleep(60)  # noqa: ASYNC251 - longer than the test that kills it


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
