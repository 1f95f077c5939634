"""The work of an in-memory layer: leased payloads, payloads that wait for a retry, dead letters."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from .broker import DeadPayload, Lease
from .work import MAX_DEAD_LETTERS

if TYPE_CHECKING:
    from .options import WorkOptions


class UnfinishedPayload(NamedTuple):
    """A payload that has left its queue and is not acknowledged."""

    number: int
    """Payloads that left their queue earlier have lower numbers."""

    payload: bytes
    deliveries: int

    due: float
    """The time.monotonic() from which the payload may be leased again."""

    leased: bool
    """True while a worker has the payload, False while it waits for a retry."""


class MemoryWork:
    """
    The unfinished payloads and dead letters of one in-memory layer, by channel.

    A channel without any is absent. Nothing here waits, and each method takes time in proportion
    to the unfinished payloads of the channel, which are few.
    """

    def __init__(self, options: WorkOptions) -> None:
        self._options = options
        # By channel, then by number.
        self._unfinished: dict[str, dict[int, UnfinishedPayload]] = {}
        self._dead: dict[str, deque[DeadPayload]] = {}
        self._numbers = itertools.count(1)

    def count(self, name: str) -> int:
        """Return how many payloads of a channel are unfinished and count for its capacity."""
        return len(self._unfinished.get(name, ()))

    def next_due(self, name: str) -> float | None:
        """Return the time.monotonic() from which a payload may be leased again."""
        due = (unfinished.due for unfinished in self._unfinished.get(name, {}).values())
        return min(due, default=None)

    def lease_new(self, name: str, payload: bytes) -> Lease:
        """Lease a payload for the first time."""
        return self._lease(name, next(self._numbers), payload, 1)

    def lease_due(self, name: str) -> Lease | None:
        """
        Lease a payload again: retries come before leases that have run out.

        Returns None if no payload is due. If the last lease of a payload has run out, the payload
        becomes a dead letter.
        """
        if name not in self._unfinished:
            return None
        now = time.monotonic()
        ready = [payload for payload in self._unfinished[name].values() if payload.due <= now]
        for found in sorted(
            ready, key=lambda payload: (payload.leased, payload.due, payload.number)
        ):
            if found.deliveries < self._options.max_deliveries:
                return self._lease(name, found.number, found.payload, found.deliveries + 1)
            self._move_to_dead_letters(name, found, self._options.no_answer)
        return None

    def acknowledge(self, name: str, lease: Lease) -> bool:
        found = self._leased(name, lease)
        if found is not None:
            self._forget(name, found)
        return found is not None

    def fail(self, name: str, lease: Lease, reason: str) -> bool:
        if lease.deliveries >= self._options.max_deliveries:
            return self.reject(name, lease, reason)
        pause = self._options.pause(lease.deliveries)
        return self._retry_at(name, lease, lease.deliveries, time.monotonic() + pause)

    def release(self, name: str, lease: Lease) -> bool:
        return self._retry_at(name, lease, lease.deliveries - 1, 0.0)

    def reject(self, name: str, lease: Lease, reason: str) -> bool:
        found = self._leased(name, lease)
        if found is not None:
            self._move_to_dead_letters(name, found, reason)
        return found is not None

    def dead_letters(self, name: str, limit: int) -> list[DeadPayload]:
        return list(itertools.islice(self._dead.get(name, ()), limit))

    def drop_oldest_dead_letter(self, name: str) -> None:
        dead = self._dead[name]
        dead.popleft()
        if not dead:
            del self._dead[name]

    def clear(self) -> None:
        self._unfinished.clear()
        self._dead.clear()

    def _lease(self, name: str, number: int, payload: bytes, deliveries: int) -> Lease:
        due = time.monotonic() + self._options.visibility_timeout
        unfinished = UnfinishedPayload(number, payload, deliveries, due, leased=True)
        self._unfinished.setdefault(name, {})[number] = unfinished
        return Lease(payload, deliveries, number)

    def _leased(self, name: str, lease: Lease) -> UnfinishedPayload | None:
        """Return the payload of a lease, unless the lease has ended."""
        found = self._unfinished.get(name, {}).get(lease.handle)
        if found is None or not found.leased or found.deliveries != lease.deliveries:
            return None
        return found

    def _retry_at(self, name: str, lease: Lease, deliveries: int, due: float) -> bool:
        found = self._leased(name, lease)
        if found is not None:
            waiting = found._replace(deliveries=deliveries, due=due, leased=False)
            self._unfinished[name][found.number] = waiting
        return found is not None

    def _move_to_dead_letters(self, name: str, found: UnfinishedPayload, reason: str) -> None:
        self._forget(name, found)
        dead = self._dead.setdefault(name, deque(maxlen=MAX_DEAD_LETTERS))
        dead.append(DeadPayload(found.payload, reason, found.deliveries))

    def _forget(self, name: str, found: UnfinishedPayload) -> None:
        of_name = self._unfinished[name]
        del of_name[found.number]
        if not of_name:
            del self._unfinished[name]
