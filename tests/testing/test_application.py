"""Tests drive any ASGI application with ApplicationCommunicator."""

from __future__ import annotations

import asyncio
import time

import pytest

from fast_channels.testing import ApplicationCommunicator

SCOPE = {"type": "test"}


async def echo(scope, receive, send):
    """Send back every event, until one of the type `end`."""
    while (event := await receive())["type"] != "end":
        await send(event)


async def silent(scope, receive, send):
    await asyncio.Event().wait()


def saying(*events, then: Exception | None = None):
    """Return an application that sends these events, and ends or fails."""

    async def application(scope, receive, send):
        for event in events:
            await send(event)
        if then is not None:
            raise then

    return application


class Stubborn:
    """An application that needs a few turns to end when it is cancelled."""

    def __init__(self) -> None:
        self.cleaned_up = False

    async def __call__(self, scope, receive, send):
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            self.cleaned_up = True


class TestEvents:
    async def test_application_gets_the_scope_and_the_events_in_order(self):
        """The application's own events come out in order."""
        scopes = []

        async def application(scope, receive, send):
            scopes.append(scope)
            await echo(scope, receive, send)

        communicator = ApplicationCommunicator(application, SCOPE)
        for number in range(3):
            await communicator.send_input({"type": "event", "n": number})
        received = [await communicator.receive_output() for _ in range(3)]
        assert [event["n"] for event in received] == [0, 1, 2]
        assert scopes == [SCOPE]
        await communicator.send_input({"type": "end"})
        await communicator.wait()

    async def test_application_starts_with_the_first_use(self):
        """Before that, no task exists: a communicator may be made without a running loop."""
        started = []

        async def application(scope, receive, send):
            started.append(True)

        communicator = ApplicationCommunicator(application, SCOPE)
        await asyncio.sleep(0)
        assert started == []
        await communicator.wait()
        assert started == [True]

    def test_communicator_can_be_made_without_a_loop(self):
        """A fixture may be sync."""
        assert ApplicationCommunicator(echo, SCOPE).scope == SCOPE

    async def test_future_is_the_task_of_the_application(self):
        """The future is always the same object."""
        communicator = ApplicationCommunicator(echo, SCOPE)
        assert communicator.future is communicator.future
        assert not communicator.future.done()
        await communicator.send_input({"type": "end"})
        await communicator.wait()
        assert communicator.future.done()

    async def test_event_that_comes_later_is_waited_for(self):
        """receive_output() may be called first."""
        communicator = ApplicationCommunicator(echo, SCOPE)
        receiving = asyncio.create_task(communicator.receive_output())
        await asyncio.sleep(0)
        await communicator.send_input({"type": "event"})
        assert await receiving == {"type": "event"}
        communicator.stop()


class TestFailures:
    """Exceptions of the application come out of the communicator."""

    async def test_error_comes_out_of_receive_output(self):
        """The error keeps its type and text."""
        communicator = ApplicationCommunicator(saying(then=LookupError("no shelf")), SCOPE)
        with pytest.raises(LookupError, match="no shelf"):
            await communicator.receive_output()

    async def test_error_comes_out_of_wait(self):
        """The error keeps its type and text."""
        communicator = ApplicationCommunicator(saying(then=LookupError("no shelf")), SCOPE)
        with pytest.raises(LookupError, match="no shelf"):
            await communicator.wait()

    async def test_error_comes_out_of_receive_nothing(self):
        """An application that failed does not count as silent."""
        communicator = ApplicationCommunicator(saying(then=LookupError("no shelf")), SCOPE)
        with pytest.raises(LookupError, match="no shelf"):
            await communicator.receive_nothing()

    async def test_outputs_before_the_failure_are_delivered_first(self):
        """Outputs come in order, even if the application has failed before the first read."""
        events = [{"type": "one"}, {"type": "two"}, {"type": "three"}]
        communicator = ApplicationCommunicator(saying(*events, then=LookupError()), SCOPE)
        await asyncio.wait([communicator.future])
        for event in events:
            assert await communicator.receive_output() == event
        with pytest.raises(LookupError):
            await communicator.receive_output()

    async def test_outputs_before_the_failure_are_delivered_to_who_waits(self):
        """The last event and the failure may come in the same turn."""
        communicator = ApplicationCommunicator(saying({"type": "one"}, then=LookupError()), SCOPE)
        assert await communicator.receive_output() == {"type": "one"}
        with pytest.raises(LookupError):
            await communicator.receive_output()

    async def test_end_without_an_output_raises_a_sentence(self):
        """A waiting test learns at once that no output will come."""
        communicator = ApplicationCommunicator(saying(), SCOPE)
        with pytest.raises(RuntimeError, match="ended without sending anything more"):
            await communicator.receive_output(timeout=60)


