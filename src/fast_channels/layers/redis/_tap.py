"""Takes payloads from one shared name, for receivers who may give up at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from fast_channels.exceptions import LayerClosed, LayerUnavailable
from fast_channels.layers.broker import Popped

from ._intake import Alarm, Intake
from ._supervisor import Supervisor, first_of, pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._connection import Link
    from ._keys import Keys
    from ._options import QueueOptions
    from ._server import Server

logger = logging.getLogger("fast_channels.layers.redis")

# Seconds that a reader stays connected when nobody waits.
IDLE = 60.0

# Seconds that putting back may take when the layer is closed.
PATIENCE = 10.0


class Tap:
    """
    One reader per server, reading only while somebody waits in `pop`.

    What was taken and nobody wants any more goes back to its place, by its
    score. So giving up loses nothing and keeps the order.
    """

    def __init__(
        self,
        name: str,
        servers: Sequence[Server],
        keys: Keys,
        options: QueueOptions,
        forget: Callable[[], object],
    ) -> None:
        self._name = name
        # Called once, when nobody has wanted anything for a while: whoever comes
        # next needs a new tap, and this one is to be stopped.
        self._forget = forget
        self._forgotten = False
        # Who waits, the first being served first.
        self._waiting: deque[asyncio.Future[Popped]] = deque()
        # Set while somebody waits.
        self._wanted = asyncio.Event()
        self._spouts = [
            Spout(self, number, server, name, keys, options)
            for number, server in enumerate(servers)
        ]

    async def pop(self) -> Popped:
        """Wait for a payload and take it. Cancelling loses nothing."""
        wanted: asyncio.Future[Popped] = asyncio.get_running_loop().create_future()
        self._waiting.append(wanted)
        self._wanted.set()
        for spout in self._spouts:
            spout.start()
        try:
            return await wanted
        except asyncio.CancelledError:
            if wanted.done() and not wanted.cancelled() and wanted.exception() is None:
                # It was handed over in the moment of the cancellation.
                self.hand_over(wanted.result())
            raise
        finally:
            if wanted in self._waiting:
                self._waiting.remove(wanted)
            self._rest()

    async def stop(self) -> None:
        """End the readers, and put back what is left in our hands."""
        for receiver in self._waiting:
            if not receiver.done():
                receiver.set_exception(LayerClosed(f"channel {self._name!r}"))
        await asyncio.gather(*(spout.stop() for spout in self._spouts))

    async def is_wanted(self) -> bool:
        """Wait until somebody wants a payload; False if nobody does for IDLE seconds."""
        if self._wanted.is_set():
            return True
        try:
            async with asyncio.timeout(IDLE):
                await self._wanted.wait()
        except TimeoutError:
            # Somebody may have come in this very moment.
            if not self._wanted.is_set():
                self._forget_once()
                return False
        return True

    def hand_over(self, popped: Popped) -> None:
        """Give a payload to whoever waits, or back to its server."""
        while self._waiting:
            receiver = self._waiting.popleft()
            if not receiver.done():
                receiver.set_result(popped)
                break
        else:
            place: Place = popped.place
            self._spouts[place.spout].put_back(popped.payload, place.score)
        self._rest()

    def _forget_once(self) -> None:
        # Each reader finds out for itself; by the second time the name may have
        # a new tap already.
        if not self._forgotten:
            self._forgotten = True
            self._forget()

    def _rest(self) -> None:
        """Let the readers stop reading while nobody waits."""
        if not self._waiting:
            self._wanted.clear()


class Place(NamedTuple):
    """Where a payload was: at which server, and the score that says before what."""

    spout: int
    score: bytes


class Spout:
    """The part of a tap that is at one server."""

    def __init__(
        self, tap: Tap, number: int, server: Server, name: str, keys: Keys, options: QueueOptions
    ) -> None:
        self._tap = tap
        self._number = number
        self._server = server
        self._key = keys.of_channel(name)
        # Keys of this reader alone.
        self._beats, self._batch = keys.new_heartbeat(), keys.new_batch()
        self._options = options
        self._intake = Intake(server.control, self._batch, [self._key], options.expiry)
        self._supervisor = server.supervised(self._converse)
        # Payloads that were too old to be handed over.
        self._expired = 0
        # Payloads on their way back.
        self._returning: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self) -> None:
        """Read in the background. Starting twice is fine."""
        self._supervisor.start()

    async def stop(self) -> None:
        await self._supervisor.stop()
        with contextlib.suppress(LayerUnavailable):
            # The answer may have been under way.
            for taken in await self._intake.take(0):
                self.put_back(*taken)
            await self._server.control.call("DEL", self._beats, self._batch)
        if self._returning:
            _, late = await asyncio.wait(self._returning, timeout=PATIENCE)
            for task in late:
                task.cancel()
                self._lost()
        self._stopped = True

    def put_back(self, payload: bytes, score: bytes) -> None:
        if self._stopped:
            self._lost()
            return
        returning = self._return(payload, score)
        task = asyncio.create_task(returning, name=f"fast_channels return {self._key}")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _converse(self, link: Link, supervisor: Supervisor) -> None:
        interval = self._options.heartbeat_interval
        alarm = Alarm(self._server, [self._key], self._beats, interval)
        await alarm.arm(link)
        supervisor.connected()
        await first_of(alarm.keep(link, supervisor), self._read(alarm))

    async def _read(self, alarm: Alarm) -> None:
        while await self._tap.is_wanted():
            if self._returning:
                # What goes back stood before what we would read now.
                await asyncio.wait(self._returning)
                continue
            taken = await self._intake.take(1)
            for one in taken:
                # Only a sender removes what has expired, and there may be none.
                age = time.time() - float(one.score)
                if age <= self._options.expiry:
                    self._tap.hand_over(Popped(one.payload, Place(self._number, one.score)))
                else:
                    self._skipped(age)
            if not taken:
                # Not for ever: whoever wanted it may have given up long ago.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE):
                        await alarm.wait()

    def _skipped(self, age: float) -> None:
        self._expired += 1
        # The 1st, 2nd, 4th, 8th ...: there may be many.
        if self._expired & (self._expired - 1) == 0:
            logger.warning(
                "skipped a message of %s that is %.0f s old (%d so far): it expires after %s s; "
                "if it is newer, the clock of its sender or of this machine is wrong",
                self._key,
                age,
                self._expired,
                self._options.expiry,
            )

    def _lost(self) -> None:
        logger.error("a message taken from %r could not be put back", self._key)

    async def _return(self, payload: bytes, score: bytes) -> None:
        call = self._server.control.call
        for pause in pauses():
            with contextlib.suppress(LayerUnavailable):
                await call("ZADD", self._key, score, payload)
                await call("PEXPIRE", self._key, int(self._options.expiry * 1000))
                return
            await asyncio.sleep(pause)
