"""Work that a worker does within the test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from chat import router
from conftest import Join

from fast_channels import (
    AsyncConsumer,
    BaseChannelLayer,
    ChannelNameRouter,
    InMemoryChannelLayer,
    Worker,
)


@contextlib.asynccontextmanager
async def working(router: ChannelNameRouter, layer: BaseChannelLayer) -> AsyncIterator[Worker]:
    """Run a worker; at the end of the block it finishes its work and stops."""
    worker = Worker(router, ["reports"], layer=layer)
    running = asyncio.create_task(worker.run())
    yield worker
    worker.stop()
    await running


async def test_report_is_made_and_told(join: Join, layer: BaseChannelLayer) -> None:
    """The message goes from the consumer to the worker, and the answer to the group."""
    ann = await join("/ws/room/lobby?token=token-of-ann")
    async with working(router, layer) as worker:
        await ann.send_json_to({"report": True})
        assert await ann.receive_json_from() == {"who": "reports", "text": "ready"}
    assert worker.statistics().done == 1


async def test_consumer_asks_for_a_report(join: Join, layer: BaseChannelLayer) -> None:
    """Without a worker, the test takes the work itself and compares it."""
    ann = await join("/ws/room/lobby?token=token-of-ann")
    await ann.send_json_to({"report": True})
    async with asyncio.timeout(5), layer.take("reports") as work:
        assert work.message == {"type": "report.make", "group": "room.lobby"}


class Failing(AsyncConsumer):
    """A consumer that fails, and sets an event the second time."""

    def __init__(self, second: asyncio.Event) -> None:
        self.second = second

    async def report_make(self, message: Any) -> None:
        if self.deliveries == 2:
            self.second.set()
        raise ValueError("no paper")


async def test_work_that_fails_twice_is_a_dead_letter() -> None:
    """The layer retries after 0.01 s instead of 1 s, and after two failures instead of five."""
    second = asyncio.Event()
    failing = ChannelNameRouter({"reports": Failing.as_asgi(second=second)})
    async with InMemoryChannelLayer(retry_backoff=(0.01, 0.01), max_deliveries=2) as layer:
        await layer.send("reports", {"type": "report.make"})
        async with working(failing, layer), asyncio.timeout(5):
            await second.wait()
        (dead,) = await layer.dead_letters("reports")
        assert (dead.reason, dead.deliveries) == ("ValueError: no paper", 2)
