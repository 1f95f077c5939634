"""Calls wait in turn for values, and hand a value back if they are cancelled."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Waiters(Generic[T]):
    """
    Calls that each wait for one value; the call that has waited longest is served first.

    A value may be handed to a call in the same moment as that call is cancelled. `hand_back`
    then gets the value, so that cancelling a call loses nothing.
    """

    def __init__(self, hand_back: Callable[[T], object]) -> None:
        self._hand_back = hand_back
        self._futures: deque[asyncio.Future[T]] = deque()

    def __len__(self) -> int:
        """Return how many calls wait. Cancelled calls do not count."""
        return sum(not future.done() for future in self._futures)

    async def wait(self) -> T:
        """Wait for a value. Cancelling loses nothing."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._hand_back(future.result())
            raise
        finally:
            # Still listed only if the call was cancelled before it was served.
            if future in self._futures:
                self._futures.remove(future)

    def hand_over(self, value: T) -> bool:
        """Give `value` to the call that has waited longest; return False if none waits."""
        while self._futures:
            future = self._futures.popleft()
            if not future.done():
                future.set_result(value)
                return True
        return False

    def fail(self, exc: Exception) -> None:
        """Let every waiting call raise `exc`."""
        while self._futures:
            future = self._futures.popleft()
            if not future.done():
                future.set_exception(exc)
