"""
Random sequences of calls, cancellations and outages against a model, on every layer.

The model knows the messages that a channel must get and the ones that it may get: messages that
were in transit when the channel left the group, when the sender was cancelled, or when the
server was away. `SOAK=1` tries many more sequences, different ones each time.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import traceback
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fast_channels.exceptions import ChannelFull, LayerUnavailable
from fast_channels.testing import inspect
from fast_channels.testing.server import ValkeyServer
from tests.chaos.backends import PATIENCE, a_while, becomes, make, on_server

SOAK = bool(os.environ.get("SOAK"))

PROFILE = settings(
    max_examples=1000 if SOAK else 12,
    stateful_step_count=80 if SOAK else 40,
    # The normal run tries the same sequences every time.
    derandomize=not SOAK,
    database=None,
    deadline=None,
    print_blob=True,
    # Every example takes real time, and races do not shrink.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

GROUPS = st.sampled_from(["red", "green"])
# The broker sees them as two processes.
LAYERS = st.integers(0, 1)
# Moments to cancel at: so many loop steps, or seconds.
MOMENTS = st.integers(0, 20) | st.sampled_from([0.0003, 0.001, 0.002, 0.005])
# One of these moments, or no cancellation.
PERHAPS = st.none() | MOMENTS


@dataclass
class Sent:
    """A message from the point of view of one channel."""

    n: int
    # Sender and target, because order is promised for each such pair.
    way: tuple
    # True if it must arrive; False if it may.
    must: bool
    # True if it may be missing only when a gap says so.
    gap: bool = False


@dataclass(eq=False)
class Channel:
    """A channel, and the model's knowledge of it."""

    layer: int
    name: str
    # The layer's mailbox of this channel.
    mailbox: object
    # Receives the next message of this channel.
    get: object
    groups: set = field(default_factory=set)
    sent: list[Sent] = field(default_factory=list)
    got: list[int] = field(default_factory=list)
    # Losses that were reported to the channel.
    reported: int = 0
    gaps: int = 0

    def record(self, message):
        if message["type"] == "layer.overflow":
            self.reported += message["dropped"]
        elif message["type"] == "layer.gap":
            self.gaps += 1
        else:
            assert set(message) == {"type", "n"}
            self.got.append(message["n"])

    @property
    def missing(self) -> int:
        """Return how many messages have yet to arrive or to be counted as dropped."""
        due = {s.n for s in self.sent if s.must} - set(self.got)
        return len(due) - self.mailbox.dropped

    def check(self, gaps):
        """Compare with the model; `gaps` is the layer's counter, because receive() skips gaps."""
        known = {s.n: s for s in self.sent}
        assert len(set(self.got)) == len(self.got), f"{self.name} got a message twice"
        assert set(self.got) <= set(known), f"{self.name} got what was not meant for it"
        for way in {s.way for s in self.sent}:
            numbers = [n for n in self.got if known[n].way == way]
            assert numbers == sorted(numbers), f"{self.name} lost the order of {way}"
        absent = set(known) - set(self.got)
        assert self.mailbox.dropped <= len(absent), f"{self.name} counts drops that were none"
        if not (gaps if self.mailbox.refuses else self.gaps):
            due = {n for n in absent if known[n].must or known[n].gap}
            assert len(due) <= self.mailbox.dropped, f"{self.name} lost {due} in silence"


