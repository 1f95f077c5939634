"""The small helpers of fast_channels.utils."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.exceptions import StopConsumer
from fast_channels.utils import await_many_dispatch, is_same_domain


class TestIsSameDomain:
    @pytest.mark.parametrize(
        ("host", "pattern", "same"),
        [
            ("example.com", "example.com", True),
            ("EXAMPLE.com", "example.COM", True),
            ("www.example.com", "example.com", False),
            ("example.com", ".example.com", True),
            ("www.example.com", ".example.com", True),
            ("a.b.example.com", ".example.com", True),
            ("notexample.com", ".example.com", False),
            ("example.com.evil.example", ".example.com", False),
            ("example.com", "", False),
            ("", "", False),
            ("", "example.com", False),
            ("example.com", ".", False),
        ],
    )
    def test_host_matches_itself_and_below_a_period(self, host, pattern, same):
        """A leading period in the pattern admits subdomains, and the domain itself."""
        assert is_same_domain(host, pattern) is same


class TestAwaitManyDispatch:
    async def test_messages_of_all_sources_are_dispatched_one_at_a_time(self):
        """Messages of one source keep their order."""
        queues = [asyncio.Queue(), asyncio.Queue()]
        for number in range(5):
            queues[0].put_nowait(("a", number))
            queues[1].put_nowait(("b", number))
        seen, running = [], []

        async def dispatch(message):
            assert not running
            running.append(message)
            await asyncio.sleep(0)
            running.clear()
            seen.append(message)
            if len(seen) == 10:
                raise StopConsumer

        with pytest.raises(StopConsumer):
            await await_many_dispatch([queue.get for queue in queues], dispatch)
        for name in "ab":
            assert [n for source, n in seen if source == name] == list(range(5))

    async def test_error_of_a_source_is_raised_and_the_others_are_cancelled(self):
        """No task is left behind."""
        before = asyncio.all_tasks()
        cancelled = []

        async def waiting():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        async def failing():
            await asyncio.sleep(0)
            raise LookupError

        async def dispatch(message):
            pytest.fail("there was no message")

        with pytest.raises(LookupError):
            await await_many_dispatch([waiting, failing], dispatch)
        assert cancelled == [True]
        assert asyncio.all_tasks() == before

    async def test_cancelling_it_cancels_the_sources(self):
        """No task is left behind."""
        before = asyncio.all_tasks()
        queue = asyncio.Queue()

        async def dispatch(message):
            """Handle a message without any effect."""

        task = asyncio.create_task(await_many_dispatch([queue.get, queue.get], dispatch))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == len(before) + 3
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert asyncio.all_tasks() == before
