"""Workers take messages from shared channels, let consumers handle them, and acknowledge them."""

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

# Seconds to wait before asking a broker again that refused to hand out a message.
REFUSED_PAUSE_SECONDS = 5.0

# Seconds that a cancelled handler may take to end.
CANCEL_TIMEOUT_SECONDS = 1.0


@dataclass
class WorkerStatistics:
    """Counters of a worker since it was made."""

    done: int = 0
    """Messages that were handled: the handler returned."""

    failed: int = 0
    """Messages with a handler that raised: they are redelivered, or dead letters."""

    rejected: int = 0
    """Messages without a handler or rejected by their handler: they are dead letters."""

    requeued: int = 0
    """Messages with an interrupted handler: another worker gets them."""

    in_progress: int = 0
    """Messages that are being handled now."""

    def __str__(self) -> str:
        return (
            f"{self.done} done, {self.failed} failed, {self.rejected} rejected, "
            f"{self.requeued} requeued, {self.in_progress} in progress"
        )


class Worker:
    """
    Runs the consumers of a router for some of its channels.

    Each channel gets `concurrency` consumers. Each consumer handles one message at a time,
    so a concurrency of 1 keeps the order of a channel's messages. The worker acknowledges a
    message when its handler returns. If the handler raises, the message is redelivered (see
    `BaseChannelLayer.take`); a message without a handler goes to the dead letters at once. A
    handler can read in `self.deliveries` how often the message has been delivered.

    Raises UnknownChannel for a channel that is not in the router.
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
        # Seconds that handlers may continue after stop().
        self._drain_timeout = drain_timeout
        # Seconds between two log lines with the counters.
        self._report_interval = report_interval
        self._statistics = WorkerStatistics()
        self._channels = list(dict.fromkeys(channels))
        if not self._channels:
            raise ValueError("a worker needs at least one channel to take messages from")
        self._slots = [
            WorkerSlot(router, channel, layer, self._statistics)
            for channel in self._channels
            for _ in range(concurrency)
        ]
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()

    def statistics(self) -> WorkerStatistics:
        """Return the worker's counters; the object continues to count."""
        return self._statistics

    def stop(self) -> None:
        """
        Take no more messages, finish the ones in progress, and let `run` return.

        Handlers that still run after `drain_timeout` seconds, or when this is called again,
        are cancelled, and their messages are requeued. Call it on the loop of `run`.
        """
        (self._hurrying if self._stopping.is_set() else self._stopping).set()

    async def run(self) -> None:
        """
        Handle messages until `stop` is called. Call it once.

        The worker opens the layer if necessary and waits during outages of the broker. A
        cancelled worker requeues the messages in progress at once. Raises LayerUnavailable if
        the broker does not answer at the start, and MissingCapability if the layer does not
        support acknowledged work.
        """
        async with self._layer, contextlib.AsyncExitStack() as stack:
            for slot in self._slots:
                slot.begin(self._stopping)
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
        return [slot.task for slot in self._slots]

    async def _drain(self) -> None:
        for slot in self._slots:
            if not slot.busy:
                slot.task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout):
                busy = [slot.task for slot in self._slots if slot.busy]
                while busy and not self._hurrying.is_set():
                    await self._first_of(self._hurrying, busy)
                    busy = [task for task in busy if not task.done()]

    async def _end(self) -> None:
        """Cancel the remaining tasks."""
        for task in self._tasks:
            task.cancel()
        _, stuck = await asyncio.wait(self._tasks, timeout=CANCEL_TIMEOUT_SECONDS)
        for task in self._tasks:
            # Marks the exception as retrieved; `run` raises the first one.
            _ = task.done() and (task.cancelled() or task.exception())
        if stuck:
            logger.error("%d handlers do not end although they were cancelled", len(stuck))

    async def _first_of(self, event: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
        """Wait for the event or the end of one of the tasks."""
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


class WorkerSlot:
    """Lets one consumer handle the messages of a channel, one at a time."""

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
        # True while a message is being handled.
        self.busy = False
        # The last exception of the handler. The layer has dealt with it, so the worker goes on.
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
                    continue
                if not isinstance(exc, LayerUnavailable):
                    raise
                # The broker refused, because the layer waits during outages. A refusal may end.
                logger.error("no message from %r: %s", self._channel, exc)  # noqa: TRY400
                await asyncio.sleep(REFUSED_PAUSE_SECONDS)

    async def _do(self, work: Work) -> None:
        counts = self._statistics
        self.busy = True
        counts.in_progress += 1
        try:
            await self._handle(work)
        except asyncio.CancelledError:
            counts.requeued += 1
            raise
        except Exception as exc:
            counts.failed += 1
            logger.exception(
                "the handler of %r failed for message type %r at delivery %d",
                *(self._channel, work.message.get("type"), work.deliveries),
            )
            self._failure = exc
            raise
        else:
            self._count(work)
        finally:
            counts.in_progress -= 1
            self.busy = False

    def _count(self, work: Work) -> None:
        if work.rejection is None:
            self._statistics.done += 1
        else:
            self._statistics.rejected += 1
            logger.error(
                "a message of %r was rejected and is a dead letter: %s",
                self._channel,
                work.rejection,
            )
