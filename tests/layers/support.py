"""Recording brokers, scripts in their own process, and helpers that wait for facts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.base import BaseChannelLayer

if TYPE_CHECKING:
    from collections.abc import Callable

# Upper bound in seconds for any step on a busy machine.
PATIENCE = 15.0


# Python 3.12 and later warn of every fork in a process with threads. Some tests are about such
# forks.
FORK_IS_MEANT = "ignore:This process:DeprecationWarning"


async def becomes(condition: Callable[[], object]) -> None:
    """Return when a condition holds; fail if it does not become true in time."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


def comes_true(condition: Callable[[], object]) -> None:
    """Wait for a condition like `becomes`, without an event loop."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for does not happen"
        # Polling, because there is no loop with events to wait for.
        time.sleep(0.002)


async def arrives(mailbox):
    """Return the next message of a mailbox; fail if none comes."""
    async with asyncio.timeout(PATIENCE):
        return await mailbox.get()


async def received(layer, channel):
    """Return the next message of a channel; fail if none comes."""
    async with asyncio.timeout(PATIENCE):
        return await layer.receive(channel)


async def turns(number: int = 20) -> None:
    """Let every task and callback run that is ready."""
    for _ in range(number):
        await asyncio.sleep(0)


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, with every warning shown."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", FORK_IS_MEANT, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def printed(script: str, *arguments: str) -> str:
    """Return the output of a script; fail if it failed or printed a complaint."""
    done = run_script(script, *arguments)
    # asyncio's debug mode reports slow steps, which depend on the machine.
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert not complaints, done.stderr
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


class RecordingKind:
    """Prepare messages of type "test", unless they are `bad`, and record them in `prepared`."""

    def __init__(self, name) -> None:
        self.name = name
        self.prepared = []

    def prepare(self, message):
        if message.get("type") != "test":
            return None
        self.prepared.append(message)
        return None if message.get("bad") else {"type": "made", "by": self.name}


class RecordingReader:
    """Take messages when a delivery runs it, and record each turn in `taken`."""

    def __init__(self, mailbox, *, idle=True) -> None:
        self.mailbox = mailbox
        self.idle = idle
        self.taken = []
        # How often it was woken in a task of its own.
        self.woken = 0

    def wake(self):
        if self.idle:
            self.idle = False
            self.woken += 1

    def run_all(self, mailboxes, copies):
        for mailbox in mailboxes:
            mailbox.eager_reader.run(list(copies(mailbox)))

    def run(self, messages):
        assert not self.idle, "a delivery takes hold of a reader before it runs it"
        self.taken.append(messages)
        self.idle = True


class RecordingBroker:
    """
    Records every call in `calls`, and answers when a test allows it.

    A topic in `held` is answered when its event is set; a topic in `refused` raises its
    exception.
    """

    def __init__(self) -> None:
        self.calls = []
        self.held = {}
        self.refused = {}
        # How many receivers of a published payload are full.
        self.full_receivers = 0
        self.deliver = self.report_outage = None

    async def start(self, deliver, report_outage):
        self.calls.append(("start",))
        self.deliver, self.report_outage = deliver, report_outage
        await self._answer("start")

    async def stop(self):
        self.calls.append(("stop",))
        self.deliver = self.report_outage = None

    async def publish(self, topic, payload):
        self.calls.append(("publish", topic))
        await self._answer(topic)
        self.deliver(topic, payload)
        return self.full_receivers

    async def subscribe(self, topic):
        self.calls.append(("subscribe", topic))
        await self._answer(topic)

    async def unsubscribe(self, topic):
        self.calls.append(("unsubscribe", topic))
        await self._answer(topic)

    def hold(self, topic) -> asyncio.Event:
        """Let calls for `topic` wait for the returned event."""
        self.held[topic] = asyncio.Event()
        return self.held[topic]

    def refuse(self, topic, error=None) -> None:
        """Let calls for `topic` fail."""
        self.refused[topic] = error or LayerUnavailable(self, "refused by the test")

    def count(self, *call) -> int:
        return self.calls.count(call)

    async def _answer(self, topic):
        if topic in self.held:
            await self.held[topic].wait()
        if topic in self.refused:
            raise self.refused[topic]

    def __str__(self) -> str:
        return "recording broker"


class RecordingLayer(BaseChannelLayer):
    """A layer on recording brokers: one per session, all of them in `brokers`."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.brokers = []
        # Topics that later brokers refuse from the beginning.
        self.refused = {}

    def _make_broker(self):
        broker = RecordingBroker()
        broker.refused = self.refused
        self.brokers.append(broker)
        return broker

    @property
    def broker(self):
        return self.brokers[-1]