class Layers(RuleBasedStateMachine):
    """Drives two layers, or one layer in both roles."""

    channels = Bundle("channels")

    def __init__(self, kind, server) -> None:
        super().__init__()
        self.kind = kind
        self.server = server
        self.loop = asyncio.new_event_loop()
        # Unhandled exceptions.
        self.unhandled = []
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        self.open = []
        self.n = 0
        # Every number that was sent, with its way.
        self.sent = {}
        self.outages = 0
        # Messages that wait in the shared channel, oldest first.
        self.shared = []
        # The layer on which a receive from it was cancelled last.
        self.gave_up = None

    def run(self, coroutine):
        async def in_time():
            async with asyncio.timeout(PATIENCE):
                return await coroutine

        return self.loop.run_until_complete(in_time())

    async def done(self, coroutine, moment):
        """Run a coroutine, cancel it after a while, and return its finished task."""
        task = asyncio.create_task(coroutine)
        if moment is not None:
            await a_while(moment)
            task.cancel()
        await asyncio.wait([task])
        return task

    @initialize(
        target=channels,
        capacity=st.sampled_from([3, 100]),
        overflow=st.sampled_from(["drop_oldest", "drop_newest", "close"]),
    )
    def start(self, capacity, overflow):
        url = self.server.url if self.server else None
        if url:
            with redis.Redis.from_url(url) as client:
                client.flushall()

        async def start():
            options = {"capacity": capacity, "overflow": overflow}
            self.layers = [make(self.kind, url, **options) for _ in range(2)]
            if self.kind == "memory":
                self.layers[1] = self.layers[0]
            for layer in self.layers:
                await layer.open()

        self.run(start())
        made = [self.opened(layer) for layer in (0, 1)] + [self.made(layer) for layer in (0, 1)]
        for channel in made:
            self.join(channel, "red", None)
        return multiple(*made)

    # -- channels and groups ---------------------------------------------------

    def opened(self, layer):
        mailbox = self.run(self.layers[layer].open_channel())
        self.open.append(Channel(layer, mailbox.name, mailbox, mailbox.get))
        return self.open[-1]

    def made(self, layer):
        here = self.layers[layer]
        name = self.run(here.new_channel())
        mailbox = inspect.mailbox_of(here, name)
        self.open.append(Channel(layer, name, mailbox, lambda: here.receive(name)))
        return self.open[-1]

    @rule(target=channels, layer=LAYERS, how=st.sampled_from([opened, made]))
    def open_channel(self, layer, how):
        return how(self, layer)

    @rule(layer=LAYERS, moment=MOMENTS)
    def open_channel_cancelled(self, layer, moment):
        async def open_channel():
            task = await self.done(self.layers[layer].open_channel(), moment)
            if not task.cancelled():
                await self.layers[layer].close_channel(task.result().name)

        self.run(open_channel())

    @rule(channel=consumes(channels))
    def close_channel(self, channel):
        self.finish(channel)
        self.run(self.layers[channel.layer].close_channel(channel.name))
        self.open.remove(channel)
        assert channel.mailbox.closed

    @rule(channel=channels, group=GROUPS, moment=PERHAPS)
    def join(self, channel, group, moment):
        self.may_get_earlier_ones(channel, group)
        joining = self.layers[channel.layer].group_add(group, channel.name)
        if not self.run(self.done(joining, moment)).cancelled():
            channel.groups.add(group)

    @rule(channel=channels, group=GROUPS, moment=PERHAPS)
    def leave(self, channel, group, moment):
        discard = self.layers[channel.layer].group_discard
        if self.run(self.done(discard(group, channel.name), moment)).cancelled():
            # The outcome is unknown until the call is repeated.
            self.run(discard(group, channel.name))
        self.left(channel, group)

    def may_get_earlier_ones(self, channel, group):
        """A message may be in transit to other channels of this process when a channel joins."""
        known = {sent.n for sent in channel.sent}
        channel.sent += [
            Sent(n, way, must=False)
            for n, way in self.sent.items()
            if way[1] == group and n not in known
        ]

    def left(self, channel, group):
        channel.groups.discard(group)
        for sent in channel.sent:
            if sent.way[1] == group and sent.n not in channel.got:
                sent.must = sent.gap = False

    @rule(channel=channels, group=GROUPS, others=st.lists(channels, max_size=3))
    def join_and_leave_at_once(self, channel, group, others):
        """A channel leaves while others join; the last call for each channel decides."""
        joining = [c for c in others if c is not channel]
        for other in joining:
            self.may_get_earlier_ones(other, group)

        async def at_once():
            leaving = self.layers[channel.layer].group_discard(group, channel.name)
            joins = [self.layers[c.layer].group_add(group, c.name) for c in joining]
            await asyncio.gather(leaving, *joins)

        self.run(at_once())
        self.left(channel, group)
        for other in joining:
            other.groups.add(group)

    # -- messages ----------------------------------------------------------------

    def message(self, *way):
        self.n += 1
        self.sent[self.n] = way
        return {"type": "number", "n": self.n}

    def expect(self, channel, message, *, must=True, gap=False):
        n = message["n"]
        channel.sent.append(Sent(n, self.sent[n], must, gap))

    @rule(layer=LAYERS, channel=channels, count=st.integers(1, 4))
    def send(self, layer, channel, count):
        for _ in range(count):
            message = self.message(layer, channel.name)
            try:
                self.run(self.layers[layer].send(channel.name, message))
            except ChannelFull:
                assert channel.mailbox.full
                assert channel.mailbox.refuses
            else:
                self.expect(channel, message)

    @rule(layer=LAYERS, group=GROUPS, count=st.integers(1, 8), moment=PERHAPS)
    def group_send(self, layer, group, count, moment):
        """Send several messages to a group; the last call may be cancelled."""
        for left in reversed(range(count)):
            message = self.message(layer, group)
            sending = self.layers[layer].group_send(group, message)
            task = self.run(self.done(sending, None if left else moment))
            for channel in self.open:
                if group in channel.groups:
                    self.expect(channel, message, must=not task.cancelled())

    @rule(group=GROUPS, receiver=channels, comer=channels, seed=st.integers(0, 999))
    def much_at_once(self, group, receiver, comer, seed):
        """Both layers send to a group during a cancelled receive, a join and a leave."""
        self.may_get_earlier_ones(comer, group)
        self.left(comer, group)
        sent = []
        self.run(self.traffic(group, receiver, comer, random.Random(seed), sent))
        for message in sent:
            for channel in self.open:
                if channel is comer or group in channel.groups:
                    self.expect(channel, message, must=channel is not comer)
        comer.groups.add(group)

    async def traffic(self, group, receiver, comer, rng, sent):
        async def talk(layer):
            for _ in range(4):
                burst = [self.message(layer, group) for _ in range(4)]
                sent.extend(burst)
                # Concurrent calls keep their order too.
                await asyncio.gather(*(self.layers[layer].group_send(group, m) for m in burst))

        async def give_up():
            for _ in range(20):
                task = await self.done(receiver.get(), rng.randrange(12))
                if not task.cancelled():
                    receiver.record(task.result())

        async def come_and_go():
            for _ in range(5):
                for change in (layer.group_add, layer.group_discard):
                    await self.done(change(group, comer.name), rng.choice([None, 0, 1, 3, 9]))
            await layer.group_add(group, comer.name)

        layer = self.layers[comer.layer]
        await asyncio.gather(talk(0), talk(1), give_up(), come_and_go())

    @rule(channel=channels, moment=MOMENTS)
    def receive_cancelled(self, channel, moment):
        task = self.run(self.done(channel.get(), moment))
        if not task.cancelled():
            channel.record(task.result())

    @rule(channel=channels)
    def receive(self, channel):
        if channel.missing > 0:
            channel.record(self.run(channel.get()))

    @rule(channel=channels)
    def finish(self, channel):
        """Receive everything that is due; then the state must match the model."""
        self.run(self.all_reached(channel, gap=False))
        self.take_all(channel)
        channel.check(self.layers[channel.layer].statistics().gaps)
        # Notices that receive() skips are not reported.
        if not channel.mailbox.refuses:
            assert channel.reported == channel.mailbox.dropped

    async def all_reached(self, channel, gap):
        """Send a message on every way; earlier messages on the same way have arrived by then."""
        for layer in (0, 1):
            for group in [None, *sorted(channel.groups)]:
                await self.reached(channel, layer, group, gap)

    async def reached(self, channel, layer, group, gap):
        """
        Send until a message arrives; `gap` says whether the server may be away.

        A small mailbox may be full of earlier messages and drop this one. If the sender got an
        error, the message is not lost in silence, even if receivers hear of no gap.
        """
        sender = self.layers[layer]
        while True:
            self.take_all(channel)
            message = self.message(layer, group or channel.name)
            receivers = [
                other
                for other in self.open
                if (other is channel if group is None else group in other.groups)
            ]
            for receiver in receivers:
                self.expect(receiver, message, must=not gap, gap=gap)
            try:
                if group is None:
                    await sender.send(channel.name, message)
                else:
                    await sender.group_send(group, message)
                async with asyncio.timeout(0.2):
                    while message["n"] not in channel.got:
                        channel.record(await channel.mailbox.get())
            except TimeoutError:
                continue
            except LayerUnavailable:
                if not gap:
                    raise
                for receiver in receivers:
                    receiver.sent[-1].gap = False
            else:
                return

    def take_all(self, channel):
        while (message := channel.mailbox.take()) is not None:
            channel.record(message)

    # -- shared channels -----------------------------------------------------------

    keeps = precondition(lambda self: self.kind != "pubsub")

    @keeps
    @rule(layer=LAYERS)
    def send_shared(self, layer):
        try:
            self.run(self.layers[layer].send("shared", self.message(layer, "shared")))
        except ChannelFull:
            assert len(self.shared) >= self.layers[layer].capacity
        else:
            self.shared.append(self.n)

    @keeps
    @rule(layer=LAYERS, moment=PERHAPS)
    def receive_shared(self, layer, moment):
        # No precondition: hypothesis' choices must not depend on races.
        if moment is None and not self.shared:
            return
        self.run(self.others_hold_nothing(layer))
        task = self.run(self.done(self.layers[layer].receive("shared"), moment))
        if task.cancelled():
            self.gave_up = self.layers[layer]
            return
        # Messages that one process puts back may be overtaken at another process.
        alone = self.gave_up in (None, self.layers[layer])
        number = task.result()["n"]
        assert number in self.shared[: 1 if alone else 2]
        self.shared.remove(number)

    async def others_hold_nothing(self, layer):
        """Prefetched messages that other layers do not need go back, lest they are overtaken."""
        others = [other for other in self.layers if other is not self.layers[layer]]
        if self.kind == "queue":
            await becomes(lambda: not any(map(inspect.holds_messages, others)))

    # -- outages --------------------------------------------------------------------

    away = precondition(lambda self: self.server and self.outages < (4 if SOAK else 1))

    @away
    @rule(type_=st.sampled_from(["normal", "pubsub"]))
    def connections_are_killed(self, type_):
        with redis.Redis.from_url(self.server.url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", type_, "SKIPME", "yes")
        self.recover()

    @away
    @rule()
    def server_is_restarted(self):
        self.server.kill()
        self.server.start()
        self.shared.clear()
        self.recover()

    def recover(self):
        """
        Messages in transit may be missing if a gap says so. Afterwards everything works again.
        """
        self.outages += 1
        for channel in self.open:
            for sent in channel.sent:
                if sent.n not in channel.got and sent.must:
                    sent.must, sent.gap = False, True
        for channel in self.open:
            self.run(self.all_reached(channel, gap=True))

    # -- after every step ---------------------------------------------------------------

    @invariant()
    def tables_are_those_of_the_model(self):
        if not hasattr(self, "layers"):
            return
        for layer in {id(layer): layer for layer in self.layers}.values():
            here = [c for c in self.open if self.layers[c.layer] is layer]
            assert set(inspect.hub(layer).mailboxes) == {c.name for c in here}
            found = {
                (group, name)
                for group, members in inspect.group_members(layer).items()
                for name in members
            }
            assert found == {(group, c.name) for c in here for group in c.groups}

    @invariant()
    def nothing_is_unhandled(self):
        assert self.unhandled == []

    def teardown(self):
        failed = isinstance(sys.exception(), Exception)
        try:
            if hasattr(self, "layers") and not failed:
                self.end()
        except Exception:
            failed = True
            raise
        finally:
            if failed:
                # Races may not happen again when the steps are repeated, so the first failure
                # tells more than hypothesis' report.
                traceback.print_exc()
            self.run(self.stop())
            left = [t.get_name() for t in asyncio.all_tasks(self.loop)]
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
        assert left == []
        self.nothing_is_unhandled()

    def end(self):
        """Check that everything arrives, all channels close, and nothing remains."""
        note("the end")
        for channel in list(self.open):
            self.close_channel(channel)
        for layer in self.layers:
            self.run(becomes(lambda layer=layer: not any(inspect.table_sizes(layer).values())))
        if self.server:
            self.run(becomes(lambda: on_server(self.server.url)["topics"] == []))

    async def stop(self):
        for layer in getattr(self, "layers", []):
            await layer.close()
        if self.server and not self.shared:
            assert on_server(self.server.url) == {"keys": [], "topics": []}


@pytest.fixture
def server(request):
    if request.param == "memory":
        yield None
        return
    with ValkeyServer() as server:
        yield server


@pytest.mark.timeout(0 if SOAK else 60)
@pytest.mark.parametrize(
    ("kind", "server"),
    [(kind, kind) for kind in ("memory", "pubsub", "queue")],
    indirect=["server"],
)
def test_layer_does_what_the_model_says(kind, server):
    """The model holds for any order of calls, cancellations and cuts."""
    run_state_machine_as_test(lambda: Layers(kind, server), settings=PROFILE)
