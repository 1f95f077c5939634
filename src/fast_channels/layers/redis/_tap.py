"""Takes payloads from one shared name, for receivers who may give up at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_channels.exceptions import LayerClosed, LayerUnavailable
from fast_channels.layers.broker import Popped

from ._draw import Draw
from ._intake import Alarm
from ._scripts import Script
from ._supervisor import Supervisor, first_of, pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ._connection import Link
    from ._keys import Keys
    from ._options import QueueOptions
    from ._server import Server

logger = logging.getLogger("fast_channels.layers.redis")

PUT_BACK = Script("put_back")

# Payloads to take at once, at most, and seconds to hold what nobody has asked for
# yet: other processes may be waiting for it.
MOST = 64
LINGER = 0.02

# Seconds that a reader stays connected when nobody waits.
IDLE = 60.0

# Seconds that putting back may take when the layer is closed.
PATIENCE = 10.0


class Tap:
    """
    One reader per server, reading only while somebody waits in `pop`.

    While receivers come back quickly it takes more than they wait for, and they
    find the next ones here. What nobody wants any more, or within LINGER, goes
    back to its place, by its score. So giving up loses nothing and keeps the order.
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
        if not self.wanted:
            for spout in self._spouts:
                if popped := spout.hand_out():
                    return popped
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

    def empty(self) -> None:
        """Called when everything on the servers was deleted on purpose."""
        for spout in self._spouts:
            spout.release()

    @property
    def wanted(self) -> int:
        """How many receivers wait."""
        return sum(not receiver.done() for receiver in self._waiting)

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


class Pace:
    """How many payloads to take at once: about what is wanted within LINGER."""

    def __init__(self) -> None:
        self.size = 1
        # Of the last time: how many were taken, and time.monotonic().
        self._taken, self._taken_at = 0, 0.0

    def took(self, count: int) -> None:
        self._taken, self._taken_at = count, time.monotonic()

    def used_up(self) -> None:
        """Called when more is wanted, and nothing is left."""
        lasted = time.monotonic() - self._taken_at
        if lasted > LINGER:
            self.size = 1
        elif self._taken == self.size and lasted < LINGER / 2:
            self.size = min(2 * self.size, MOST)

    def too_many(self, left: int) -> None:
        """Called when nobody wanted the last ones."""
        self.size = max(1, self._taken - left)


class Spout:
    """The part of a tap that is at one server."""

    def __init__(
        self, tap: Tap, number: int, server: Server, name: str, keys: Keys, options: QueueOptions
    ) -> None:
        self._tap = tap
        self._number = number
        self._server = server
        self._keys = keys
        self._key = keys.of_channel(name)
        # A key of this reader alone.
        self._beats = keys.new_heartbeat()
        self._options = options
        self._draw = Draw(server.control, name, keys, options.expiry, options.lease)
        self._pace = Pace()
        # Set when nothing is left to hand out.
        self._empty = asyncio.Event()
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
            await self._draw.stop()
            await self._server.control.call("DEL", self._beats)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                # Meanwhile others may give up on theirs.
                while self._returning:
                    await asyncio.wait(self._returning)
        self._stopped = True
        for task in self._returning:
            task.cancel()
            self._lost()

    def hand_out(self) -> Popped | None:
        """Return a payload that was taken in advance, if there is one."""
        # What goes back stood before those that are here.
        while not self._returning and (taken := self._draw.hand_out()):
            if not len(self._draw):
                self._empty.set()
            # Only a sender removes what has expired, and there may be none.
            age = time.time() - float(taken.score)
            if age <= self._options.expiry:
                return Popped(taken.payload, Place(self._number, taken.score))
            self._skipped(age)
        return None

    def release(self) -> None:
        """Hand out nothing of what was taken in advance."""
        self._draw.release()
        self._empty.set()

    def put_back(self, payload: bytes, score: bytes) -> None:
        if self._stopped:
            self._lost()
            return
        # What was taken in advance comes after it, and must not be handed out before.
        self.release()
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
        # What was under way when the connection broke, others may wait for.
        await self._draw.settle()
        while await self._tap.is_wanted():
            if self._returning:
                # What goes back stood before what we would read now.
                await asyncio.wait(self._returning)
                continue
            self._pace.used_up()
            taken = await self._draw.take(min(MOST, max(self._pace.size, self._tap.wanted)))
            self._pace.took(taken)
            if taken:
                await self._serve()
            else:
                # What a process that died has left rings no bell; and whoever
                # wanted it may have given up long ago.
                await _within(min(IDLE, self._options.lease / 2), alarm.wait())

    async def _serve(self) -> None:
        """Hand out what was taken, and return what nobody wants for too long."""
        self._empty.clear()
        if self._returning:
            # What goes back stood before these, too, and may be there any moment.
            self.release()
        while self._tap.wanted and (popped := self.hand_out()):
            self._tap.hand_over(popped)
        if len(self._draw):
            await _within(LINGER, self._empty.wait())
        if self._draw.owed:
            self._pace.too_many(self._draw.owed)
            await self._draw.settle()

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
        pipe, done = self._server.control, self._keys.new_batch()
        args = [score, payload, int(self._options.expiry * 1000)]
        for pause in pauses():
            with contextlib.suppress(LayerUnavailable):
                await pipe.run(PUT_BACK, [self._key, done], args)
                break
            await asyncio.sleep(pause)
        with contextlib.suppress(LayerUnavailable):
            await pipe.call("DEL", done)


async def _within(seconds: float, coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Wait for it, but no longer than that; whether it came to its end."""
    try:
        async with asyncio.timeout(seconds):
            await coroutine
    except TimeoutError:
        return False
    return True
