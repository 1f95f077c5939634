"""
Serves the receivers of shared names, and prefetches messages for them.

Taken messages move into a batch on the server and stay there until a later call confirms them,
so a lost connection loses nothing. The server also learns which messages of a batch were
handed out; if this process dies, other processes get the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from fast_channels.exceptions import LayerClosed, LayerUnavailable
from fast_channels.layers.broker import Popped
from fast_channels.layers.waiters import Waiters

from ._reader import reconnect_delays
from ._scripts import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ._client import Client
    from ._keys import Keys
    from ._options import QueueOptions
    from ._subscriber import KeyTracker

logger = logging.getLogger("fast_channels.layers.redis")

PREFETCH = Script("prefetch")
REQUEUE = Script("requeue")

# Payloads to prefetch at once, and how long to keep them for receivers here: other
# processes may be waiting for them. With a round trip for each message, a receiver is eight
# times slower.
MAX_PREFETCH = 64
PREFETCH_SECONDS = 0.02

# How long the reader of a shared name stays ready when no receiver waits.
READER_IDLE_SECONDS = 60.0

# How long a closing layer may take to requeue payloads.
REQUEUE_TIMEOUT_SECONDS = 10.0

# Shortest time between two notes to the server about payloads that were handed out. A note
# is a system call, and costs more than everything else about handing out.
NOTE_INTERVAL_SECONDS = 0.001


class ScoredPayload(NamedTuple):
    """A payload, and the score by which it can be requeued in its old place."""

    payload: bytes
    score: bytes


class Origin(NamedTuple):
    """The place that a payload was taken from: the source, and the score in its queue."""

    source: int
    score: bytes


class QueueReader:
    """
    Serves the receivers of one shared name in this process.

    Nothing is taken while no receiver waits. While receivers come back quickly, the reader
    prefetches more than they wait for, and they find the next payload here. A payload that
    no receiver wants, or not within PREFETCH_SECONDS, is requeued in its old place. Hence a
    cancelled receiver loses nothing and changes no order.

    Each server is read, because peers may hash names in another way.
    """

    def __init__(
        self,
        name: str,
        trackers: Sequence[KeyTracker],
        keys: Keys,
        options: QueueOptions,
        forget: Callable[[], object],
    ) -> None:
        self._name = name
        # Called once, when no receiver has waited for READER_IDLE_SECONDS: the caller
        # stops this reader, and makes a new one if the name is received from again.
        self._forget = forget
        self._forgotten = False
        self._waiters = Waiters[Popped](self.hand_over)
        # Set while a receiver waits.
        self._wanted = asyncio.Event()
        self.sources = [
            QueueSource(self, number, tracker, name, keys, options)
            for number, tracker in enumerate(trackers)
        ]
        """One per server."""

    async def pop(self) -> Popped:
        """Wait for a payload and take it. Cancelling loses nothing."""
        if not self.wanted:
            for source in self.sources:
                if popped := source.hand_out():
                    return popped
        self._wanted.set()
        for source in self.sources:
            source.start()
        try:
            return await self._waiters.wait()
        finally:
            self._pause_if_unwanted()

    async def stop(self) -> None:
        """Stop reading, and requeue everything that was not received."""
        self._waiters.fail(LayerClosed(f"channel {self._name!r}"))
        await asyncio.gather(*(source.stop() for source in self.sources))

    def discard(self) -> None:
        """Forget prefetched payloads: a flush has deleted everything on the servers."""
        for source in self.sources:
            source.discard()

    @property
    def wanted(self) -> int:
        """How many receivers wait."""
        return len(self._waiters)

    async def is_wanted(self) -> bool:
        """Wait until a receiver waits; return False if that takes READER_IDLE_SECONDS."""
        if self._wanted.is_set():
            return True
        if not await _is_set_within(READER_IDLE_SECONDS, self._wanted):
            # Every source finds this out. By the second one the name may have a new reader.
            if not self._forgotten:
                self._forgotten = True
                self._forget()
            return False
        return True

    def hand_over(self, popped: Popped) -> None:
        """Give a payload to the receiver that has waited longest, or requeue it."""
        if not self._waiters.hand_over(popped):
            origin: Origin = popped.handle
            self.sources[origin.source].requeue(popped.payload, origin.score)
        self._pause_if_unwanted()

    def _pause_if_unwanted(self) -> None:
        if not self.wanted:
            self._wanted.clear()


class QueueSource:
    """Takes the payloads of a shared name from one server."""

    def __init__(
        self,
        reader: QueueReader,
        number: int,
        tracker: KeyTracker,
        name: str,
        keys: Keys,
        options: QueueOptions,
    ) -> None:
        self._reader = reader
        self._number = number
        self._tracker = tracker
        self.server = tracker.server
        """The server that the payloads come from."""
        self._keys = keys
        self._key = keys.of_channel(name)
        self._options = options
        self.prefetch = Prefetch(self.server.control, name, keys, options.expiry, options.lease)
        """The present batch of prefetched payloads."""
        self.batch_size = PrefetchSize()
        """Decides how many payloads the next batch has."""
        # Set when the queue was written.
        self._written = asyncio.Event()
        # Set when no prefetched payload is left to hand out.
        self._used_up = asyncio.Event()
        # Payloads that were too old to be handed over.
        self._expired = 0
        self.requeuing: set[asyncio.Task[None]] = set()
        """The tasks that requeue payloads now."""
        self.task: asyncio.Task[None] | None = None
        """The task that reads, once there was a receiver."""
        # Whether the server counts as lost because of this source.
        self._lost = False
        # Delays between attempts to take, since the last successful one.
        self._delays: Iterator[float] | None = None
        self._stopped = False

    @property
    def prefetched(self) -> int:
        """How many payloads can be handed out without asking the server."""
        return len(self.prefetch)

    @property
    def unsettled(self) -> bool:
        """True if payloads are here, or on their way from or to the server."""
        return bool(self.prefetch.unsettled or self.requeuing)

    def start(self) -> None:
        """Read in the background. Starting twice is fine."""
        if self.task is None:
            self._tracker.watch(self._key, self._written)
            self.task = asyncio.create_task(self._run(), name=f"fast_channels reader {self._key}")

    async def stop(self) -> None:
        if self.task is not None:
            self._tracker.ignore(self._key, self._written)
            self.task.cancel()
            await asyncio.wait([self.task])
            self.server.state.connected(self)
            # If the server cannot be reached, other processes requeue the rest of the batch.
            with contextlib.suppress(LayerUnavailable):
                await self.prefetch.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REQUEUE_TIMEOUT_SECONDS):
                # Meanwhile more receivers may be cancelled.
                while self.requeuing:
                    await asyncio.wait(self.requeuing)
        self._stopped = True
        for task in self.requeuing:
            task.cancel()
            self._log_lost()

    def hand_out(self) -> Popped | None:
        """Return a prefetched payload, if there is one."""
        # A payload that is being requeued stood before the prefetched ones.
        while not self.requeuing and (taken := self.prefetch.hand_out()):
            if not len(self.prefetch):
                self._used_up.set()
            # Only senders remove expired payloads, and there may be none.
            age = time.time() - float(taken.score)
            if age <= self._options.expiry:
                return Popped(taken.payload, Origin(self._number, taken.score))
            self._log_expired(age)
        return None

    def discard(self) -> None:
        """Hand out no more prefetched payloads."""
        self.prefetch.discard()
        self._used_up.set()

    def requeue(self, payload: bytes, score: bytes) -> None:
        """Put a payload back into the queue, in its old place."""
        if self._stopped:
            self._log_lost()
            return
        # Prefetched payloads come after this one, and must not be handed out before it.
        self.discard()
        task = asyncio.create_task(
            self._requeue(payload, score), name=f"fast_channels requeue {self._key}"
        )
        self.requeuing.add(task)
        task.add_done_callback(self.requeuing.discard)

    async def _run(self) -> None:
        while True:
            try:
                if self._lost:
                    # The server may be back although no receiver waits.
                    await self.prefetch.take(0)
                    self._lost = False
                    self.server.state.connected(self)
                # Other processes may wait for payloads of the last attempt.
                await self.prefetch.settle()
                await self._read()
            except Exception as exc:
                # A process without this task would receive nothing more, unnoticed.
                if not isinstance(exc, LayerUnavailable):
                    logger.exception("unexpected error in the reader of %r", self._key)
                self._lost = True
                self.server.state.lost(self, exc)
                self._delays = self._delays or reconnect_delays()
                await asyncio.sleep(next(self._delays))
            else:
                return

    async def _read(self) -> None:
        while await self._reader.is_wanted():
            if self.requeuing:
                # A payload that is being requeued stood before the next ones.
                await asyncio.wait(self.requeuing)
                continue
            self.batch_size.used_up()
            size = min(MAX_PREFETCH, max(self.batch_size.next, self._reader.wanted))
            taken = await self.prefetch.take(size)
            self.batch_size.took(taken)
            self._delays = None
            if taken:
                await self._serve()
            else:
                # Nothing tells of the batch that a killed process has left, nor that
                # the receivers were cancelled long ago.
                longest = min(READER_IDLE_SECONDS, self._options.lease / 2)
                await _is_set_within(longest, self._written)
                self._written.clear()

    async def _serve(self) -> None:
        """Hand out payloads, and requeue the rest if no receiver wants it soon."""
        self._used_up.clear()
        if self.requeuing:
            # A payload that is being requeued stood before these too.
            self.discard()
        while self._reader.wanted and (popped := self.hand_out()):
            self._reader.hand_over(popped)
        if len(self.prefetch):
            await _is_set_within(PREFETCH_SECONDS, self._used_up)
        if self.prefetch.owed:
            self.batch_size.too_many(self.prefetch.owed)
            await self.prefetch.settle()

    async def _requeue(self, payload: bytes, score: bytes) -> None:
        client, done_key = self.server.control, self._keys.new_batch()
        args = [score, payload, int(self._options.expiry * 1000)]
        for delay in reconnect_delays():
            with contextlib.suppress(LayerUnavailable):
                await client.run(REQUEUE, [self._key, done_key], args)
                break
            await asyncio.sleep(delay)
        with contextlib.suppress(LayerUnavailable):
            await client.call("DEL", done_key)

    def _log_expired(self, age: float) -> None:
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

    def _log_lost(self) -> None:
        logger.error("a message taken from %r could not be put back", self._key)


class PrefetchSize:
    """Decides how many payloads to take at once: about as many as PREFETCH_SECONDS need."""

    def __init__(self) -> None:
        self.next = 1
        # How many were taken last, and when, by time.monotonic().
        self._taken, self._taken_at = 0, 0.0

    def took(self, count: int) -> None:
        self._taken, self._taken_at = count, time.monotonic()

    def used_up(self) -> None:
        """Note that a receiver wants more and nothing is left."""
        lasted = time.monotonic() - self._taken_at
        if lasted > PREFETCH_SECONDS:
            self.next = 1
        elif self._taken == self.next and lasted < PREFETCH_SECONDS / 2:
            self.next = min(2 * self.next, MAX_PREFETCH)

    def too_many(self, left: int) -> None:
        """Note that no receiver wanted the last ones."""
        self.next = max(1, self._taken - left)


class Prefetch:
    """
    Takes batches of one shared name on one server, and hands out their payloads one by one.

    `take` may be cancelled: the next call returns the same batch. If this process is
    killed, other processes requeue the rest of the batch, see prefetch.lua. The rest may
    include payloads that were handed out within the last NOTE_INTERVAL_SECONDS without an
    iteration of the event loop.
    """

    def __init__(self, client: Client, name: str, keys: Keys, expiry: float, lease: float) -> None:
        self._client = client
        # Seconds until others requeue the rest of a batch. This process does so long
        # before, unless it has died, stood still, or lost its connection.
        self._lease = lease
        self._batch_key = keys.new_batch()
        self._batches_key = keys.of_prefetched(name)
        self.keys = [self._batch_key, keys.of_channel(name), self._batches_key]
        # Milliseconds until the server forgets a batch that is not fetched.
        self._expiry = int(expiry * 1000)
        # Number of the last batch that has arrived, how many payloads were in it, and how
        # many of these were handed out.
        self.arrived = self._count = self._handed_out = 0
        self.reply_missing = False
        """True while the reply to a call of `take` has yet to come, or was lost."""
        # Payloads that may still be handed out.
        self._left: deque[ScoredPayload] = deque()
        self.stale_at = 0.0
        """The time.monotonic() after which other processes may requeue them."""
        # time.monotonic() of the last note to the server, and whether one is scheduled.
        self.noted_at, self._note_scheduled = 0.0, False

    def __len__(self) -> int:
        """Return how many payloads may be handed out."""
        return len(self._left)

    @property
    def owed(self) -> int:
        """How many payloads were neither handed out nor requeued."""
        return self._count - self._handed_out

    @property
    def unsettled(self) -> bool:
        """True if payloads are here, or in a reply that has not arrived."""
        return self.reply_missing or self.owed > 0

    async def take(self, size: int) -> int:
        """
        Requeue the rest of the last batch, take up to `size` payloads, and return their number.

        The rest cannot be handed out from this moment on. Raises LayerUnavailable.
        """
        self._left.clear()
        # Before the server begins to count.
        stale_at = time.monotonic() + self._lease / 2
        args = [self.arrived, self._handed_out, size, self._expiry, self._lease]
        self.reply_missing = True
        number, *batch = await self._client.run(PREFETCH, self.keys, args)
        self.reply_missing = False
        if int(number) > self.arrived:
            self.arrived, self._handed_out, self.stale_at = int(number), 0, stale_at
            pairs = zip(batch[::2], batch[1::2], strict=True)
            self._left.extend(ScoredPayload(*pair) for pair in pairs)
            self._count = len(self._left)
        else:
            self._count = self._handed_out
        return len(self._left)

    def discard(self) -> None:
        """Hand out no more of this batch. The next call of `take` requeues the rest."""
        self._left.clear()

    def hand_out(self) -> ScoredPayload | None:
        """Return the next payload, or None if none certainly still belongs to this process."""
        if not self._left:
            return None
        self._handed_out += 1
        # The server counts the first payload as handed out when it is taken.
        if self._handed_out > 1 and not self._note_handed_out():
            self._handed_out -= 1
            return None
        return self._left.popleft()

    async def settle(self) -> None:
        """Requeue the rest of the batch, and payloads in a lost reply. Raises LayerUnavailable."""
        while self.unsettled:
            await self.take(0)

    async def stop(self) -> None:
        """Requeue the rest. Raises LayerUnavailable; then other processes do it."""
        await self.settle()
        # A batch that was handed out completely is listed until the next one.
        await self._client.call("ZREM", self._batches_key, self._batch_key)
        await self._client.call("DEL", self._batch_key, self._note_key)

    @property
    def _note_key(self) -> str:
        return f"{self._batch_key}:out"

    def _note_handed_out(self) -> bool:
        """Tell the server soon how many were handed out; return False if that is impossible."""
        now = time.monotonic()
        if now >= self.stale_at:
            return False
        if now - self.noted_at >= NOTE_INTERVAL_SECONDS:
            return self._write_note()
        if not self._note_scheduled:
            self._note_scheduled = True
            asyncio.get_running_loop().call_soon(self._write_note)
        return True

    def _write_note(self) -> bool:
        self.noted_at, self._note_scheduled = time.monotonic(), False
        note = f"{self.arrived} {self._handed_out}"
        return self._client.write("SET", self._note_key, note, "PX", self._expiry)


async def _is_set_within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for an event, but no longer than that; return whether it is set."""
    if not event.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
    return event.is_set()
