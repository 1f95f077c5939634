"""Takes payloads of a shared channel in batches that outlive their process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from ._intake import Taken
from ._scripts import Script

if TYPE_CHECKING:
    from ._keys import Keys
    from ._pipe import Pipe

DRAW = Script("draw")

# Seconds between two notes to the server, of which each is a system call: that is
# most of what handing out costs.
NOTED = 0.001


class Draw:
    """
    Takes batches of one channel on one server, to be handed out one by one.

    `take` may be cancelled: the next call returns the same batch. If this
    process is killed, what it has not handed out goes back to the channel, see
    draw.lua; and also what it has, without a turn of the loop, within NOTED.
    """

    def __init__(self, pipe: Pipe, name: str, keys: Keys, expiry: float, lease: float) -> None:
        self._pipe = pipe
        # Seconds until others return what is left of a batch. Its holder does so
        # long before, or has died, stood still or was cut off.
        self._lease = lease
        self._batch = keys.new_batch()
        self._keys = [self._batch, keys.of_channel(name), keys.of_drawn(name)]
        # Milliseconds that the server keeps what is not fetched.
        self._expiry = int(expiry * 1000)
        # Number of the last batch that has arrived here, how many payloads were in
        # it, and how many of those were handed out.
        self._arrived = self._count = self._handed = 0
        # Whether the server was asked for more and the answer has not come.
        self._asked = False
        # Those of them that may still be handed out.
        self._left: deque[Taken] = deque()
        # time.monotonic() from which on others may return these.
        self._stale_at = 0.0
        # The same when the server was told last what was handed out, and whether
        # it is about to be told.
        self._noted_at, self._noting = 0.0, False

    def __len__(self) -> int:
        """How many payloads may be handed out."""
        return len(self._left)

    @property
    def owed(self) -> int:
        """How many were not handed out, and did not go back."""
        return self._count - self._handed

    async def take(self, size: int) -> int:
        """
        Take up to `size` payloads, to hand out; return how many there are.

        What was left of the last batch goes back to its place first, and cannot
        be handed out from this moment on. Raises LayerUnavailable.
        """
        self._left.clear()
        # Before the server begins to count.
        stale_at = time.monotonic() + self._lease / 2
        args = [self._arrived, self._handed, size, self._expiry, self._lease]
        self._asked = True
        number, *batch = await self._pipe.run(DRAW, self._keys, args)
        self._asked = False
        if int(number) > self._arrived:
            self._arrived, self._handed, self._stale_at = int(number), 0, stale_at
            self._left.extend(Taken(*pair) for pair in zip(batch[::2], batch[1::2], strict=True))
            self._count = len(self._left)
        else:
            self._count = self._handed
        return len(self._left)

    def release(self) -> None:
        """Hand out no more of this batch; the next call of `take` returns what is owed."""
        self._left.clear()

    def hand_out(self) -> Taken | None:
        """Return the next payload; None if there is none that is certainly still ours."""
        if not self._left:
            return None
        self._handed += 1
        # The first counts as handed out when it is taken.
        if self._handed > 1 and not self._noted():
            self._handed -= 1
            return None
        return self._left.popleft()

    async def settle(self) -> None:
        """
        Return what is owed, and what an answer brought that was lost.

        Raises LayerUnavailable.
        """
        while self._asked or self.owed:
            await self.take(0)

    async def stop(self) -> None:
        """Return what is left. Raises LayerUnavailable; then others do it."""
        await self.settle()
        batch, _, drawn = self._keys
        # Of a batch that was handed out to its end, the list tells until the next.
        await self._pipe.call("ZREM", drawn, batch)
        await self._pipe.call("DEL", batch, self._out)

    @property
    def _out(self) -> str:
        return f"{self._batch}:out"

    def _noted(self) -> bool:
        """See to it that the server knows what is handed out; False if it will not."""
        now = time.monotonic()
        if now >= self._stale_at:
            return False
        if now - self._noted_at >= NOTED:
            return self._note()
        if not self._noting:
            self._noting = True
            asyncio.get_running_loop().call_soon(self._note)
        return True

    def _note(self) -> bool:
        self._noted_at, self._noting = time.monotonic(), False
        note = f"{self._arrived} {self._handed}"
        return self._pipe.tell("SET", self._out, note, "PX", self._expiry)
