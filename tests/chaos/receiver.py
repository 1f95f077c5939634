"""A process that receives jobs as fast as it can, and then hangs until it is killed."""

from __future__ import annotations

import asyncio
import sys
import time

from fast_channels.layers import RedisChannelLayer

# Numbers to receive at least.
ENOUGH = 100

# What it prints before it stands still.
STANDS_STILL = "stands still"


async def main(url, lease):
    layer = RedisChannelLayer([url], lease=float(lease))
    number = 0
    while number < ENOUGH or not held(layer):
        number = (await layer.receive("jobs"))["n"]
        # A line that was written is there for the reader, whatever ends this process.
        print(number, flush=True)  # noqa: T201 - its parent reads it
        # So that none is received within a millisecond of another.
        time.sleep(0.0015)  # noqa: ASYNC251 - it does not let the loop run, which is the point
    print(STANDS_STILL, flush=True)  # noqa: T201
    # With the loop standing still nothing goes back.
    time.sleep(60)  # noqa: ASYNC251


def held(layer):
    """How many messages it has taken in advance."""
    return sum(len(spout._draw) for spout in layer._broker._taps["jobs"]._spouts)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
