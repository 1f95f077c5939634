"""Takes payloads from one shared name, for receivers who may give up at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from fast_channels.exceptions import LayerClosed, LayerUnavailable

from ._connection import BLOCK, PATIENCE
from ._supervisor import Supervisor, pauses

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._connection import Link, Pipe
    from .type_defs import ChannelDecodedRedisHost

logger = logging.getLogger("fast_channels.layers.redis")

# Seconds that a reader stays connected when nobody waits.
IDLE = 60.0


class Taken(NamedTuple):
    """A payload, and what it takes to put it back where it was."""

    payload: bytes
    score: bytes
    pipe: Pipe


class Tap:
    """
    One blocking reader per server, reading only while somebody waits in `pop`.

    What was taken and nobody wants any more goes back to its place, by its
    score. So giving up loses nothing and keeps the order.
    """

    def __init__(
        self,
        name: str,
        key: str,
        bell: str,
        expiry: float,
        servers: list[tuple[ChannelDecodedRedisHost, Pipe]],
        forget: Callable[[], object],
    ) -> None:
        self._name = name
        self._key = key
        # Called when nobody has wanted anything for a while, and the readers end.
        self._forget = forget
        # Seconds until the key is forgotten if nobody reads it.
        self._expiry = expiry
        # A key of our own: something put there ends a blocking read.
        self._bell = bell
        # Who waits, the first being served first.
        self._waiting: deque[asyncio.Future[Taken]] = deque()
        # Set while somebody waits, or when the readers are to end.
        self._wanted = asyncio.Event()
        self._stopping = False
        self._readers = [
            Supervisor(host, functools.partial(self._read, pipe)) for host, pipe in servers
        ]
        self._pipes = [pipe for _, pipe in servers]
        # Payloads on their way back.
        self._returning: set[asyncio.Task[None]] = set()

    async def pop(self) -> bytes:
        """Wait for a payload and take it. Cancelling loses nothing."""
        taken: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self._waiting.append(taken)
        self._wanted.set()
        for reader in self._readers:
            reader.start()
        try:
            return (await taken).payload
        except asyncio.CancelledError:
            if taken.done() and not taken.cancelled():
                # It was handed over in the moment of the cancellation.
                self._hand_over(taken.result())
            raise
        finally:
            if taken in self._waiting:
                self._waiting.remove(taken)
            self._rest()

    async def stop(self) -> None:
        """End the readers between two reads, and put back what is left in our hands."""
        self._stopping = True
        self._wanted.set()
        for pipe in self._pipes:
            await pipe.ring(self._bell)
        for reader in self._readers:
            await reader.ended(PATIENCE)
        for receiver in self._waiting:
            if not receiver.done():
                receiver.set_exception(LayerClosed(f"channel {self._name!r}"))
        if self._returning:
            _, lost = await asyncio.wait(self._returning, timeout=PATIENCE)
            for task in lost:
                task.cancel()
                logger.error("a message taken from %s could not be put back", self._key)

    async def _read(self, pipe: Pipe, link: Link, supervisor: Supervisor) -> None:
        supervisor.connected()
        while True:
            if not await self._is_wanted() or self._stopping:
                return
            if self._returning:
                # What goes back stood before what we would read now.
                await asyncio.wait(self._returning)
                continue
            async with asyncio.timeout(PATIENCE):
                reply = await link.call("BZPOPMIN", self._key, self._bell, BLOCK)
            supervisor.touch()
            if reply is not None and reply[0] == self._key.encode():
                taken = Taken(reply[1], reply[2], pipe)
                # Only a sender removes what has expired, and there may be none.
                if float(taken.score) >= time.time() - self._expiry:
                    self._hand_over(taken)

    async def _is_wanted(self) -> bool:
        """Wait until somebody wants a payload; False if nobody does for IDLE seconds."""
        try:
            async with asyncio.timeout(IDLE):
                await self._wanted.wait()
        except TimeoutError:
            # Somebody may have come in this very moment.
            if not self._wanted.is_set():
                self._forget()
                return False
        return True

    def _hand_over(self, taken: Taken) -> None:
        while self._waiting:
            receiver = self._waiting.popleft()
            if not receiver.done():
                receiver.set_result(taken)
                break
        else:
            self._put_back(taken)
        self._rest()

    def _rest(self) -> None:
        """Let the readers stop reading while nobody waits."""
        if not self._waiting and not self._stopping:
            self._wanted.clear()

    def _put_back(self, taken: Taken) -> None:
        task = asyncio.create_task(self._return(taken), name=f"fast_channels return {self._key}")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _return(self, taken: Taken) -> None:
        for pause in pauses():
            with contextlib.suppress(LayerUnavailable):
                await taken.pipe.call("ZADD", self._key, taken.score, taken.payload)
                await taken.pipe.call("PEXPIRE", self._key, int(self._expiry * 1000))
                return
            await asyncio.sleep(pause)
