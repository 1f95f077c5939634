"""The reference backend works within one process and needs no server."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from fast_channels.exceptions import LayerClosed

from .addressing import InboxAddressing
from .base import BaseChannelLayer
from .broker import Appended, Popped
from .memory_log import MemoryLog
from .memory_work import MemoryWork
from .options import HISTORY_TTL, IDEMPOTENCY_WINDOW, HistoryOptions, WorkOptions
from .waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fast_channels.type_defs import ChannelCapacityDict, Overflow

    from .broker import DeadPayload, Deliver, Lease, LogSlice, Outage
    from .codecs import Codec
    from .mailbox import Mailbox
    from .position import Position


class MemoryStore:
    """
    The payloads and group memberships of shared channels.

    A store outlives the sessions of its layer: a shared channel keeps its messages while no
    receiver reads it, even between two event loops.
    """

    def __init__(self, expiry: float, work: MemoryWork) -> None:
        self.expiry = expiry
        """How many seconds a payload waits for a receiver."""
        self.work = work
        """Payloads that have left their queue and are not acknowledged."""
        # A queue without payloads is absent. The queue written last comes last.
        self.queues: dict[str, deque[tuple[float, bytes]]] = {}
        """Waiting payloads by queue, each with the time.monotonic() at which it came."""
        # The inner dict is an ordered set.
        self.members: dict[str, dict[str, None]] = {}
        """Shared channels by the topic that they are members of."""

    def push(self, name: str, payload: bytes, capacity: int) -> bool:
        """Append a payload; return False if `capacity` payloads wait or are unfinished."""
        self._forget_expired()
        queue = self.unexpired(name)
        if len(queue) + self.work.count(name) >= capacity:
            return False
        queue.append((time.monotonic(), payload))
        self.queues.pop(name, None)
        self.queues[name] = queue
        return True

    def pop(self, name: str) -> Popped | None:
        """Remove the next payload, or return None if there is none."""
        lease = self.work.lease_due(name)
        if lease is not None:
            self.work.acknowledge(name, lease)
            return Popped(lease.payload, time.monotonic())
        queue = self.unexpired(name)
        if not queue:
            return None
        came, payload = queue.popleft()
        if not queue:
            del self.queues[name]
        return Popped(payload, came)

    def lease(self, name: str) -> Lease | None:
        """Lease the next payload, or return None if there is none."""
        lease = self.work.lease_due(name)
        if lease is not None:
            return lease
        popped = self.pop(name)
        return None if popped is None else self.work.lease_new(name, popped.payload)

    def put_back(self, name: str, popped: Popped) -> None:
        # First in the dict, where _forget_expired begins: by its time it expires first.
        self.queues = {name: self.unexpired(name), **self.queues}
        self.queues[name].appendleft((popped.handle, popped.payload))

    def has(self, name: str) -> bool:
        """Return whether there may be a payload to pop or lease."""
        due = self.work.next_due(name)
        return name in self.queues or (due is not None and due <= time.monotonic())

    def unexpired(self, name: str) -> deque[tuple[float, bytes]]:
        """Return a queue without its expired payloads. An empty queue is not in `queues`."""
        queue = self.queues.get(name, deque())
        horizon = time.monotonic() - self.expiry
        while queue and queue[0][0] < horizon:
            queue.popleft()
        if not queue:
            self.queues.pop(name, None)
        return queue

    def _forget_expired(self) -> None:
        # Queues that were not written to for longest come first.
        while self.queues and not self.unexpired(next(iter(self.queues))):
            pass


class MemoryBroker:
    """One session of an in-memory layer, on its store."""

    delivers_everything = True

    def __init__(self, store: MemoryStore, capacity_of: Callable[[str], int]) -> None:
        self._store = store
        self._capacity_of = capacity_of
        # Calls that wait for a payload, by queue. They are handed a turn, in which they look
        # again, and not a payload: some pop it, and others lease it.
        self._waiting: dict[str, Waiters[None]] = {}
        # When to look for payloads that may be leased again, for each queue with waiting calls.
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._deliver: Deliver | None = None

    async def start(
        self,
        deliver: Deliver,
        report_outage: Callable[[Outage], None],  # noqa: ARG002 - there are no outages
    ) -> None:
        self._deliver = deliver

    async def stop(self) -> None:
        self._deliver = None
        for timer in self._timers.values():
            timer.cancel()
        for name, waiters in self._waiting.items():
            waiters.fail(LayerClosed(f"channel {name!r}"))

    async def publish(self, topic: str, payload: bytes) -> int:
        return await self._deliver_and_push(topic, payload, ())

    async def _deliver_and_push(
        self, topic: str, payload: bytes, positions: Sequence[Position]
    ) -> int:
        """Deliver to this process and push to shared members; return how many have refused."""
        if self._deliver is not None:
            self._deliver(topic, payload, positions=positions)
        refused = 0
        for name in list(self._store.members.get(topic, ())):
            refused += not await self.push(name, payload, self._capacity_of(name))
        # Without this, receivers would not run while a sender sends in a loop.
        await asyncio.sleep(0)
        return refused

    async def subscribe(self, topic: str) -> None:
        """Do nothing: everything that is published here is delivered here."""

    async def unsubscribe(self, topic: str) -> None: ...

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        pushed = self._store.push(name, payload, capacity)
        self._wake_receiver(name)
        return pushed

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        for number, payload in enumerate(payloads):
            if not await self.push(name, payload, capacity):
                return number
        # Without this, receivers would not run while a sender sends in a loop.
        await asyncio.sleep(0)
        return len(payloads)

    async def pop(self, name: str) -> Popped:
        while (popped := self._store.pop(name)) is None:
            await self._wait_turn(name)
        return popped

    def put_back(self, name: str, popped: Popped) -> None:
        self._store.put_back(name, popped)
        self._wake_receiver(name)

    async def lease(self, name: str) -> Lease:
        while (lease := self._store.lease(name)) is None:
            await self._wait_turn(name)
        self._schedule_wake(name)
        return lease

    def acknowledge(self, name: str, lease: Lease) -> asyncio.Future[bool]:
        return _answered(self._store.work.acknowledge(name, lease))

    def fail(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        answer = _answered(self._store.work.fail(name, lease, reason))
        self._schedule_wake(name)
        return answer

    def reject(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        return _answered(self._store.work.reject(name, lease, reason))

    def release(self, name: str, lease: Lease) -> None:
        self._store.work.release(name, lease)
        self._wake_receiver(name)

    async def dead_letters(self, name: str, limit: int) -> list[DeadPayload]:
        return self._store.work.dead_letters(name, limit)

    async def requeue(self, name: str, limit: int, capacity: int) -> int:
        requeued = 0
        for dead in self._store.work.dead_letters(name, limit):
            if not await self.push(name, dead.payload, capacity):
                break
            self._store.work.drop_oldest_dead_letter(name)
            requeued += 1
        return requeued

    async def add_member(self, topic: str, name: str) -> None:
        self._store.members.setdefault(topic, {})[name] = None

    async def remove_member(self, topic: str, name: str) -> None:
        members = self._store.members.get(topic, {})
        members.pop(name, None)
        if not members:
            self._store.members.pop(topic, None)

    async def flush(self) -> None:
        self._store.queues.clear()
        self._store.work.clear()
        self._store.members.clear()

    async def _wait_turn(self, name: str) -> None:
        """Wait until there may be a payload for this call."""
        waiters = self._waiting.get(name)
        if waiters is None:
            # A turn that a cancelled call did not use goes to the next call.
            waiters = self._waiting[name] = Waiters(lambda _: self._wake_receiver(name))
        self._schedule_wake(name)
        try:
            await waiters.wait()
        finally:
            # Of several calls that were served together, the first to end removes the entry,
            # and another call may have made a new one since.
            if not waiters and self._waiting.get(name) is waiters:
                del self._waiting[name]

    def _wake_receiver(self, name: str) -> None:
        waiters = self._waiting.get(name)
        if waiters is not None and self._store.has(name):
            waiters.hand_over(None)

    def _schedule_wake(self, name: str) -> None:
        """Wake a waiting call when a payload may be leased again."""
        due = self._store.work.next_due(name)
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        if due is not None and name in self._waiting:
            loop, pause = asyncio.get_running_loop(), max(0.0, due - time.monotonic())
            self._timers[name] = loop.call_later(pause, self._wake_on_time, name)

    def _wake_on_time(self, name: str) -> None:
        self._wake_receiver(name)
        # A timer may be a little early.
        self._schedule_wake(name)


def _answered(answer: bool) -> asyncio.Future[bool]:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.set_result(answer)
    return future


class MemoryLogBroker(MemoryBroker):
    """A MemoryBroker that also keeps a log, see broker.Log."""

    def __init__(
        self, store: MemoryStore, capacity_of: Callable[[str], int], log: MemoryLog
    ) -> None:
        super().__init__(store, capacity_of)
        self._log = log

    async def publish(self, topic: str, payload: bytes) -> int:
        position, _ = self._log.append(topic, payload, None)
        return await self._deliver_and_push(topic, payload, [position])

    async def append(self, topic: str, payload: bytes, *, once: str | None = None) -> Appended:
        position, new = self._log.append(topic, payload, once)
        refused = await self._deliver_and_push(topic, payload, [position]) if new else 0
        return Appended(position, refused)

    async def read(self, topic: str, after: Position | None, limit: int | None) -> LogSlice:
        return self._log.read(topic, after, limit)

    def delivered(self, topic: str) -> Position:
        return self._log.end(topic)

    async def catch_up(self, topic: str) -> None:
        """Do nothing: a payload is delivered as soon as it is appended."""

    async def flush(self) -> None:
        await super().flush()
        self._log.clear()


class InMemoryChannelLayer(BaseChannelLayer):
    """
    Channels and groups within one process: for tests and single-process apps.

    No message leaves the process: each of several workers has its own groups, and messages of
    scripts reach no worker. `group_expiry` is the least time in seconds that a member stays in
    a group; here, it stays until it leaves or its channel is closed.

    `history_size` is how many messages of each group to keep, for tests of code that needs a
    history. The history of a group is deleted `history_ttl` seconds after its last message. An
    `idempotency_key` counts for `idempotency_window` seconds.

    Work that is taken (see `take`) and not acknowledged is redelivered after
    `visibility_timeout` seconds. Failed work is redelivered after a pause: `retry_backoff` has
    the seconds of the first pause, which doubles each time, and of the longest one. After
    `max_deliveries`, work goes to the dead letters.
    """

    within_process = True

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        *,
        codec: Codec | None = None,
        overflow: Overflow = "drop_oldest",
        max_message_size: int = 1024 * 1024,
        history_size: int | None = None,
        history_ttl: float = HISTORY_TTL,
        idempotency_window: float = IDEMPOTENCY_WINDOW,
        visibility_timeout: float = WorkOptions.visibility_timeout,
        max_deliveries: int = WorkOptions.max_deliveries,
        retry_backoff: tuple[float, float] = WorkOptions.retry_backoff,
    ) -> None:
        super().__init__(
            expiry,
            capacity,
            channel_capacity,
            codec=codec,
            overflow=overflow,
            max_message_size=max_message_size,
            addressing=InboxAddressing(keeps_every_name=True),
        )
        self.group_expiry = group_expiry
        work = WorkOptions(visibility_timeout, max_deliveries, retry_backoff)
        self._store = MemoryStore(expiry, MemoryWork(work))
        self._memory: MemoryLog | None = None
        if history_size is not None:
            options = HistoryOptions(history_size, history_ttl, idempotency_window)
            self._memory = MemoryLog(options)

    def _make_broker(self) -> MemoryBroker:
        if self._memory is None:
            return MemoryBroker(self._store, self.get_capacity)
        return MemoryLogBroker(self._store, self.get_capacity, self._memory)

    @property
    def channels(self) -> dict[str, Mailbox | deque[tuple[float, bytes]]]:
        """Every channel that is open or holds messages, by name; its `len()` is how many wait."""
        session = self._session
        return {**self._store.queues, **(session.hub.mailboxes if session is not None else {})}

    @property
    def groups(self) -> dict[str, list[str]]:
        """The members of every group, by its name."""
        session = self._session
        here = session.hub.members if session is not None else {}
        stored = self._store.members
        return {topic: [*here.get(topic, ()), *stored.get(topic, ())] for topic in [*here, *stored]}
