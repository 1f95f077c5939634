"""A process that joins groups on the queue layer, says so, and lives until it is killed."""

from __future__ import annotations

import asyncio
import sys

from fast_channels.layers import RedisChannelLayer


async def main(url: str, lease: float, groups: list[str]) -> None:
    async with RedisChannelLayer([url], lease=lease) as layer:
        mailbox = await layer.open_channel()
        for group in groups:
            await layer.group_add(group, mailbox.name)
        print(mailbox.name, flush=True)  # noqa: T201 - what its parent waits for
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
