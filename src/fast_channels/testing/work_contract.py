"""
Guarantees of backends with acknowledged work, as tests. Needs pytest and pytest-asyncio.

Subclass `WorkContract` and provide the fixture `make_layer`, as for `contract.LayerContract`.
It is called with the options `visibility_timeout`, `max_deliveries` and `retry_backoff`, and
with options that every layer has.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from fast_channels.exceptions import ChannelFull, InvalidName

from .contract import SILENCE_SECONDS, TIMEOUT_SECONDS, MakeLayer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.work import Work

# Visibility timeouts: SHORT for tests that hold work for too long (no other worker asks for it
# meanwhile, so it may be short), and LONG for tests in which work must not be redelivered.
SHORT, LONG = 0.1, 60.0

# Pauses in seconds after failures.
BACKOFF = (0.05, 0.1)

# Number of moments to cancel at.
ROUNDS = 30


class Broken(Exception):
    """The exception of the handlers in these tests."""


@contextlib.asynccontextmanager
async def taken(layer: BaseChannelLayer, name: str) -> AsyncGenerator[Work]:
    """Take work; fail if none comes."""
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            work = await stack.enter_async_context(layer.take(name))
        yield work


async def number_of(layer: BaseChannelLayer, name: str) -> int:
    """Take the next work and acknowledge it; return its number."""
    async with taken(layer, name) as work:
        return int(work.message["n"])


async def is_idle(layer: BaseChannelLayer, name: str) -> bool:
    """Return whether no work comes for a while."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS), layer.take(name):
            return False
    except TimeoutError:
        return True


async def fails(layer: BaseChannelLayer, name: str) -> int:
    """Take the next work and raise Broken; return which delivery it was."""
    deliveries = 0
    with contextlib.suppress(Broken):
        async with taken(layer, name) as work:
            deliveries = work.deliveries
            raise Broken("it does not work")
    return deliveries


def task(number: int) -> dict[str, Any]:
    return {"type": "work.task", "n": number}


