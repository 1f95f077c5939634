"""Small helpers."""

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
    Dispatch the messages of several sources, one at a time.

    The function runs until `dispatch` or a source raises, or until it is cancelled; then it
    cancels the sources. It is kept for existing code. Consumers of this library have one
    mailbox instead.
    """
    tasks = [asyncio.ensure_future(source()) for source in consumer_callables]
    try:
        while True:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for index, task in enumerate(tasks):
                if task.done():
                    message = task.result()
                    # The source continues while the handler runs.
                    tasks[index] = asyncio.ensure_future(consumer_callables[index]())
                    await dispatch(message)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def is_same_domain(host: str, pattern: str) -> bool:
    """
    Return whether `host` is `pattern`; a leading period also allows its subdomains.

    Neither argument may contain a port. An empty pattern matches nothing.
    """
    host, pattern = host.lower(), pattern.lower()
    if pattern.startswith("."):
        return host.endswith(pattern) or host == pattern[1:]
    return bool(pattern) and host == pattern
