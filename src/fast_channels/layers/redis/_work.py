"""
Work at one server: a stream per name, of which the group "workers" says who has what.

Everything that happens to it is one step of a script, by the clock of the server.
What was handed out is also in a sorted set, with when it is due again: because
nobody acknowledged it, or because the pause after a failure is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_channels.exceptions import BrokerRefused, LayerClosed, LayerUnavailable
from fast_channels.layers.broker import DeadPayload, Lease
from fast_channels.layers.work import MAX_DEAD_LETTERS

from ._client import CLOSE_TIMEOUT_SECONDS
from ._hosts import consistent_hash
from ._reader import reconnect_delays
from ._scripts import Script
from ._subscriber import WorkNotices

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from fast_channels.layers.options import WorkOptions

    from ._server import Server

logger = logging.getLogger("fast_channels.layers.redis")

PUSH = Script("work_push")
CLAIM = Script("work_claim")
END = Script("work_end")
WORK_REQUEUE = Script("work_requeue")

# Payloads to claim at once, at most.
MOST = 64

# Payloads to push or to revive with one command: nobody else is served meanwhile.
PORTION = 500

# Seconds between two looks for work that nobody told of: what another process has
# left behind when it died, or news that got lost.
CHECK_INTERVAL = 5.0

# Seconds that the news of a name are listened to when nobody waits for its work.
IDLE = 60.0


class Place(NamedTuple):
    """What the server knows a claim by, beside who made it."""

    id: str
    deliveries: int


class WorkSettings(NamedTuple):
    """What everybody at work with one server shares."""

    server: Server
    # Who we are to the server. Never somebody else's name.
    reader: str
    options: WorkOptions
    # Seconds after which work that nobody has taken is forgotten; None for never.
    expiry: float | None
    check_interval: float


class WorkKeys(NamedTuple):
    """The keys of one name: with braces, so that a cluster has them at one place."""

    queue: str
    due: str
    dead: str

    @classmethod
    def of(cls, prefix: str, name: str) -> WorkKeys:
        queue = f"{prefix}__work__{{{name}}}"
        return cls(queue, f"{queue}:due", f"{queue}:dead")


class RedisWork:
    """The WorkQueue of a layer, and how payloads get into it; see layers/broker.py."""

    def __init__(
        self,
        server: Server,
        prefix: str,
        reader: str,
        options: WorkOptions,
        *,
        heartbeat_interval: float,
        expiry: float | None = None,
        check_interval: float = CHECK_INTERVAL,
    ) -> None:
        self._prefix = prefix
        self._desk = WorkSettings(server, reader, options, expiry, check_interval)
        # One per name that was taken from.
        self._lines: dict[str, WorkQueueReader] = {}
        self._bells = WorkNotices(server, f"{prefix}__work__:{reader}", heartbeat_interval)

    async def stop(self) -> None:
        """Let what was done be heard of, within a second; what is in hands comes again."""
        await asyncio.gather(*(line.stop() for line in list(self._lines.values())))
        await self._bells.stop()

    # -- sending ------------------------------------------------------------

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        """Append a payload, unless `capacity` of them wait, are in hands or are tried again."""
        return await self.push_many(name, [payload], capacity) == 1

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        """Append payloads likewise, until there is no room; return how many were appended."""
        keys, pushed = WorkKeys.of(self._prefix, name), 0
        expiry = int((self._desk.expiry or 0) * 1000)
        for start in range(0, len(payloads), PORTION):
            portion = payloads[start : start + PORTION]
            args = [capacity, expiry, keys.queue, *portion]
            accepted = await self._desk.server.publishing.run(PUSH, [keys.queue], args)
            pushed += accepted
            if accepted < len(portion):
                break
        return pushed

    # -- WorkQueue ----------------------------------------------------------

    async def lease(self, name: str) -> Lease:
        return await self._line(name).lease()

    def acknowledge(self, name: str, lease: Lease) -> asyncio.Future[bool]:
        return self._line(name).end(lease, "done")

    def fail(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        options = self._desk.options
        if lease.deliveries >= options.max_deliveries:
            return self.reject(name, lease, reason)
        pause = int(options.pause(lease.deliveries) * 1000)
        return self._line(name).end(lease, "later", pause=pause)

    def reject(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        return self._line(name).end(lease, "dead", reason=reason)

    def release(self, name: str, lease: Lease) -> None:
        self._line(name).give_back(lease)

    async def dead_letters(self, name: str, limit: int) -> list[DeadPayload]:
        call, dead = self._desk.server.control.call, WorkKeys.of(self._prefix, name).dead
        letters = await call("XRANGE", dead, "-", "+", "COUNT", limit)
        return [_buried(fields) for _, fields in letters]

    async def requeue(self, name: str, limit: int, capacity: int) -> int:
        keys, revived = WorkKeys.of(self._prefix, name), 0
        while revived < limit:
            portion = min(PORTION, limit - revived)
            args = [portion, capacity, keys.queue]
            pipe = self._desk.server.publishing
            moved = await pipe.run(WORK_REQUEUE, [keys.queue, keys.dead], args)
            revived += moved
            if moved < portion:
                break
        return revived

    def _line(self, name: str) -> WorkQueueReader:
        line = self._lines.get(name)
        if line is None:
            keys = WorkKeys.of(self._prefix, name)
            line = WorkQueueReader(self._desk, keys, functools.partial(self._forget, name, keys))
            self._lines[name] = line
            self._bells.listen(keys.queue, line.ring)
        return line

    def _forget(self, name: str, keys: WorkKeys) -> None:
        del self._lines[name]
        self._bells.ignore(keys.queue)


class RedisWorkQueue:
    """A WorkQueue and, but for members of groups, a Queue; see layers/broker.py."""

    def __init__(self, benches: Sequence[RedisWork], seal: Callable[[bytes], bytes]) -> None:
        self._benches = benches
        # Makes of a payload what travels.
        self._seal = seal

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        return await self._bench(name).push(name, self._seal(payload), capacity)

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        return await self._bench(name).push_many(name, list(map(self._seal, payloads)), capacity)

    async def lease(self, name: str) -> Lease:
        return await self._bench(name).lease(name)

    def acknowledge(self, name: str, lease: Lease) -> asyncio.Future[bool]:
        return self._bench(name).acknowledge(name, lease)

    def fail(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        return self._bench(name).fail(name, lease, reason)

    def reject(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        return self._bench(name).reject(name, lease, reason)

    def release(self, name: str, lease: Lease) -> None:
        self._bench(name).release(name, lease)

    async def dead_letters(self, name: str, limit: int) -> list[DeadPayload]:
        return await self._bench(name).dead_letters(name, limit)

    async def requeue(self, name: str, limit: int, capacity: int) -> int:
        return await self._bench(name).requeue(name, limit, capacity)

    def _bench(self, name: str) -> RedisWork:
        return self._benches[consistent_hash(name, len(self._benches))]


class WorkQueueReader:
    """
    Those here who wait for work of one name, and what they have got of it.

    One task claims for all of them, so that giving up waiting interrupts no
    command. It ends, and `forget` is called, when nothing has been here for a
    while.
    """

    def __init__(self, desk: WorkSettings, keys: WorkKeys, forget: Callable[[], None]) -> None:
        self._desk = desk
        self._keys = keys
        self._forget = forget
        # The first is served first.
        self._waiting: deque[asyncio.Future[Lease]] = deque()
        # Set when there may be something to do: somebody waits, or there is news.
        self._rung = asyncio.Event()
        # What is in our hands; perhaps twice, if it took too long and came again.
        self._held: set[Place] = set()
        # Whether the server may believe that we have more than that.
        self._doubtful = False
        # Whether the server is being asked for work, and whether it is not to be any more.
        self._claiming = self._closed = False
        # What the server is being told; and of that, what goes back.
        self._ending: set[asyncio.Task[bool]] = set()
        self._returning: set[asyncio.Task[bool]] = set()
        self._expired = 0
        self._task = asyncio.create_task(self._run(), name=f"fast_channels work {keys.queue}")

    @property
    def wanted(self) -> int:
        """How many wait."""
        return sum(not waiter.done() for waiter in self._waiting)

    def ring(self) -> None:
        """There is news."""
        self._rung.set()

    async def lease(self) -> Lease:
        if self._closed:
            raise LayerClosed(f"channel {self._keys.queue!r}")
        wanted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting.append(wanted)
        self.ring()
        try:
            return await wanted
        except asyncio.CancelledError:
            if wanted.done() and not wanted.cancelled() and wanted.exception() is None:
                # It came in the moment of the cancellation.
                self.give_back(wanted.result())
            raise
        finally:
            if wanted in self._waiting:
                self._waiting.remove(wanted)

    def end(
        self, lease: Lease, outcome: str, *, pause: int = 0, reason: str = ""
    ) -> asyncio.Task[bool]:
        """Begin to tell the server what became of it: `outcome` as in work_end.lua."""
        ending = self._tell(lease.handle, outcome, pause, reason)
        task = asyncio.create_task(ending, name=f"fast_channels {outcome} {self._keys.queue}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def give_back(self, lease: Lease) -> None:
        """Let somebody else have it: before whatever waits, and so before we take more."""
        task = self.end(lease, "back")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def stop(self) -> None:
        """Let the server hear of what has ended, and give back what nobody waits for any more."""
        self._closed = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(LayerClosed(f"channel {self._keys.queue!r}"))
        deadline = asyncio.get_running_loop().time() + CLOSE_TIMEOUT_SECONDS
        if self._claiming:
            # What the answer brings has to go back. Then it ends.
            self.ring()
        else:
            self._task.cancel()
        await _end_by(deadline, [self._task])
        # What is not heard of by then comes again.
        await _end_by(deadline, self._ending)

    # -- claiming -----------------------------------------------------------

    async def _run(self) -> None:
        attempts = reconnect_delays()
        while self.wanted or await self._is_rung(IDLE) or self._held or self._ending:
            if self._closed:
                return
            self._rung.clear()
            if self._returning:
                # What goes back stood before what we would get now.
                await asyncio.wait(self._returning)
            if not self.wanted:
                continue
            try:
                pause = await self._serve(min(MOST, self.wanted))
            except BrokerRefused as exc:
                self._refuse(exc)
            except LayerUnavailable:
                # It may have executed the command all the same.
                self._doubtful = True
                await asyncio.sleep(next(attempts))
            else:
                attempts = reconnect_delays()
                await self._is_rung(pause)
        self._forget()

    async def _serve(self, wanted: int) -> float:
        """Claim for those who wait; return the seconds until it is worth another try."""
        desk, options = self._desk, self._desk.options
        args = [
            desk.reader,
            wanted,
            int(options.visibility_timeout * 1000),
            options.max_deliveries,
            options.no_answer,
            MAX_DEAD_LETTERS,
            int((desk.expiry or 0) * 1000),
            *(("some", *(place.id for place in self._held)) if self._doubtful else ("all",)),
        ]
        pause, expired, *found = await self._asked(args)
        self._doubtful = False
        if expired:
            self._skipped(expired)
        for start in range(0, len(found), 3):
            id_, deliveries, payload = found[start : start + 3]
            self._hand_over(Lease(payload, deliveries, Place(id_.decode(), deliveries)))
        if found:
            return 0
        return min(desk.check_interval, pause / 1000) if pause >= 0 else desk.check_interval

    async def _asked(self, args: Sequence[Any]) -> list[Any]:
        self._claiming = True
        try:
            answer: list[Any] = await self._desk.server.control.run(CLAIM, self._keys, args)
            return answer
        finally:
            self._claiming = False

    def _hand_over(self, lease: Lease) -> None:
        self._held.add(lease.handle)
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(lease)
                return
        # Somebody gave up while it was on its way.
        self.give_back(lease)

    def _refuse(self, exc: BrokerRefused) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(exc)

    def _skipped(self, expired: int) -> None:
        before, self._expired = self._expired, self._expired + expired
        # The 1st, and whenever it has doubled: there may be many.
        if before.bit_length() != self._expired.bit_length():
            logger.warning(
                "forgot messages of %s that nobody took within %g s (%d so far)",
                self._keys.queue,
                self._desk.expiry,
                self._expired,
            )

    async def _tell(self, place: Place, outcome: str, pause: int, reason: str) -> bool:
        desk = self._desk
        args = [
            *(desk.reader, place.id, place.deliveries, outcome, pause, reason),
            *(MAX_DEAD_LETTERS, self._keys.queue),
        ]
        try:
            return await self._told(args)
        except LayerUnavailable as exc:
            logger.warning(
                "could not tell that a message of %s is %s, so it will come again: %s",
                *(self._keys.queue, outcome, exc),
            )
            return False
        finally:
            self._held.discard(place)

    async def _told(self, args: Sequence[Any]) -> bool:
        """Tell the server, again and again for as long as the timeout of a command."""
        server = self._desk.server
        attempts, clock = reconnect_delays(), asyncio.get_running_loop()
        give_up = clock.time() + server.timeout
        while True:
            try:
                # What was published before is written before: there is room for more then.
                return bool(await server.publishing.run(END, self._keys, args))
            except BrokerRefused:
                raise
            except LayerUnavailable:
                pause = next(attempts)
                if clock.time() + pause > give_up:
                    raise
                await asyncio.sleep(pause)

    async def _is_rung(self, seconds: float) -> bool:
        """Wait for news, but no longer than that; whether there are any."""
        if not self._rung.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._rung.wait()
        return self._rung.is_set()


async def _end_by(deadline: float, tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait for tasks until then, by the clock of the loop; cancel those that take longer."""
    if tasks:
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        _, late = await asyncio.wait(tasks, timeout=left)
        for task in late:
            task.cancel()


def _buried(fields: Sequence[bytes]) -> DeadPayload:
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    return DeadPayload(found[b"p"], found[b"r"].decode(errors="replace"), int(found[b"n"]))
