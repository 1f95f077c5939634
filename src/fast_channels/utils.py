"""Small helpers with no better home."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fast_channels.type_defs import ChannelMessage


async def await_many_dispatch(
    consumer_callables: Sequence[Callable[[], Awaitable[ChannelMessage]]],
    dispatch: Callable[[Any], Awaitable[None]],
) -> None:
    """
    Dispatch what any of several sources returns, one message at a time.

    Runs until `dispatch` or a source raises, or it is cancelled; the sources
    are cancelled then. Kept for existing code: consumers of this library have
    one mailbox instead.
    """
    tasks = [asyncio.ensure_future(source()) for source in consumer_callables]
    try:
        while True:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for index, task in enumerate(tasks):
                if task.done():
                    message = task.result()
                    # The source goes on while the handler works.
                    tasks[index] = asyncio.ensure_future(consumer_callables[index]())
                    await dispatch(message)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def is_same_domain(host: str, pattern: str) -> bool:
    """
    Whether `host` is `pattern`, or one of its subdomains if it begins with a period.

    Neither may contain a port. An empty pattern matches nothing.
    """
    host, pattern = host.lower(), pattern.lower()
    if pattern.startswith("."):
        return host.endswith(pattern) or host == pattern[1:]
    return bool(pattern) and host == pattern
