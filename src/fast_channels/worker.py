"""Does the work of shared channels: takes messages, lets consumers handle them, acknowledges."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fast_channels.exceptions import LayerUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.work import Work
    from fast_channels.routing import ChannelNameRouter

logger = logging.getLogger("fast_channels.worker")

# Seconds to wait before a broker that refused to hand out work is asked again.
REFUSED_PAUSE = 5.0

# Seconds in which a handler that was cancelled must have ended.
CANCEL_TIMEOUT = 1.0


@dataclass
class WorkerStatistics:
    """What a worker has done since it was made."""

    # Messages whose handler returned.
    done: int = 0
    # Those whose handler raised: they come again, or are dead letters.
    failed: int = 0
    # Those that no handler is there for, and other dead letters of a handler's own.
    rejected: int = 0
    # Those that were interrupted, and went to somebody else.
    given_back: int = 0
    # Those that are being handled now.
    in_hands: int = 0

    def __str__(self) -> str:
        return (
            f"{self.done} done, {self.failed} failed, {self.rejected} rejected, "
            f"{self.given_back} given back, {self.in_hands} in hands"
        )


class Worker:
    """
    Runs the consumers of a router for some of its channels.

    For each channel there are `concurrency` consumers, each handling one
    message at a time; with 1 the messages of a channel are handled in their
    order. A message is acknowledged when its handler has returned. When it
    raised, the message comes again, see `BaseChannelLayer.take`; if there is no
    handler for it, it goes to the dead letters at once. A handler can read in
    `self.deliveries` how often the message has been handed out.

    Raises UnknownChannel for a channel that the router does not know.
    """

    def __init__(
        self,
        router: ChannelNameRouter,
        channels: Iterable[str],
        *,
        layer: BaseChannelLayer,
        concurrency: int = 10,
        drain_timeout: float = 8.0,
        report_interval: float = 60.0,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency!r}; it is a number of at least 1")
        if drain_timeout < 0 or report_interval <= 0:
            raise ValueError(
                f"drain_timeout is {drain_timeout!r} and report_interval {report_interval!r}; "
                "they are seconds, the latter more than zero"
            )
        self._layer = layer
        # Seconds that handlers may go on after stop().
        self._drain_timeout = drain_timeout
        # Seconds between two lines in the log that say how it goes.
        self._report_interval = report_interval
        self._statistics = WorkerStatistics()
        self._channels = list(dict.fromkeys(channels))
        if not self._channels:
            raise ValueError("a worker needs at least one channel to work on")
        self._places = [
            Place(router, channel, layer, self._statistics)
            for channel in self._channels
            for _ in range(concurrency)
        ]
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()

    def statistics(self) -> WorkerStatistics:
        """Return what it has done until now; the object goes on counting."""
        return self._statistics

    def stop(self) -> None:
        """
        Take nothing more, finish what is being handled, and let `run` return.

        What is not finished after `drain_timeout` seconds, or when this is
        called again, is cancelled and given back. To be called on the loop of `run`.
        """
        (self._hurrying if self._stopping.is_set() else self._stopping).set()

    async def run(self) -> None:
        """
        Work until `stop` is called; to be called once.

        Opens the layer if nobody has. Outages of the broker are waited out.
        Cancelling gives back at once what is being handled. Raises
        LayerUnavailable if the broker does not answer at the beginning, and
        MissingCapability if the layer hands out no work.
        """
        async with self._layer, contextlib.AsyncExitStack() as stack:
            for place in self._places:
                place.begin(self._stopping)
            stack.push_async_callback(self._end)
            reporting = asyncio.create_task(self._report())
            stack.callback(reporting.cancel)
            logger.info("working on %s", ", ".join(self._channels))
            await self._first_of(self._stopping, self._tasks)
            for task in self._tasks:
                if task.done():
                    task.result()
            await self._drain()
        logger.info("stopped: %s", self._statistics)

    @property
    def _tasks(self) -> list[asyncio.Task[None]]:
        return [place.task for place in self._places]

    async def _drain(self) -> None:
        for place in self._places:
            if not place.busy:
                place.task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout):
                busy = [place.task for place in self._places if place.busy]
                while busy and not self._hurrying.is_set():
                    await self._first_of(self._hurrying, busy)
                    busy = [task for task in busy if not task.done()]

    async def _end(self) -> None:
        """Cancel whatever still runs."""
        for task in self._tasks:
            task.cancel()
        _, stuck = await asyncio.wait(self._tasks, timeout=CANCEL_TIMEOUT)
        for task in self._tasks:
            # Marks what it raised as seen; the first of them was.
            _ = task.done() and (task.cancelled() or task.exception())
        if stuck:
            logger.error("%d handlers do not end, though they were cancelled", len(stuck))

    async def _first_of(self, event: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
        """Wait for the event, or the end of one of the tasks."""
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def _report(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(self._report_interval)
            if (now := str(self._statistics)) != told:
                logger.info("%s", now)
                told = now


class Place:
    """One consumer at work: one message at a time."""

    def __init__(
        self,
        router: ChannelNameRouter,
        channel: str,
        layer: BaseChannelLayer,
        statistics: WorkerStatistics,
    ) -> None:
        self._application = router.find(channel)
        self._channel = channel
        self._layer = layer
        self._statistics = statistics
        # Whether it has work, rather than waiting for some.
        self.busy = False
        # What the handler has raised last, which is nobody else's business.
        self._failure: Exception | None = None
        self.task: asyncio.Task[None]

    def begin(self, stopping: asyncio.Event) -> None:
        name = f"fast_channels worker {self._channel}"
        self.task = asyncio.create_task(self._run(stopping), name=name)

    async def _run(self, stopping: asyncio.Event) -> None:
        self._handle = self._application.employ(self._channel, self._layer)
        while not stopping.is_set():
            try:
                async with self._layer.take(self._channel) as work:
                    await self._do(work)
            except Exception as exc:
                if exc is self._failure:
                    # The layer has heard of it, and so has the log.
                    continue
                if not isinstance(exc, LayerUnavailable):
                    raise
                # It answers, or the layer would wait; and it may think better of it.
                logger.error("no work from %r: %s", self._channel, exc)  # noqa: TRY400
                await asyncio.sleep(REFUSED_PAUSE)

    async def _do(self, work: Work) -> None:
        counts = self._statistics
        self.busy = True
        counts.in_hands += 1
        try:
            await self._handle(work)
        except asyncio.CancelledError:
            counts.given_back += 1
            raise
        except Exception as exc:
            counts.failed += 1
            logger.exception(
                "the work of %r for %r failed, at delivery %d",
                *(self._channel, work.message.get("type"), work.deliveries),
            )
            self._failure = exc
            raise
        else:
            self._count(work)
        finally:
            counts.in_hands -= 1
            self.busy = False

    def _count(self, work: Work) -> None:
        if work.rejection is None:
            self._statistics.done += 1
        else:
            self._statistics.rejected += 1
            logger.error(
                "work of %r is rejected and a dead letter: %s", self._channel, work.rejection
            )
