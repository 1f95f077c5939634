"""
Random sequences of joins, sends, cuts and resumes against a model, on every log.

The model knows the log of each group and the frames of each message: none, one or two.
Therefore it knows for every frame of a client whether it is the next one. `SOAK=1` tries many
more sequences, different ones each time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.consumer.resume.protocol import Place
from fast_channels.consumer.resume.resume import Resume
from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisStreamsChannelLayer,
    channel_layers,
)
from fast_channels.testing import ResumingCommunicator
from fast_channels.testing.resuming import Received
from fast_channels.testing.server import ValkeyServer
from tests.chaos.backends import PATIENCE, a_while
from tests.conftest import empty

SOAK = bool(os.environ.get("SOAK"))

PROFILE = settings(
    max_examples=1000 if SOAK else 10,
    stateful_step_count=80 if SOAK else 40,
    # The normal run tries the same sequences every time.
    derandomize=not SOAK,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

# Messages of a group that are kept, and messages that can wait in a channel.
KEPT = 20
CAPACITY = 4

GROUPS = st.sampled_from(["red", "green"])
# The broker sees them as two processes.
PROCESSES = st.integers(0, 1)


@pytest.fixture(autouse=True, scope="module")
def positions_at_once():
    """Tell clients without delay up to where they have everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resume, "position_delay_seconds", 0.0)
        yield


def frames_of(number):
    """Return how many frames a message leads to."""
    return number % 3


class Numbers(AsyncWebsocketConsumer):
    """Joins and leaves the groups that its client names; sends 0 to 2 frames per message."""

    resumable = True

    async def receive(self, text_data=None, bytes_data=None):
        what, group = text_data.split()
        await (self.join_group(group) if what == "join" else self.leave_group(group))
        await self.send(text_data=text_data)

    async def number(self, message):
        for k in range(frames_of(message["n"])):
            await self.send(text_data=f"{message['group']} {message['n']} {k}")
            # A cut may come between them, or the next message may.
            await a_while(message["pause"])


def consumer_of(process):
    return type("Numbers", (Numbers,), {"channel_layer_alias": f"process {process}"})


class Client:
    """One client across all its connections, and the frames that it must get next."""

    def __init__(self, communicator) -> None:
        self.communicator = communicator
        # Groups that the client is to be in.
        self.groups = set()

    def check(self, logs, told):
        """Compare the frames with the positions that the client had before."""
        before, after = dict(self.places), self.communicator.places
        self.places = dict(after)
        if isinstance(told, Received):
            if told.place is not None:
                self.check_frame(logs, told, before)
            return
        for group, report in told.get("resume", {}).items():
            self.check_report(logs[group], report, before.get(group))
        for group, position in told.get("at", {}).items():
            here, there = self.walk(logs[group], before[group]), Place.parse(position)
            # No message with frames is left out.
            assert next(here) > (there.position.offset, 10)

    def check_frame(self, logs, told, before):
        group, text, k = told.place
        offset = Place.parse(text).position.offset
        assert next(self.walk(logs[group], before[group])) == (offset, k), told
        assert told.data == f"{group} {logs[group][offset - 1].n} {k}"

    def check_report(self, log, report, before):
        offset = Place.parse(report["position"]).position.offset
        assert offset <= len(log)
        if report.get("recovered"):
            assert report["position"] == before
        elif before is not None:
            # While the client was away or slow, more was sent than is kept.
            place = Place.parse(before)
            assert len(log) - place.position.offset > KEPT - (place.frames is not None)

    @staticmethod
    def walk(log, text):
        """Yield all frames after a position, as the message's offset and the frame's number."""
        place = Place.parse(text)
        offset = place.position.offset
        if place.frames is not None:
            yield from ((offset, k) for k in range(place.frames, frames_of(log[offset - 1].n)))
        for later in range(offset + 1, len(log) + 1):
            yield from ((later, k) for k in range(frames_of(log[later - 1].n)))
        yield (sys.maxsize, 0)

    places: dict = {}  # noqa: RUF012 - replaced, never changed


class Sent:
    def __init__(self, n, position) -> None:
        self.n = n
        self.position = position


