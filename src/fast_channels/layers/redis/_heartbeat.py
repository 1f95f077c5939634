"""Proves that what is published arrives: TCP alone may never notice that a peer is gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import LayerUnavailable

if TYPE_CHECKING:
    from ._connection import Pipe


class Heartbeat:
    """
    Sends `command` through a publishing pipe; a reading connection must hear of it.

    A reader that hears other things is alive too: a heartbeat that waits
    behind a backlog must not cost that backlog. The pipe alone finds out by
    itself, since every command in it has a timeout.
    """

    def __init__(self, pipe: Pipe, interval: float, *command: Any) -> None:
        self._pipe = pipe
        # Seconds.
        self._interval = interval
        self._command = command
        # time.monotonic() when the reader last heard anything.
        self._heard = 0.0

    def heard(self) -> None:
        self._heard = time.monotonic()

    async def watch(self) -> None:
        """
        Beat at every interval. Raises ConnectionError after two in silence.

        By then the pipe has given up its connection too.
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
                    await self._pipe.reset()
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
        # Whoever uses the pipe for a purpose is told; here silence says it.
        with contextlib.suppress(LayerUnavailable):
            await self._pipe.call(*self._command)