class TestTimeouts:
    """Timeouts are in seconds; after a timeout the application is cancelled and has ended."""

    async def test_receive_output_raises_and_cancels(self):
        """The error says how long it waited."""
        application = Stubborn()
        communicator = ApplicationCommunicator(application, SCOPE)
        with pytest.raises(TimeoutError, match=r"sent nothing within 0\.01 s"):
            await communicator.receive_output(timeout=0.01)
        assert communicator.future.cancelled()
        assert application.cleaned_up

    async def test_wait_raises_and_cancels(self):
        """The error says how long it waited."""
        application = Stubborn()
        communicator = ApplicationCommunicator(application, SCOPE)
        with pytest.raises(TimeoutError, match=r"still runs after 0\.01 s"):
            await communicator.wait(timeout=0.01)
        assert communicator.future.cancelled()
        assert application.cleaned_up

    @pytest.mark.parametrize("wait", ["receive_output", "wait"])
    async def test_standstill_of_the_process_is_not_time_for_the_application(self, wait):
        """The application could do nothing meanwhile, and keeps most of its time."""

        async def application(scope, receive, send):
            # The case under test: the loop is blocked for longer than the timeout.
            time.sleep(1.2)  # noqa: ASYNC251 - no await would stop the loop
            await asyncio.sleep(0.01)
            await send({"type": "event"})

        communicator = ApplicationCommunicator(application, SCOPE)
        await getattr(communicator, wait)(timeout=1)

    async def test_none_is_no_timeout(self):
        """None waits without limit, as elsewhere in asyncio."""

        async def application(scope, receive, send):
            await asyncio.sleep(0.05)
            await send({"type": "event"})

        communicator = ApplicationCommunicator(application, SCOPE)
        assert await communicator.receive_output(timeout=None) == {"type": "event"}
        await communicator.wait(timeout=None)

    async def test_no_task_is_left_by_a_timeout(self):
        """Python prints no warning about one."""
        before = asyncio.all_tasks()
        communicator = ApplicationCommunicator(silent, SCOPE)
        with pytest.raises(TimeoutError):
            await communicator.receive_output(timeout=0.01)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    async def test_nothing_is_lost_by_a_timeout_that_does_not_pass(self):
        """A wait that ends in time keeps the next event."""
        communicator = ApplicationCommunicator(echo, SCOPE)
        for number in range(20):
            receiving = asyncio.create_task(communicator.receive_output(timeout=5))
            await asyncio.sleep(0)
            await communicator.send_input({"type": "event", "n": number})
            assert (await receiving)["n"] == number
        communicator.stop()


class TestReceiveNothing:
    async def test_silence_is_true(self):
        """The application continues."""
        communicator = ApplicationCommunicator(echo, SCOPE)
        assert await communicator.receive_nothing(timeout=0.02)
        await communicator.send_input({"type": "event"})
        assert await communicator.receive_output() == {"type": "event"}
        communicator.stop()

    async def test_output_that_waits_is_false_and_kept(self):
        """A look at the queue takes nothing from it."""
        communicator = ApplicationCommunicator(saying({"type": "one"}), SCOPE)
        await asyncio.wait([communicator.future])
        assert not await communicator.receive_nothing()
        assert await communicator.receive_output() == {"type": "one"}

    async def test_output_that_comes_meanwhile_is_false(self):
        """receive_nothing() returns before its time is over."""
        communicator = ApplicationCommunicator(saying({"type": "one"}), SCOPE)
        async with asyncio.timeout(5):
            assert not await communicator.receive_nothing(timeout=60)

    async def test_end_is_true_at_once(self):
        """An application that has ended sends nothing."""
        communicator = ApplicationCommunicator(saying(), SCOPE)
        async with asyncio.timeout(5):
            assert await communicator.receive_nothing(timeout=60)


class TestStop:
    async def test_stop_cancels(self):
        """stop() does not wait; the application cleans up by itself."""
        application = Stubborn()
        communicator = ApplicationCommunicator(application, SCOPE)
        assert not communicator.future.done()
        await asyncio.sleep(0)
        communicator.stop()
        await asyncio.wait([communicator.future])
        assert application.cleaned_up

    async def test_stop_raises_what_the_application_raised(self):
        """stop() can be asked not to raise."""
        communicator = ApplicationCommunicator(saying(then=LookupError()), SCOPE)
        await asyncio.wait([communicator.future])
        with pytest.raises(LookupError):
            communicator.stop()
        communicator.stop(exceptions=False)

    def test_stop_before_the_first_use_is_fine(self):
        """stop() has no task to cancel, and starts none."""
        ApplicationCommunicator(silent, SCOPE).stop()

    async def test_stop_twice_is_fine(self):
        """The application may even have ended."""
        communicator = ApplicationCommunicator(saying(), SCOPE)
        await communicator.wait()
        communicator.stop()
        communicator.stop()

    async def test_wait_after_stop_returns(self):
        """A requested cancellation is not a failure."""
        communicator = ApplicationCommunicator(silent, SCOPE)
        assert not communicator.future.done()
        communicator.stop()
        await communicator.wait()
