"""A process that receives jobs as fast as it can, and then hangs until it is killed."""

from __future__ import annotations

import asyncio
import sys
import time

from fast_channels.layers import RedisChannelLayer

# Number of the job that it never ends.
LAST = 250


async def main(url, lease):
    layer = RedisChannelLayer([url], lease=float(lease))
    while True:
        number = (await layer.receive("jobs"))["n"]
        # A line that was written is there for the reader, whatever ends this process.
        print(number, flush=True)  # noqa: T201 - its parent reads it
        # So that none is received within a millisecond of another.
        time.sleep(0.0015)  # noqa: ASYNC251 - it does not let the loop run, which is the point
        if number == LAST:
            # With the loop standing still nothing goes back.
            time.sleep(60)  # noqa: ASYNC251


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