class WorkContract:
    """The guarantees of a backend with acknowledged work."""

    @pytest.fixture
    async def layer(self, make_layer: MakeLayer) -> BaseChannelLayer:
        return await make_layer(visibility_timeout=LONG, retry_backoff=BACKOFF)

    @pytest.fixture
    async def hasty(self, make_layer: MakeLayer) -> BaseChannelLayer:
        """A layer with a short visibility timeout."""
        return await make_layer(visibility_timeout=SHORT, retry_backoff=BACKOFF, max_deliveries=2)

    @pytest.fixture
    async def hasty_peer(self, hasty: BaseChannelLayer, make_layer: MakeLayer) -> BaseChannelLayer:
        """Another process of the same kind, as far as the backend can tell."""
        return await make_layer(visibility_timeout=SHORT, retry_backoff=BACKOFF, max_deliveries=2)

    async def test_work_is_handed_out_in_the_order_it_was_sent(
        self, layer: BaseChannelLayer
    ) -> None:
        """Work comes one by one, unchanged and with a delivery count of 1."""
        for number in range(3):
            await layer.send("work", task(number))
        await layer.send_many("work", map(task, range(3, 6)))
        for number in range(6):
            async with taken(layer, "work") as work:
                assert (work.message, work.deliveries) == (task(number), 1)

    async def test_worker_that_waits_gets_work_at_once(self, layer: BaseChannelLayer) -> None:
        """The worker that waits longest comes first."""
        first = asyncio.create_task(number_of(layer, "work"))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(number_of(layer, "work"))
        await asyncio.sleep(0.01)
        await layer.send_many("work", [task(1), task(2)])
        assert [await first, await second] == [1, 2]

    async def test_acknowledged_work_is_gone(self, hasty: BaseChannelLayer) -> None:
        """The work is not redelivered, even after the visibility timeout."""
        await hasty.send("work", task(1))
        assert await number_of(hasty, "work") == 1
        await asyncio.sleep(SHORT)
        assert await is_idle(hasty, "work")

    async def test_work_in_hands_is_nobody_elses(self, layer: BaseChannelLayer) -> None:
        """Two workers that take at the same time get two messages."""
        await layer.send_many("work", [task(1), task(2)])
        async with taken(layer, "work") as one, taken(layer, "work") as other:
            assert [one.message["n"], other.message["n"]] == [1, 2]
            assert await is_idle(layer, "work")

    async def test_work_of_a_worker_that_is_gone_goes_to_another(
        self, hasty: BaseChannelLayer, hasty_peer: BaseChannelLayer
    ) -> None:
        """
        The redelivery after the visibility timeout counts; a late acknowledgement changes
        nothing.
        """
        await hasty.send("work", task(1))
        async with taken(hasty, "work"), taken(hasty_peer, "work") as again:
            assert (again.message, again.deliveries) == (task(1), 2)
        assert await hasty.dead_letters("work") == []

    async def test_late_acknowledgement_does_not_remove_what_another_has(
        self, hasty: BaseChannelLayer, hasty_peer: BaseChannelLayer
    ) -> None:
        """The other worker's failure counts, because the work is not done until it says so."""
        await hasty.send("work", task(1))
        with contextlib.suppress(Broken):
            async with contextlib.AsyncExitStack() as other:
                async with taken(hasty, "work"):
                    await other.enter_async_context(taken(hasty_peer, "work"))
                raise Broken("the second one fails")
        letters = await hasty.dead_letters("work")
        assert [letter.reason for letter in letters] == ["Broken: the second one fails"]

    async def test_work_that_nobody_survives_is_dead(self, hasty: BaseChannelLayer) -> None:
        """After `max_deliveries` the work is not redelivered, and the reason says why."""
        await hasty.send("work", task(1))
        async with taken(hasty, "work"), taken(hasty, "work") as again:
            assert again.deliveries == 2
            await asyncio.sleep(SHORT)
            assert await is_idle(hasty, "work")
            (letter,) = await hasty.dead_letters("work")
            assert (letter.message, letter.deliveries) == (task(1), 2)
            assert letter.reason == "its worker died or hung: it was not acknowledged within 0.1 s"
        assert len(await hasty.dead_letters("work")) == 1

    async def test_work_that_failed_is_tried_again_after_a_pause(
        self, make_layer: MakeLayer
    ) -> None:
        """Each delivery is counted."""
        layer = await make_layer(retry_backoff=(0.5, 1.0))
        await layer.send("work", task(1))
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await fails(layer, "work") == 1
        async with taken(layer, "work") as work:
            assert (work.message, work.deliveries) == (task(1), 2)
        # The clock that measures the pause may be less exact than this one.
        assert loop.time() - began > 0.45

    async def test_others_come_while_work_that_failed_pauses(self, make_layer: MakeLayer) -> None:
        """The failed work does not delay later messages."""
        layer = await make_layer(retry_backoff=(LONG, LONG))
        await layer.send_many("work", [task(1), task(2)])
        assert await fails(layer, "work") == 1
        assert await number_of(layer, "work") == 2
        assert await is_idle(layer, "work")

    async def test_error_goes_on_to_whoever_took_the_work(self, layer: BaseChannelLayer) -> None:
        """The caller gets the exception; the layer keeps only the work."""
        await layer.send("work", task(1))
        with pytest.raises(Broken):
            async with taken(layer, "work"):
                raise Broken

    async def test_work_that_fails_too_often_is_dead_with_the_last_reason(
        self, make_layer: MakeLayer
    ) -> None:
        """The number of deliveries is `max_deliveries`."""
        layer = await make_layer(max_deliveries=3, retry_backoff=BACKOFF)
        await layer.send("work", task(1))
        assert [await fails(layer, "work") for _ in range(3)] == [1, 2, 3]
        (letter,) = await layer.dead_letters("work")
        assert (letter.message, letter.deliveries) == (task(1), 3)
        assert letter.reason == "Broken: it does not work"
        assert await is_idle(layer, "work")

    async def test_dead_letters_can_be_tried_again(self, make_layer: MakeLayer) -> None:
        """The oldest come first, behind the waiting messages, with a new delivery count."""
        layer = await make_layer(max_deliveries=1, capacity=3)
        await layer.send_many("work", map(task, range(3)))
        for _ in range(3):
            await fails(layer, "work")
        await layer.send("work", task(3))
        assert [letter.message for letter in await layer.dead_letters("work", limit=2)] == [
            task(0),
            task(1),
        ]
        # The capacity leaves space for two next to the waiting message.
        assert await layer.retry_dead_letters("work") == 2
        assert [await number_of(layer, "work") for _ in range(2)] == [3, 0]
        async with taken(layer, "work") as work:
            assert (work.message, work.deliveries) == (task(1), 1)
        assert [letter.message for letter in await layer.dead_letters("work")] == [task(2)]
        assert await layer.retry_dead_letters("work", limit=1) == 1
        assert await layer.dead_letters("work") == []

    async def test_rejected_work_is_dead_at_once(self, layer: BaseChannelLayer) -> None:
        """The work is not retried, and the letter has the given reason."""
        await layer.send("work", task(1))
        async with taken(layer, "work") as work:
            work.reject("nobody knows how")
        (letter,) = await layer.dead_letters("work")
        assert (letter.message, letter.reason, letter.deliveries) == (
            task(1),
            "nobody knows how",
            1,
        )

    async def test_cancelled_work_goes_to_another_at_once(self, layer: BaseChannelLayer) -> None:
        """The work comes before later messages, and the delivery does not count."""
        await layer.send_many("work", map(task, range(5)))
        begun = asyncio.Event()

        async def work() -> None:
            async with taken(layer, "work"), taken(layer, "work"):
                begun.set()
                await asyncio.Event().wait()

        worker = asyncio.create_task(work())
        await begun.wait()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        for number in range(5):
            async with taken(layer, "work") as again:
                assert (again.message, again.deliveries) == (task(number), 1)

    async def test_cancelled_wait_loses_nothing(self, layer: BaseChannelLayer) -> None:
        """The cancellation may come at any moment, even when work is in transit."""
        done: list[int] = []

        async def work() -> None:
            async with taken(layer, "work") as work:
                # Work that reaches this line is done, because no await follows.
                done.append(work.message["n"])

        for moment in range(ROUNDS):
            worker = asyncio.create_task(work())
            await asyncio.sleep(0)
            await layer.send("work", task(moment))
            # Some rounds yield to the loop; others leave time for an answer.
            for _ in range(moment):
                await asyncio.sleep(0 if moment % 2 else 0.0001)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            if moment not in done:
                async with taken(layer, "work") as again:
                    assert (again.message, again.deliveries) == (task(moment), 1)
                    done.append(moment)
        assert done == list(range(ROUNDS))
        assert await is_idle(layer, "work")
        assert await layer.dead_letters("work") == []

    async def test_work_in_hands_takes_room(self, make_layer: MakeLayer) -> None:
        """The capacity includes all messages that are not done; the first messages are kept."""
        layer = await make_layer(capacity=3, retry_backoff=(LONG, LONG))
        with pytest.raises(ChannelFull) as full:
            await layer.send_many("work", map(task, range(5)))
        assert full.value.accepted == 3
        assert await fails(layer, "work") == 1
        async with taken(layer, "work") as work:
            assert work.message == task(1)
            with pytest.raises(ChannelFull):
                await layer.send("work", task(5))
        await layer.send("work", task(6))
        assert [await number_of(layer, "work") for _ in range(2)] == [2, 6]

    async def test_received_message_is_acknowledged(self, make_layer: MakeLayer) -> None:
        """receive() takes and acknowledges in one step."""
        layer = await make_layer(capacity=1, visibility_timeout=SHORT, retry_backoff=BACKOFF)
        await layer.send("work", task(1))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert await layer.receive("work") == task(1)
            # The message counts until it is acknowledged, and the acknowledgement is not
            # awaited.
            while True:
                with contextlib.suppress(ChannelFull):
                    await layer.send("work", task(2))
                    break
                await asyncio.sleep(0.005)
        await asyncio.sleep(SHORT)
        assert await number_of(layer, "work") == 2
        assert await is_idle(layer, "work")

    async def test_several_workers_do_each_message_once(self, layer: BaseChannelLayer) -> None:
        """No message is left out, and none is done twice while all workers live."""
        done: list[int] = []

        async def work() -> None:
            while True:
                done.append(await number_of(layer, "work"))

        workers = [asyncio.create_task(work()) for _ in range(5)]
        for start in range(0, 200, 50):
            await layer.send_many("work", map(task, range(start, start + 50)))
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while len(done) < start + 50:
                    await asyncio.sleep(0.005)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert sorted(done) == list(range(200))

    async def test_another_loop_may_take_work(self, layer: BaseChannelLayer) -> None:
        """The layer sees acknowledgements and failures from the other loop."""
        await layer.send_many("work", [task(1), task(2)])

        async def elsewhere() -> list[int]:
            with contextlib.suppress(Broken):
                async with taken(layer, "work"):
                    raise Broken
            return [await number_of(layer, "work"), await number_of(layer, "work")]

        # The pause after the failure may be over when the second message is taken.
        assert sorted(await asyncio.to_thread(asyncio.run, elsewhere())) == [1, 2]
        assert await is_idle(layer, "work")

    async def test_channel_of_one_process_holds_no_work(self, layer: BaseChannelLayer) -> None:
        """The channel of one process is received from, not taken from."""
        with pytest.raises(InvalidName, match="belongs to one process"):
            await layer.dead_letters(await layer.new_channel())

    async def test_flush_forgets_work(self, layer: BaseChannelLayer) -> None:
        """Waiting, leased and dead messages are deleted."""
        await layer.send_many("work", map(task, range(3)))
        async with taken(layer, "work") as work:
            work.reject("dead")
        async with taken(layer, "work"):
            await layer.flush()
        assert await layer.dead_letters("work") == []
        assert await is_idle(layer, "work")
