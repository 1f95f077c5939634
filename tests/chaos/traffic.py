"""A sender that continues through every failure, and the checks for its receivers."""

from __future__ import annotations

import asyncio
import contextlib

from fast_channels.exceptions import LayerUnavailable
from tests.chaos.support import RECOVERY, ROOM, number, within

# Numbers that must arrive before something happens, and after it.
ENOUGH = 20


class Traffic:
    """Sends 0, 1, 2 … to a group, no matter whether the layer is available."""

    def __init__(self, layer) -> None:
        self._layer = layer
        self._task = asyncio.create_task(self._send())
        # The next number, and the numbers that the layer has accepted.
        self.next = 0
        self.accepted: list[int] = []

    async def _send(self) -> None:
        while True:
            n, self.next = self.next, self.next + 1
            try:
                await self._layer.group_send(ROOM, number(n))
                self.accepted.append(n)
            except LayerUnavailable:
                # This number may have arrived, so it is not sent again.
                pass
            await asyncio.sleep(0.01)

    def since(self, first: int) -> list[int]:
        """Return the accepted numbers from `first` on."""
        return [n for n in self.accepted if n >= first]

    async def flows(self, first: int, seconds: float = RECOVERY) -> None:
        """Return when enough of the numbers from `first` on were accepted."""
        await within(seconds, lambda: self._task.done() or len(self.since(first)) >= ENOUGH)
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


async def arrived(traffic: Traffic, seen: list, since: int = 0) -> None:
    """Check that all accepted numbers from `since` on have arrived in order, each once."""
    for each in seen:
        await within(RECOVERY, lambda each=each: traffic.accepted[-1] in each.numbers)
        lost = sorted(set(traffic.since(since)) - set(each.numbers))
        assert not lost, f"lost: {lost}"
        assert each.numbers == sorted(set(each.numbers)), f"not in order, or twice: {each.numbers}"


async def send_all(layer, count: int, progress: list[int]) -> None:
    """Send every number once, retrying as often as necessary."""
    for n in range(count):
        progress.append(n)
        while True:
            try:
                await layer.group_send(ROOM, number(n), idempotency_key=str(n))
                break
            except LayerUnavailable:
                # The server may have accepted it, so it is sent again under the same key.
                await asyncio.sleep(0.01)
