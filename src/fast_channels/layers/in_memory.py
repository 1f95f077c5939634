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
    Messages of shared channels, and their memberships in groups.

    The store outlives the sessions of its layer, because a shared channel must keep its
    messages while no receiver waits, even between two event loops.
    """

    def __init__(self, expiry: float, work: MemoryWork) -> None:
        # Seconds that a payload waits for a receiver.
        self.expiry = expiry
        # Payloads that have left their queue and are not acknowledged.
        self.work = work
        # Waiting payloads, each with the time.monotonic() of its arrival. A queue without
        # payloads is absent; the last written queue comes last.
        self.queues: dict[str, deque[tuple[float, bytes]]] = {}
        # Shared channels that are members of a topic; the inner dict is an ordered set.
        self.members: dict[str, dict[str, None]] = {}

    def push(self, name: str, payload: bytes, capacity: int) -> bool:
        self._forget_expired()
        queue = self.unexpired(name)
        if len(queue) + self.work.count(name) >= capacity:
            return False
        queue.append((time.monotonic(), payload))
        self.queues.pop(name, None)
        self.queues[name] = queue
        return True

    def take(self, name: str) -> Popped | None:
        """Remove and return a payload."""
        lease = self.work.take_due(name)
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
        """Lease a payload, or return None if no payload is available."""
        lease = self.work.take_due(name)
        if lease is not None:
            return lease
        popped = self.take(name)
        return None if popped is None else self.work.take_new(name, popped.payload)

    def put_back(self, name: str, popped: Popped) -> None:
        # First in the dict, because its payload is old: _forget_expired begins there.
        self.queues = {name: self.unexpired(name), **self.queues}
        self.queues[name].appendleft((popped.handle, popped.payload))

    def has(self, name: str) -> bool:
        """Return whether a payload may be available."""
        due = self.work.next_due(name)
        return name in self.queues or (due is not None and due <= time.monotonic())

    def unexpired(self, name: str) -> deque[tuple[float, bytes]]:
        queue = self.queues.get(name, deque())
        horizon = time.monotonic() - self.expiry
        while queue and queue[0][0] < horizon:
            queue.popleft()
        if not queue:
            self.queues.pop(name, None)
        return queue

    def _forget_expired(self) -> None:
        # The queue without a write for longest comes first.
        while self.queues and not self.unexpired(next(iter(self.queues))):
            pass


class MemoryBroker:
    """One session of an in-memory layer, on its store."""

    delivers_everything = True

    def __init__(self, store: MemoryStore, capacity_of: Callable[[str], int]) -> None:
        self._store = store
        self._capacity_of = capacity_of
        # Calls that wait for a payload, by queue. They are woken without a payload and look
        # again, because some want to take it and others want to lease it.
        self._waiting: dict[str, Waiters[None]] = {}
        # Timers for the next redelivery, by queues with waiting calls.
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
        return await self._spread(topic, payload, ())

    async def _spread(self, topic: str, payload: bytes, positions: Sequence[Position]) -> int:
        if self._deliver is not None:
            self._deliver(topic, payload, positions=positions)
        refused = 0
        for name in list(self._store.members.get(topic, ())):
            refused += not await self.push(name, payload, self._capacity_of(name))
        # Receivers must have a turn while a sender sends in a loop.
        await asyncio.sleep(0)
        return refused

    async def subscribe(self, topic: str) -> None:
        """Do nothing: all payloads published in this process arrive here."""

    async def unsubscribe(self, topic: str) -> None: ...

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        pushed = self._store.push(name, payload, capacity)
        self._wake_receiver(name)
        return pushed

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        for number, payload in enumerate(payloads):
            if not await self.push(name, payload, capacity):
                return number
        # Receivers must have a turn while a sender sends in a loop.
        await asyncio.sleep(0)
        return len(payloads)

    async def pop(self, name: str) -> Popped:
        while (popped := self._store.take(name)) is None:
            await self._wait_for_payload(name)
        return popped

    def put_back(self, name: str, popped: Popped) -> None:
        self._store.put_back(name, popped)
        self._wake_receiver(name)

    async def lease(self, name: str) -> Lease:
        while (lease := self._store.lease(name)) is None:
            await self._wait_for_payload(name)
        self._look_later(name)
        return lease

    def acknowledge(self, name: str, lease: Lease) -> asyncio.Future[bool]:
        return _answered(self._store.work.acknowledge(name, lease))

    def fail(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        answer = _answered(self._store.work.fail(name, lease, reason))
        self._look_later(name)
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

    async def _wait_for_payload(self, name: str) -> None:
        """Wait until a payload may be available for this call."""
        waiters = self._waiting.get(name)
        if waiters is None:
            # A wake-up that a cancelled call did not use goes to the next one.
            waiters = self._waiting[name] = Waiters(lambda _: self._wake_receiver(name))
        self._look_later(name)
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

    def _look_later(self, name: str) -> None:
        """Set a timer that wakes a waiting receiver at the next redelivery."""
        due = self._store.work.next_due(name)
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        if due is not None and name in self._waiting:
            loop, pause = asyncio.get_running_loop(), max(0.0, due - time.monotonic())
            self._timers[name] = loop.call_later(pause, self._look, name)

    def _look(self, name: str) -> None:
        self._wake_receiver(name)
        # Again, because a timer may be a little early.
        self._look_later(name)


def _answered(answer: bool) -> asyncio.Future[bool]:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.set_result(answer)
    return future


class RememberingBroker(MemoryBroker):
    """A memory broker with a log; see layers.broker.Log."""

    def __init__(
        self, store: MemoryStore, capacity_of: Callable[[str], int], log: MemoryLog
    ) -> None:
        super().__init__(store, capacity_of)
        self._log = log

    async def publish(self, topic: str, payload: bytes) -> int:
        position, _ = self._log.append(topic, payload, None)
        return await self._spread(topic, payload, [position])

    async def append(self, topic: str, payload: bytes, *, once: str | None = None) -> Appended:
        position, new = self._log.append(topic, payload, once)
        return Appended(position, await self._spread(topic, payload, [position]) if new else 0)

    async def read(self, topic: str, after: Position | None, limit: int | None) -> LogSlice:
        return self._log.read(topic, after, limit)

    def delivered(self, topic: str) -> Position:
        return self._log.end(topic)

    async def catch_up(self, topic: str) -> None:
        """Do nothing: payloads are delivered when they are appended."""

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
        return RememberingBroker(self._store, self.get_capacity, self._memory)

    @property
    def channels(self) -> dict[str, Mailbox | deque[tuple[float, bytes]]]:
        """All channels that are open or hold messages, by name; `len()` counts the messages."""
        session = self._session
        return {**self._store.queues, **(session.hub.mailboxes if session is not None else {})}

    @property
    def groups(self) -> dict[str, list[str]]:
        """The members of every group, by its name."""
        session = self._session
        here = session.hub.members if session is not None else {}
        stored = self._store.members
        return {topic: [*here.get(topic, ()), *stored.get(topic, ())] for topic in [*here, *stored]}
