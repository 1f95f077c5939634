"""A process that receives jobs as fast as it can, and then hangs until it is killed."""

from __future__ import annotations

import asyncio
import sys
import time

from fast_channels.layers import RedisChannelLayer
from fast_channels.testing import inspect

# The process receives at least this many messages.
ENOUGH = 100

# Printed before the process hangs.
STANDS_STILL = "stands still"


async def main(url, lease):
    layer = RedisChannelLayer([url], lease=float(lease))
    number = 0
    while number < ENOUGH or not inspect.prefetched(layer, "jobs"):
        number = (await layer.receive("jobs"))["n"]
        # Flushed lines reach the parent, no matter how this process ends.
        print(number, flush=True)  # noqa: T201 - the parent reads it
        # A message received within a millisecond of another may be delivered again after a
        # kill, so none is. The sleep blocks, because a turn of the loop would end the interval.
        time.sleep(0.0015)  # noqa: ASYNC251 - more than the millisecond above
    print(STANDS_STILL, flush=True)  # noqa: T201
    # The process is killed here. Its loop is blocked, so none of its messages is put back.
    time.sleep(60)  # noqa: ASYNC251 - longer than the test that kills it


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
