"""Messages of shared channels that were taken for a receiver on another loop, who had given up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import Counter, deque
from typing import TYPE_CHECKING

from fast_channels.exceptions import LayerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fast_channels.type_defs import ChannelMessage

    from .broker import Queue

logger = logging.getLogger("fast_channels.layers")

# Seconds that a message is kept here for the next receiver of this process.
# One who polls with a timeout is back sooner.
GRACE = 1.0


class Returns:
    """
    Keeps the place of what came back: before everything that waits at the broker.

    Only a broker's own pop knows that place there. So a message waits here for
    the next receiver of this process; if none comes within GRACE seconds, it
    goes behind the others at the broker, where every process can have it.
    """

    def __init__(self, queue: Queue, encode: Callable[[ChannelMessage], bytes]) -> None:
        self._queue = queue
        self._encode = encode
        # By channel, the oldest first. A channel without messages is absent.
        self._messages: dict[str, deque[ChannelMessage]] = {}
        # How many receivers wait at the broker, by channel: none of them looks here.
        self._receivers: Counter[str] = Counter()
        # Each waits for a receiver, then hands on to the broker what none took.
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._messages.values()))

    def put(self, channel: str, message: ChannelMessage) -> None:
        # While somebody waits at the broker, nothing else does.
        self._keep(0 if channel in self._receivers else GRACE, channel, message)

    def take(self, channel: str) -> ChannelMessage | None:
        """Return the oldest message that came back, None if there is none."""
        waiting = self._messages.get(channel)
        if not waiting:
            return None
        message = waiting.popleft()
        if not waiting:
            del self._messages[channel]
        return message

    @contextlib.contextmanager
    def receiver(self, channel: str) -> Generator[None]:
        """Somebody waits at the broker while the block runs."""
        self._receivers[channel] += 1
        try:
            yield
        finally:
            self._receivers[channel] -= 1
            if not self._receivers[channel]:
                del self._receivers[channel]

    async def stop(self) -> None:
        """Let others have what is left."""
        self._stopping.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
        # The end of a loop may have ended the tasks.
        for channel in list(self._messages):
            await self._hand_on(channel)

    def _keep(self, grace: float, channel: str, message: ChannelMessage) -> None:
        self._messages.setdefault(channel, deque()).appendleft(message)
        task = asyncio.create_task(self._wait(grace, channel), name=f"fast_channels {channel}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait(self, grace: float, channel: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._stopping.wait()
        await self._hand_on(channel)

    async def _hand_on(self, channel: str) -> None:
        """Push what came back to the broker, behind what waits there."""
        while (message := self.take(channel)) is not None:
            try:
                await self._queue.push(channel, self._encode(message), sys.maxsize)
            except LayerUnavailable as exc:
                if self._stopping.is_set():
                    logger.error("lost a message of %r that nobody took: %s", channel, exc)  # noqa: TRY400 - the sentence says it all
                else:
                    # Not at once, or an outage would keep the loop busy.
                    self._keep(GRACE, channel, message)
                return
