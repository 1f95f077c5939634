"""
Memberships of this process's channels, and the subscriptions that they need at the broker.

`Membership` lets a channel join a topic and waits until the broker confirms. `Subscriptions`
lets the broker deliver the topics that the hub wants, and no others.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fast_channels.exceptions import LayerClosed

from .broker import Unfiltered

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from .broker import Broker
    from .hub import Hub


class UnconfirmedMembership:
    """A membership that the broker has not confirmed."""

    def __init__(self) -> None:
        self.calls = 0
        """Calls that wait for the broker. Cancelling one must not end it for the others."""


class Membership:
    """Joining and leaving topics in one session of a layer."""

    def __init__(self, hub: Hub, broker: Broker) -> None:
        self._hub = hub
        self._subscriptions = Subscriptions(hub, broker)
        # By topic and channel.
        self._unconfirmed: dict[tuple[str, str], UnconfirmedMembership] = {}

    async def join(self, topic: str, channel: str) -> bool:
        """
        Let a channel receive a topic; return whether it did not before.

        Returns once the broker has confirmed. If every call that waits for that fails or is
        cancelled, the channel is not a member.
        """
        # Join first: a message that arrives between the broker's answer and our own bookkeeping
        # would otherwise reach no member.
        new = self._hub.join(topic, channel)
        if new:
            self._unconfirmed[topic, channel] = UnconfirmedMembership()
        membership = self._unconfirmed.get((topic, channel))
        if membership is None:
            # Confirmed before: the channel stays a member even if this call fails.
            await self.settle([topic])
            return new
        membership.calls += 1
        try:
            await self.settle([topic])
        except BaseException:
            membership.calls -= 1
            if not membership.calls and self._unconfirmed.get((topic, channel)) is membership:
                self.leave(topic, channel)
            raise
        if self._unconfirmed.get((topic, channel)) is membership:
            self.confirm(topic, channel)
        return new

    def confirm(self, topic: str, channel: str) -> None:
        """Keep a membership even if every call that still waits for it fails."""
        self._unconfirmed.pop((topic, channel), None)

    def leave(self, topic: str, channel: str) -> bool:
        """
        End a membership, confirmed or not, without waiting for the broker.

        Returns whether it was the last one of the topic.
        """
        self._unconfirmed.pop((topic, channel), None)
        emptied = self._hub.leave(topic, channel)
        if emptied:
            self.settle_later(topic)
        return emptied

    async def settle(self, topics: Iterable[str]) -> None:
        """Return once the broker agrees with the hub about each topic; see Subscriptions."""
        await self._subscriptions.settle(topics)

    def settle_later(self, topic: str) -> None:
        """Bring the broker in line about a topic without waiting for its answer."""
        self._subscriptions.settle_later(topic)

    def __len__(self) -> int:
        """Return how many subscriptions the broker has confirmed."""
        return len(self._subscriptions)

    async def stop(self) -> None:
        self._unconfirmed.clear()
        await self._subscriptions.stop()


class Subscriptions:
    """
    One reconciler per topic, so that a slow answer about one topic delays no other.

    The wanted state is read from the hub in every step and not queued: joining and leaving
    while an answer is under way ends in the state wanted last.
    """

    def __init__(self, wanted: Container[str], broker: Broker) -> None:
        # Topics that have members; the hub changes it at any time.
        self._wanted = wanted
        self._broker = broker
        # True if the broker delivers every topic, so that it is never asked to.
        self._needless = isinstance(broker, Unfiltered) and broker.delivers_everything
        # Topics that the broker has confirmed.
        self._confirmed: set[str] = set()
        # The task that reconciles a topic, while there is one.
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._confirmed)

    async def settle(self, topics: Iterable[str]) -> None:
        """
        Return once the broker agrees with the hub about each of `topics`.

        Cancelling stops the waiting, not the work. Raises the broker's error, or LayerClosed.
        """
        if self._needless:
            return
        waiting = [self._task(topic) for topic in topics if not self._agreed(topic)]
        if not waiting:
            return
        # asyncio.wait, unlike gather, does not cancel the tasks when it is cancelled: other
        # calls may wait for the same answer.
        await asyncio.wait(waiting)
        for task in waiting:
            if task.cancelled():
                raise LayerClosed(self._broker)
            task.result()

    def settle_later(self, topic: str) -> None:
        """Bring the broker in line without waiting, for callers that are being cancelled."""
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
                # Forget it first: if the broker fails here, the next member must ask again
                # and not trust an old answer.
                self._confirmed.discard(topic)
                try:
                    await self._broker.unsubscribe(topic)
                except Exception:
                    # A channel that has joined meanwhile needs an answer to its own question.
                    if topic not in self._wanted:
                        raise

    def _running(self, topic: str) -> asyncio.Task[None] | None:
        # A task that has just ended is listed until the loop's next turn, and would not see
        # the state wanted now.
        task = self._tasks.get(topic)
        return None if task is None or task.done() else task

    def _finished(self, topic: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(topic) is task:
            del self._tasks[topic]
        if not task.cancelled():
            # Mark the exception as seen; the calls that waited have got it.
            task.exception()
