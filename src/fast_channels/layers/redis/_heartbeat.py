"""Proves that what is published arrives: TCP alone may never notice that a peer is gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from fast_channels.exceptions import LayerUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._server import Server


class Heartbeat:
    """
    `beat` sends something on the way that messages go; a reading connection must hear of it.

    A reader that hears other things is alive too: a heartbeat that waits
    behind a backlog must not cost that backlog. That the way there is broken
    is found out without it, since every command has a timeout.
    """

    def __init__(
        self, server: Server, interval: float, beat: Callable[[], Awaitable[object]]
    ) -> None:
        self._server = server
        # Seconds.
        self._interval = interval
        self._send = beat
        # time.monotonic() when the reader last heard anything.
        self._heard = 0.0

    def heard(self) -> None:
        self._heard = time.monotonic()

    async def watch(self) -> None:
        """
        Beat at every interval. Raises ConnectionError after two in silence.

        By then the other connections to the server are given up as well.
        """
        self.heard()
        beating: asyncio.Task[None] | None = None
        try:
            while True:
                if beating is None or beating.done():
                    beating = asyncio.create_task(self._beat(), name="fast_channels heartbeat")
                await self._sleep()
                silence = time.monotonic() - self._heard
                if silence >= 2 * self._interval:
                    await self._server.reset()
                    raise ConnectionError(f"no heartbeat came back for {silence:.1f} s")
        finally:
            if beating is not None:
                beating.cancel()

    async def _sleep(self) -> None:
        began = time.monotonic()
        await asyncio.sleep(self._interval)
        if time.monotonic() - began > 1.5 * self._interval:
            # This process stood still, and what it did not read may be waiting.
            self.heard()

    async def _beat(self) -> None:
        # Whoever sends for a purpose is told; here silence says it.
        with contextlib.suppress(LayerUnavailable):
            await self._send()
