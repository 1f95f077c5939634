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

from ._reader import Reader, first_of, reconnect_delays
from ._scripts import Script
from ._subscriber import KeyTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ._client import Client, RedisConnection
    from ._keys import Keys
    from ._options import QueueOptions
    from ._server import Server

logger = logging.getLogger("fast_channels.layers.redis")

TAKE = Script("take")
PREFETCH = Script("prefetch")
REQUEUE = Script("requeue")

# Payloads to take at once, at most, and seconds to hold what nobody has asked for
# yet: other processes may be waiting for it.
MOST = 64
PREFETCH_SECONDS = 0.02

# Seconds that a reader stays connected when nobody waits.
IDLE = 60.0

# Seconds that putting back may take when the layer is closed.
PATIENCE = 10.0

# Seconds between two notes to the server, of which each is a system call: that is
# most of what handing out costs.
NOTE_INTERVAL_SECONDS = 0.001


class QueueReader:
    """
    One reader per server, reading only while somebody waits in `pop`.

    While receivers come back quickly it takes more than they wait for, and they
    find the next ones here. What nobody wants any more, or within PREFETCH_SECONDS, goes
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
            ServerQueueReader(self, number, server, name, keys, options)
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
            place: Place = popped.handle
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


class PrefetchSize:
    """How many payloads to take at once: about what is wanted within PREFETCH_SECONDS."""

    def __init__(self) -> None:
        self.size = 1
        # Of the last time: how many were taken, and time.monotonic().
        self._taken, self._taken_at = 0, 0.0

    def took(self, count: int) -> None:
        self._taken, self._taken_at = count, time.monotonic()

    def used_up(self) -> None:
        """Called when more is wanted, and nothing is left."""
        lasted = time.monotonic() - self._taken_at
        if lasted > PREFETCH_SECONDS:
            self.size = 1
        elif self._taken == self.size and lasted < PREFETCH_SECONDS / 2:
            self.size = min(2 * self.size, MOST)

    def too_many(self, left: int) -> None:
        """Called when nobody wanted the last ones."""
        self.size = max(1, self._taken - left)


class ServerQueueReader:
    """The part of a tap that is at one server."""

    def __init__(
        self,
        tap: QueueReader,
        number: int,
        server: Server,
        name: str,
        keys: Keys,
        options: QueueOptions,
    ) -> None:
        self._tap = tap
        self._number = number
        self._server = server
        self._keys = keys
        self._key = keys.of_channel(name)
        # A key of this reader alone.
        self._beats = keys.new_heartbeat()
        self._options = options
        self._draw = Prefetch(server.control, name, keys, options.expiry, options.lease)
        self._pace = PrefetchSize()
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

    async def _converse(self, link: RedisConnection, supervisor: Reader) -> None:
        interval = self._options.heartbeat_interval
        alarm = KeyTracker(self._server, [self._key], self._beats, interval)
        await alarm.arm(link)
        supervisor.connected()
        await first_of(alarm.keep(link, supervisor), self._read(alarm))

    async def _read(self, alarm: KeyTracker) -> None:
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
            await _within(PREFETCH_SECONDS, self._empty.wait())
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
        for pause in reconnect_delays():
            with contextlib.suppress(LayerUnavailable):
                await pipe.run(REQUEUE, [self._key, done], args)
                break
            await asyncio.sleep(pause)
        with contextlib.suppress(LayerUnavailable):
            await pipe.call("DEL", done)


class Prefetch:
    """
    Takes batches of one channel on one server, to be handed out one by one.

    `take` may be cancelled: the next call returns the same batch. If this
    process is killed, what it has not handed out goes back to the channel, see
    prefetch.lua; and also what it has, without a turn of the loop, within NOTE_INTERVAL_SECONDS.
    """

    def __init__(self, pipe: Client, name: str, keys: Keys, expiry: float, lease: float) -> None:
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
        self._left: deque[ScoredPayload] = deque()
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
        number, *batch = await self._pipe.run(PREFETCH, self._keys, args)
        self._asked = False
        if int(number) > self._arrived:
            self._arrived, self._handed, self._stale_at = int(number), 0, stale_at
            self._left.extend(
                ScoredPayload(*pair) for pair in zip(batch[::2], batch[1::2], strict=True)
            )
            self._count = len(self._left)
        else:
            self._count = self._handed
        return len(self._left)

    def release(self) -> None:
        """Hand out no more of this batch; the next call of `take` returns what is owed."""
        self._left.clear()

    def hand_out(self) -> ScoredPayload | None:
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
        if now - self._noted_at >= NOTE_INTERVAL_SECONDS:
            return self._note()
        if not self._noting:
            self._noting = True
            asyncio.get_running_loop().call_soon(self._note)
        return True

    def _note(self) -> bool:
        self._noted_at, self._noting = time.monotonic(), False
        note = f"{self._arrived} {self._handed}"
        return self._pipe.tell("SET", self._out, note, "PX", self._expiry)


class ScoredPayload(NamedTuple):
    """A payload, and the score it takes to put it back where it was."""

    payload: bytes
    score: bytes


class BatchReader:
    """
    Takes batches from `keys` on one server; see take.lua for why none is lost.

    Cancelling `take` is fine: the next call returns the same batch.
    """

    def __init__(self, pipe: Client, batch: str, keys: Sequence[str], expiry: float) -> None:
        self._pipe = pipe
        self._batch = batch
        # Its owner may add to it.
        self._keys = keys
        # Milliseconds that the server keeps a batch which is not fetched.
        self._expiry = int(expiry * 1000)
        # Number of the last batch that has arrived here.
        self._arrived = 0

    async def take(self, size: int) -> list[ScoredPayload]:
        """
        Return up to `size` payloads; what the last call returned is then forgotten.

        With a size of 0 it returns only what was taken and did not arrive.
        Raises LayerUnavailable.
        """
        args = [self._arrived, size, self._expiry]
        number, *batch = await self._pipe.run(TAKE, [self._batch, *self._keys], args)
        if int(number) <= self._arrived:
            return []
        self._arrived = int(number)
        return [ScoredPayload(*pair) for pair in zip(batch[::2], batch[1::2], strict=True)]


async def _within(seconds: float, coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Wait for it, but no longer than that; whether it came to its end."""
    try:
        async with asyncio.timeout(seconds):
            await coroutine
    except TimeoutError:
        return False
    return True
