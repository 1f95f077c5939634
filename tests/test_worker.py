"""How workers handle messages, and how a worker ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from fast_channels.consumer import AsyncConsumer, AsyncWebsocketConsumer
from fast_channels.exceptions import (
    ConsumerStateError,
    InvalidName,
    InvalidRouter,
    MissingCapability,
    StopConsumer,
    UnknownChannel,
)
from fast_channels.layers import InMemoryChannelLayer, RedisPubSubChannelLayer
from fast_channels.routing import ChannelNameRouter
from fast_channels.testing import inspect
from fast_channels.worker import Worker

PATIENCE = 5.0


class Probe:
    """The behavior that a test asks of its consumers, and a record of their calls."""

    def __init__(self):
        self.seen = []
        self.errors = []
        self.consumers = set()
        # Handlers of "slow" wait for `go_on`; `begun` is set when one does.
        self.go_on = asyncio.Event()
        self.begun = asyncio.Event()


class Unspeakable(Exception):
    """The text of this error cannot be read: its own str() raises."""

    def __str__(self):
        return self.detail


class Handyman(AsyncConsumer):
    """Has a handler for every case of these tests."""

    def __init__(self, probe):
        self.probe = probe

    async def count(self, message):
        self.probe.consumers.add(self)
        self.probe.seen.append((message["n"], self.deliveries))

    async def fail(self, message):
        self.probe.seen.append(("failed", self.deliveries))
        raise ValueError("no such file")

    async def fail_badly(self, message):
        raise Unspeakable

    async def slow(self, message):
        self.probe.begun.set()
        await self.probe.go_on.wait()
        self.probe.seen.append(("slow", self.deliveries))

    async def stop(self, message):
        raise StopConsumer

    async def answer(self, message):
        await self.send({"type": "websocket.send", "text": "?"})

    async def cancelled(self, message):
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    async def where(self, message):
        assert self.channel_layer is not None
        self.probe.seen.append((dict(self.scope), self.channel_name))

    async def on_error(self, exc, message):
        if not isinstance(exc, Unspeakable):
            self.probe.errors.append((str(exc), message["type"]))


@pytest.fixture
async def layer():
    async with InMemoryChannelLayer(retry_backoff=(0.01, 0.02), max_deliveries=2) as layer:
        yield layer


@pytest.fixture
async def probe():
    return Probe()


@pytest.fixture
def router(probe):
    return ChannelNameRouter(
        {"work": Handyman.as_asgi(probe=probe), "more": Handyman.as_asgi(probe=probe)}
    )


@pytest.fixture
async def start(layer, router):
    """Start workers, and stop them after the test."""
    async with contextlib.AsyncExitStack() as stack:

        def start(*channels, **options):
            worker = Worker(router, channels or ["work"], layer=layer, **options)
            running = asyncio.create_task(worker.run())

            async def end():
                worker.stop()
                worker.stop()
                await asyncio.gather(running, return_exceptions=True)

            stack.push_async_callback(end)
            return worker, running

        yield start


async def becomes(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_messages_reach_the_handler_of_their_type(layer, probe, start):
    """Each place of a worker has a consumer that knows its channel, its layer and the delivery."""
    worker, _ = start("work", "more", concurrency=2)
    for n in range(10):
        await layer.send("work", {"type": "count", "n": n})
    await layer.send("more", {"type": "where"})
    await becomes(lambda: worker.statistics().done == 11)
    assert ({"type": "channel", "channel": "more"}, "more") in probe.seen
    assert sorted(entry for entry in probe.seen if isinstance(entry[0], int)) == [
        (n, 1) for n in range(10)
    ]
    assert len(probe.consumers) <= 2


async def test_one_at_a_time_is_in_order(layer, probe, start):
    """A concurrency of 1 keeps the order."""
    await layer.send_many("work", [{"type": "count", "n": n} for n in range(20)])
    start(concurrency=1)
    await becomes(lambda: len(probe.seen) == 20)
    assert [n for n, _ in probe.seen] == list(range(20))


async def test_handler_that_raises_is_tried_again_and_then_dead(layer, probe, start, caplog):
    """The hook and the log get each failure, and other messages are handled meanwhile."""
    worker, _ = start(concurrency=1)
    await layer.send_many("work", [{"type": "fail"}, {"type": "count", "n": 1}])
    await becomes(lambda: worker.statistics().failed == 2)
    await becomes(lambda: worker.statistics().done == 1)
    assert [entry for entry in probe.seen if entry[0] == "failed"] == [
        ("failed", 1),
        ("failed", 2),
    ]
    assert probe.errors == [("no such file", "fail")] * 2
    (letter,) = await layer.dead_letters("work")
    assert (letter.reason, letter.deliveries) == ("ValueError: no such file", 2)
    assert "failed for message type 'fail' at delivery 2" in caplog.text


async def test_error_that_cannot_be_told_is_a_failure_like_others(layer, start):
    """Even a message with such an error is retried, then dead; the worker continues."""
    worker, _ = start(concurrency=1)
    await layer.send_many("work", [{"type": "fail.badly"}, {"type": "count", "n": 1}])
    await becomes(lambda: worker.statistics().failed == 2)
    await becomes(lambda: worker.statistics().done == 1)
    (letter,) = await layer.dead_letters("work")
    assert letter.reason == "Unspeakable: (without a text: its own str() raises)"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"type": "unheard.of"}, "Handyman has no handler for message type 'unheard.of'"),
        ({"type": "dispatch"}, "Handyman keeps for itself the message type 'dispatch'"),
        ({"no": "type"}, "Handyman skipped the unusable message type None"),
    ],
)
async def test_message_without_a_handler_is_a_dead_letter_at_once(layer, start, message, reason):
    """Waiting would not give the consumer a handler."""
    worker, _ = start()
    await layer.send("work", message)
    await becomes(lambda: worker.statistics().rejected == 1)
    (letter,) = await layer.dead_letters("work")
    assert (letter.message, letter.reason, letter.deliveries) == (message, reason, 1)


async def test_payload_that_is_no_message_is_a_dead_letter(layer, probe, start):
    """The worker handles the next message."""
    worker, _ = start()
    await inspect.broker(layer).push("work", b"\xc1", 100)
    await layer.send("work", {"type": "count", "n": 1})
    await becomes(lambda: worker.statistics().done == 1)
    (letter,) = await layer.dead_letters("work")
    assert letter.message is None
    assert letter.reason.startswith("undecodable")


async def test_stop_consumer_in_a_handler_is_the_end_of_its_message(layer, start):
    """The worker continues."""
    worker, _ = start(concurrency=1)
    await layer.send_many("work", [{"type": "stop"}, {"type": "count", "n": 1}])
    await becomes(lambda: worker.statistics().done == 2)


async def test_consumer_has_no_client_to_send_to(layer, probe, start):
    """The error says how to reach a client instead."""
    worker, _ = start()
    await layer.send("work", {"type": "answer"})
    await becomes(lambda: worker.statistics().failed == 2)
    assert "has no client" in probe.errors[0][0]


async def test_handler_that_awaits_what_was_cancelled_has_failed(layer, probe, start):
    """The worker does not mistake it for its own cancellation."""
    worker, _ = start()
    await layer.send("work", {"type": "cancelled"})
    await becomes(lambda: worker.statistics().failed == 2)
    assert probe.errors[0][0] == "a handler awaited a task that was cancelled"


async def test_stopping_finishes_what_is_in_hands(layer, probe, start, caplog):
    """The worker takes nothing more, and waiting messages stay."""
    caplog.set_level(logging.INFO)
    worker, running = start(concurrency=1)
    await layer.send_many("work", [{"type": "slow"}, {"type": "count", "n": 1}])
    await probe.begun.wait()
    worker.stop()
    await asyncio.sleep(0)
    probe.go_on.set()
    async with asyncio.timeout(PATIENCE):
        await running
    assert probe.seen == [("slow", 1)]
    assert "stopped: 1 done, 0 failed, 0 rejected, 0 requeued, 0 in progress" in caplog.text
    assert (await layer.receive("work"))["n"] == 1


@pytest.mark.parametrize("hurry", [False, True], ids=["timeout", "second-signal"])
async def test_what_is_not_finished_in_time_is_given_back(layer, probe, start, hurry):
    """Another worker gets it at once, without a counted failure; a second stop does not wait."""
    worker, running = start(drain_timeout=60 if hurry else 0.05)
    await layer.send("work", {"type": "slow"})
    await probe.begun.wait()
    worker.stop()
    if hurry:
        worker.stop()
    async with asyncio.timeout(PATIENCE):
        await running
    assert worker.statistics().requeued == 1
    async with asyncio.timeout(PATIENCE), layer.take("work") as work:
        assert (work.message, work.deliveries) == ({"type": "slow"}, 1)


async def test_cancelled_worker_gives_back_what_it_has(layer, probe, start):
    """The work goes to another worker."""
    _, running = start()
    await layer.send("work", {"type": "slow"})
    await probe.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(PATIENCE), layer.take("work") as work:
        assert work.deliveries == 1


async def test_worker_reports_progress(layer, start, caplog):
    """The worker logs its progress only when a number has changed."""
    caplog.set_level(logging.INFO)
    start(report_interval=0.02)
    await layer.send("work", {"type": "count", "n": 1})
    await becomes(lambda: "1 done" in caplog.text)
    await asyncio.sleep(0.1)
    assert caplog.text.count("1 done") == 1


async def test_layer_that_hands_out_no_work_is_refused(router, redis_url):
    """The error names a layer that supports work."""
    layer = RedisPubSubChannelLayer([redis_url])
    with pytest.raises(MissingCapability, match="use RedisStreamsChannelLayer"):
        await Worker(router, ["work"], layer=layer).run()
    await layer.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"channels": ["wrok"]}, UnknownChannel),
        ({"channels": []}, ValueError),
        ({"concurrency": 0}, ValueError),
        ({"drain_timeout": -1}, ValueError),
    ],
    ids=str,
)
async def test_worker_that_cannot_be_is_refused(layer, router, options, error):
    """The error comes before any work begins."""
    with pytest.raises(error):
        Worker(router, **{"channels": ["work"], "layer": layer, **options})


def test_unknown_channel_is_told_beside_the_known():
    """The error is one sentence."""
    router = ChannelNameRouter({"work": AsyncConsumer.as_asgi()})
    with pytest.raises(UnknownChannel) as error:
        router.find("wrok")
    assert str(error.value) == "no consumer is routed to the channel 'wrok'; routed: 'work'"


def test_router_refuses_what_cannot_do_work():
    """The router refuses a WebSocket consumer, a class without as_asgi(), and an unknown name."""
    with pytest.raises(InvalidRouter):
        ChannelNameRouter({"work": AsyncWebsocketConsumer.as_asgi()})
    with pytest.raises(InvalidRouter, match="as_asgi"):
        ChannelNameRouter({"work": AsyncConsumer})
    with pytest.raises(InvalidName):
        ChannelNameRouter({"not a name": AsyncConsumer.as_asgi()})


async def test_router_is_an_application_for_the_scope_of_a_channel(probe):
    """The consumer handles the messages that it receives, as with any scope."""

    class Collector(AsyncConsumer):
        async def count(self, message):
            probe.seen.append((self.scope["channel"], message["n"]))
            raise StopConsumer

    async def receive():
        return {"type": "count", "n": 1}

    async def send(event):
        raise ConsumerStateError

    router = ChannelNameRouter({"work": Collector.as_asgi()})
    await router({"type": "channel", "channel": "work"}, receive, send)
    assert probe.seen == [("work", 1)]