class Resuming(RuleBasedStateMachine):
    """Clients of two processes, or of one process that plays both."""

    clients = Bundle("clients")

    def __init__(self, kind, server) -> None:
        super().__init__()
        self.kind = kind
        self.server = server
        self.loop = asyncio.new_event_loop()
        # Unhandled exceptions.
        self.unhandled = []
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        self.all = []
        self.n = 0
        self.logs = {"red": [], "green": []}

    def run(self, coroutine):
        async def in_time():
            async with asyncio.timeout(PATIENCE):
                return await coroutine

        return self.loop.run_until_complete(in_time())

    @initialize(target=clients, overflow=st.sampled_from(["drop_oldest", "drop_newest", "close"]))
    def start(self, overflow):
        self.layers = [self.made(overflow) for _ in range(2)]
        if self.kind == "memory":
            self.layers[1] = self.layers[0]
        for process, layer in enumerate(self.layers):
            self.run(layer.open())
            channel_layers.register(f"process {process}", layer)
        for process in (0, 1, 1):
            client = Client(ResumingCommunicator(consumer_of(process).as_asgi(), "/"))
            self.run(client.communicator.connect(PATIENCE))
            self.all.append(client)
            self.join(client, "red")
        return multiple(*self.all)

    def made(self, overflow):
        options = {"history_size": KEPT, "capacity": CAPACITY, "overflow": overflow}
        if self.kind == "memory":
            return InMemoryChannelLayer(**options)
        empty(self.server)
        return RedisStreamsChannelLayer([self.server.url], **options)

    # -- steps of clients -----------------------------------------------------

    @rule(client=clients, group=GROUPS)
    def join(self, client, group):
        client.groups.add(group)
        self.run(self.asked(client, f"join {group}"))

    @rule(client=clients, group=GROUPS)
    def leave(self, client, group):
        client.groups.discard(group)
        self.run(self.asked(client, f"leave {group}"))
        client.communicator.places.pop(group, None)
        client.places = dict(client.communicator.places)

    async def asked(self, client, what):
        """Send the consumer a request, and return when it is done."""
        await client.communicator.send_to(what)
        while (told := await self.taken(client)) is None or getattr(told, "data", None) != what:
            if told is None:
                # The connection was closed, and the new one has joined the client's groups.
                await client.communicator.send_to(what)

    async def taken(self, client):
        """Take the next frame; return None if the connection ended and was replaced."""
        communicator = client.communicator
        try:
            told = await communicator.receive_told(PATIENCE)
        except AssertionError as exc:
            if "'code': 1013" not in str(exc):
                raise
            await self.come_back(client, 0)
            return None
        client.check(self.logs, told)
        return told

    @rule(client=clients, count=st.integers(1, 30))
    def read(self, client, count):
        """Take frames that have arrived. The others stay unread, and a cut loses them."""

        self.run(self.take_arrived(client, count))

    async def take_arrived(self, client, count):
        for _ in range(count):
            await asyncio.sleep(0)
            if not client.communicator.output_queue.empty():
                await self.taken(client)

    @rule(
        client=clients,
        group=GROUPS,
        process=PROCESSES,
        cuts=st.lists(
            st.tuples(st.integers(0, 12), st.integers(0, 2), st.integers(0, 25), st.integers(0, 8)),
            min_size=1,
            max_size=4,
        ),
    )
    def cut(self, client, group, process, cuts):
        """Cut a client off during traffic; it comes back, perhaps to another server."""

        async def cut():
            for count, pause, moment, seen in cuts:
                sending = asyncio.create_task(self.sends(group, count, pause))
                await a_while(moment)
                await self.take_arrived(client, seen)
                client.communicator.stop(exceptions=False)
                await asyncio.wait([client.communicator.future])
                await self.come_back(client, process)
                await sending

        self.run(cut())

    async def come_back(self, client, process):
        application = consumer_of(process).as_asgi()
        client.communicator = await client.communicator.again(application, PATIENCE)
        for group in sorted(client.groups):
            await self.asked(client, f"join {group}")

    # -- steps of senders and servers -----------------------------------------

    @rule(group=GROUPS, count=st.integers(1, 30), pause=st.integers(0, 2))
    def send(self, group, count, pause):
        self.run(self.sends(group, count, pause))

    async def sends(self, group, count, pause):
        for _ in range(count):
            self.n += 1
            sent = Sent(self.n, None)
            self.logs[group].append(sent)
            message = {"type": "number", "n": sent.n, "group": group, "pause": pause}
            sent.position = await self.layers[self.n % 2].group_send(group, message)
            assert sent.position.offset == self.logs[group].index(sent) + 1

    @invariant()
    def nothing_is_unhandled(self):
        assert self.unhandled == []

    # -- the end --------------------------------------------------------------

    def teardown(self):
        failed = isinstance(sys.exception(), Exception)
        try:
            if hasattr(self, "layers") and not failed:
                self.run(self.end())
        except Exception:
            failed = True
            raise
        finally:
            if failed:
                traceback.print_exc()
            self.run(self.stop())
            left = [t.get_name() for t in asyncio.all_tasks(self.loop)]
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
        assert left == []
        self.nothing_is_unhandled()

    async def end(self):
        """Check that every client gets all frames in the end."""
        for client in self.all:
            for group in client.groups:
                log = self.logs[group]
                while log and client.places[group] != str(log[-1].position):
                    await self.taken(client)

    async def stop(self):
        for client in self.all:
            client.communicator.stop(exceptions=False)
            await asyncio.wait([client.communicator.future])
        for process, layer in enumerate(getattr(self, "layers", [])):
            channel_layers.unregister(f"process {process}")
            await layer.close()


@pytest.mark.timeout(0 if SOAK else 60)
def test_clients_in_memory_get_what_the_model_says():
    """Each frame comes once and in order, no matter when a client is cut off."""
    run_state_machine_as_test(lambda: Resuming("memory", None), settings=PROFILE)


@pytest.mark.timeout(0 if SOAK else 60)
def test_clients_on_streams_get_what_the_model_says():
    """Each frame comes once and in order between processes too."""
    with ValkeyServer() as server:
        run_state_machine_as_test(lambda: Resuming("streams", server), settings=PROFILE)
