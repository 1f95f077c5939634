"""Brings the broker's subscriptions in line with the hub's members."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fast_channels.exceptions import LayerClosed

from .broker import Unfiltered

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from .broker import Broker


class Subscriptions:
    """
    One reconciler per topic, so that a slow answer for one delays no other.

    What is wanted is read from the hub at every step, not queued: joining and
    leaving while an answer is under way ends in the state wanted last.
    """

    def __init__(self, wanted: Container[str], broker: Broker) -> None:
        # Topics that have members; the hub changes it under our eyes.
        self._wanted = wanted
        self._broker = broker
        # Whether it delivers every topic in any case, and has no answers to wait for.
        self._needless = isinstance(broker, Unfiltered) and broker.delivers_everything
        # Topics whose subscription the broker has confirmed.
        self._confirmed: set[str] = set()
        # The task that talks to the broker about a topic, while there is one.
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._confirmed)

    async def settle(self, topics: Iterable[str]) -> None:
        """
        Return once the broker agrees with the hub about each of `topics`.

        Cancelling stops the waiting, not the work. Raises what the broker raised,
        or LayerClosed.
        """
        if self._needless:
            return
        waiting = [self._task(topic) for topic in topics if not self._agreed(topic)]
        if not waiting:
            return
        # asyncio.wait, unlike gather, leaves the tasks alone when it is
        # cancelled: others may wait for the same answer.
        await asyncio.wait(waiting)
        for task in waiting:
            if task.cancelled():
                raise LayerClosed(self._broker)
            task.result()

    def settle_later(self, topic: str) -> None:
        """The same without waiting, for callers who are being cancelled."""
        if not self._needless and not self._agreed(topic):
            self._task(topic)

    async def stop(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._confirmed.clear()

    def _agreed(self, topic: str) -> bool:
        settled = (topic in self._wanted) == (topic in self._confirmed)
        return settled and self._running(topic) is None

    def _task(self, topic: str) -> asyncio.Task[None]:
        task = self._running(topic)
        if task is None:
            task = asyncio.create_task(self._reconcile(topic), name=f"fast_channels {topic}")
            self._tasks[topic] = task
            task.add_done_callback(lambda done: self._finished(topic, done))
        return task

    async def _reconcile(self, topic: str) -> None:
        while (topic in self._wanted) != (topic in self._confirmed):
            if topic in self._wanted:
                await self._broker.subscribe(topic)
                self._confirmed.add(topic)
            else:
                # Forgotten first: if the broker fails here, the next member
                # must ask again and not trust an old answer.
                self._confirmed.discard(topic)
                try:
                    await self._broker.unsubscribe(topic)
                except Exception:
                    # Who has joined meanwhile waits for an answer to that.
                    if topic not in self._wanted:
                        raise

    def _running(self, topic: str) -> asyncio.Task[None] | None:
        # A task that has just ended is listed until the loop's next turn, and
        # would not see what is wanted now.
        task = self._tasks.get(topic)
        return None if task is None or task.done() else task

    def _finished(self, topic: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(topic) is task:
            del self._tasks[topic]
        if not task.cancelled():
            # Marks the exception as seen; whoever waited has got it.
            task.exception()
