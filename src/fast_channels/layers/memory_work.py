"""Work within one process: leased payloads, payloads to retry, and dead letters."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from .broker import DeadPayload, Lease
from .work import MAX_DEAD_LETTERS

if TYPE_CHECKING:
    from .options import WorkOptions


class PendingPayload(NamedTuple):
    """A payload that has left its queue and is not acknowledged."""

    # Payloads that were delivered earlier have lower numbers.
    number: int
    payload: bytes
    deliveries: int
    # The time.monotonic() from which on it may be redelivered.
    due: float
    # True if a worker may be handling it; False if it waits for a retry.
    leased: bool


class MemoryWork:
    """
    The work of one in-memory layer, by name. No method waits.

    A name without work is absent. The time that a method takes grows with the number of
    pending payloads, which is small.
    """

    def __init__(self, options: WorkOptions) -> None:
        self._options = options
        # By name and number.
        self._held: dict[str, dict[int, PendingPayload]] = {}
        self._dead: dict[str, deque[DeadPayload]] = {}
        self._numbers = itertools.count(1)

    def count(self, name: str) -> int:
        """Return the number of pending payloads, which count for the capacity."""
        return len(self._held.get(name, ()))

    def next_due(self, name: str) -> float | None:
        """Return the time.monotonic() at which the next payload may be redelivered, or None."""
        return min((held.due for held in self._held.get(name, {}).values()), default=None)

    def take_new(self, name: str, payload: bytes) -> Lease:
        """Lease a payload for its first delivery."""
        return self._hand_out(name, next(self._numbers), payload, 1)

    def take_due(self, name: str) -> Lease | None:
        """
        Lease a payload that may be redelivered; retries come before expired leases.

        Returns None if there is none. Payloads after their last delivery go to the dead letters.
        """
        if name not in self._held:
            return None
        now = time.monotonic()
        ready = [held for held in self._held.get(name, {}).values() if held.due <= now]
        for held in sorted(ready, key=lambda held: (held.leased, held.due, held.number)):
            if held.deliveries < self._options.max_deliveries:
                return self._hand_out(name, held.number, held.payload, held.deliveries + 1)
            self._move_to_dead_letters(name, held, self._options.no_answer)
        return None

    def acknowledge(self, name: str, lease: Lease) -> bool:
        held = self._own(name, lease)
        if held is not None:
            self._forget(name, held)
        return held is not None

    def fail(self, name: str, lease: Lease, reason: str) -> bool:
        if lease.deliveries >= self._options.max_deliveries:
            return self.reject(name, lease, reason)
        pause = self._options.pause(lease.deliveries)
        return self._later(name, lease, lease.deliveries, time.monotonic() + pause)

    def release(self, name: str, lease: Lease) -> bool:
        return self._later(name, lease, lease.deliveries - 1, 0.0)

    def reject(self, name: str, lease: Lease, reason: str) -> bool:
        held = self._own(name, lease)
        if held is not None:
            self._move_to_dead_letters(name, held, reason)
        return held is not None

    def dead_letters(self, name: str, limit: int) -> list[DeadPayload]:
        return list(itertools.islice(self._dead.get(name, ()), limit))

    def drop_oldest_dead_letter(self, name: str) -> None:
        """Delete the oldest dead letter."""
        dead = self._dead[name]
        dead.popleft()
        if not dead:
            del self._dead[name]

    def clear(self) -> None:
        self._held.clear()
        self._dead.clear()

    def _hand_out(self, name: str, number: int, payload: bytes, deliveries: int) -> Lease:
        due = time.monotonic() + self._options.visibility_timeout
        held = PendingPayload(number, payload, deliveries, due, leased=True)
        self._held.setdefault(name, {})[number] = held
        return Lease(payload, deliveries, number)

    def _own(self, name: str, lease: Lease) -> PendingPayload | None:
        """Return the payload of a lease, unless it was redelivered since."""
        held = self._held.get(name, {}).get(lease.handle)
        same = held is not None and (held.deliveries, held.leased) == (lease.deliveries, True)
        return held if same else None

    def _later(self, name: str, lease: Lease, deliveries: int, due: float) -> bool:
        held = self._own(name, lease)
        if held is not None:
            later = held._replace(deliveries=deliveries, due=due, leased=False)
            self._held[name][held.number] = later
        return held is not None

    def _move_to_dead_letters(self, name: str, held: PendingPayload, reason: str) -> None:
        self._forget(name, held)
        dead = self._dead.setdefault(name, deque(maxlen=MAX_DEAD_LETTERS))
        dead.append(DeadPayload(held.payload, reason, held.deliveries))

    def _forget(self, name: str, held: PendingPayload) -> None:
        of_name = self._held[name]
        del of_name[held.number]
        if not of_name:
            del self._held[name]
