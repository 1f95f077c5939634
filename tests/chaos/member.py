"""A process that joins groups, reports it, and lives until it is killed."""

from __future__ import annotations

import asyncio
import sys

from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer


async def main(kind: str, url: str, lease: float, groups: list[str]) -> None:
    queue = kind == "queue"
    made = RedisChannelLayer([url], lease=lease) if queue else RedisPubSubChannelLayer([url])
    async with made as layer:
        mailbox = await layer.open_channel()
        for group in groups:
            await layer.group_add(group, mailbox.name)
        print(mailbox.name, flush=True)  # noqa: T201 - the parent waits for this line
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]))
