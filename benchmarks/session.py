"""One contender under load: its server, clients that are connected to it, and a publisher."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fast_channels.testing.server import free_port

from .contenders import SERVERS
from .processes import (
    CORES,
    LOAD_CORES,
    ROOT,
    ChildFailed,
    Server,
    Worker,
    cpu_seconds,
    machine_seconds,
    own_seconds,
    pipe,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .contenders import Contender
    from .settings import Place

# Seconds within which a crowd must be connected, on a machine that is busy.
CONNECT_TIMEOUT = 120.0

# Seconds without a frame after which a measurement has failed.
STANDSTILL = 30.0


class MissingDeliveries(ChildFailed):
    """Fewer frames arrived, or more, than were sent to the clients."""


def environment_of(contender: Contender, place: Place) -> dict[str, str]:
    """What the processes of a contender find in their environment."""
    return {
        "BENCH_REDIS": place.valkey.url,
        "BENCH_LAYER": contender.layer,
        "BENCH_LANE": contender.lane,
        # This repository for us; for peers, one of them is called as we are.
        "PYTHONPATH": str(ROOT / "src") if contender.environment == "suite" else "",
    }


def worker(
    module: str,
    arguments: Sequence[str],
    contender: Contender,
    place: Place,
    descriptors: Sequence[int] = (),
    cores: Sequence[int] = LOAD_CORES,
) -> Worker:
    """A process of benchmarks.load in the environment of a contender."""
    environment = environment_of(contender, place)
    return Worker(
        module,
        arguments,
        python=contender.python,
        environment=environment,
        descriptors=descriptors,
        cores=cores,
    )


@contextlib.contextmanager
def serving(contender: Contender, place: Place, *, workers: int = 1) -> Iterator[Server]:
    """Serve the application of a contender."""
    with Server(
        contender.app,
        free_port(),
        python=contender.python,
        options=SERVERS[contender.server or place.settings.server],
        environment=environment_of(contender, place),
        workers=workers,
    ) as server:
        yield server


@dataclass(frozen=True)
class Moment:
    """What had been received and used by then."""

    time: float
    frames: int
    server: float
    clients: float
    publisher: float
    valkey: float
    machine: float
    suite: float


class Session:
    """
    Clients of one server, and whoever publishes to them.

    Counts everything: what `flood` returns is only returned if each client has
    received each broadcast.
    """

    def __init__(
        self, server: Server, clients: Sequence[Worker], publisher: Worker, place: Place
    ) -> None:
        self.clients = clients
        self.publisher = publisher
        self._server = server
        self._place = place
        # Connections of all clients together.
        self._connected = 0

    def connect(self, count: int) -> None:
        """Connect so many clients, spread over their processes."""
        for number, client in enumerate(self.clients):
            share = count * (number + 1) // len(self.clients) - count * number // len(self.clients)
            client.ask("connect", count=share)
        for client in self.clients:
            client.answer(CONNECT_TIMEOUT)
        self._connected += count

    def flood(self, window: int, size: int, *, per_second: float = 0) -> dict[str, float]:
        """Publish for a while, and return what one delivery took."""
        settings = self._place.settings
        for client in self.clients:
            client.call("expect", size=size)
        self.publisher.call("start", window=window, size=size, per_second=per_second)
        time.sleep(settings.warmup)  # not measured: caches and buffers fill in other processes
        for client in self.clients:
            client.call("latencies")
        before = self._moment()
        time.sleep(settings.seconds)  # this is the measurement: others work meanwhile
        after = self._moment()
        # A process may have stood still for all of a short measurement.
        while after.frames == before.frames and after.time - before.time < STANDSTILL:
            time.sleep(settings.seconds)  # the measurement, once more: others work meanwhile
            after = self._moment()
        self._account(self.publisher.call("stop"))
        return measured(before, after)

    def _moment(self) -> Moment:
        counts = [client.call("count") for client in self.clients]
        return Moment(
            time.monotonic(),
            sum(count["frames"] for count in counts),
            self._server.cpu(),
            sum(client.cpu() for client in self.clients),
            self.publisher.cpu(),
            cpu_seconds(self._place.valkey.pid or 0),
            machine_seconds(),
            own_seconds(),
        )

    def _account(self, stopped: dict[str, int]) -> None:
        """Every broadcast, to every client, exactly once."""
        frames = sum(client.call("count")["frames"] for client in self.clients)
        wanted = stopped["sent"] * self._connected
        if frames != wanted:
            raise MissingDeliveries(
                f"{frames:,} frames arrived of {wanted:,} "
                f"({stopped['sent']:,} broadcasts to {self._connected:,} clients)"
            )


def measured(before: Moment, after: Moment) -> dict[str, float]:
    """What happened between two moments, per second and per delivery."""
    seconds, frames = after.time - before.time, after.frames - before.frames
    if not frames:
        raise MissingDeliveries(f"not one frame arrived in {seconds:.1f} s")
    server, clients = after.server - before.server, after.clients - before.clients
    publisher, valkey = after.publisher - before.publisher, after.valkey - before.valkey
    machine, suite = after.machine - before.machine, after.suite - before.suite
    others = machine - suite - server - clients - publisher - valkey
    return {
        "per_second": frames / seconds,
        "cpu": server / frames * 1e6,
        "server_share": server / seconds,
        "client_share": clients / seconds,
        "publisher_share": publisher / seconds,
        "load_share": (clients + publisher + valkey) / seconds,
        "others_share": max(0.0, others) / seconds / len(CORES),
    }


@contextlib.contextmanager
def session(
    contender: Contender, place: Place, *, kind: str = "count", workers: int = 1
) -> Iterator[Session]:
    """Start the three of them, with nobody connected yet."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(contender, place, workers=workers))
        pipes = [stack.enter_context(pipe()) for _ in range(place.settings.client_processes)]
        clients = [
            stack.enter_context(crowd(contender, server, kind, writing)) for _, writing in pipes
        ]
        reading = [str(end) for end, _ in pipes]
        arguments = [
            *("--app", contender.app, "--port", str(server.port), "--wire", contender.wire),
            *("--credit", *reading),
        ]
        publisher = stack.enter_context(
            worker("publisher", arguments, contender, place, [end for end, _ in pipes])
        )
        yield Session(server, clients, publisher, place)


def crowd(contender: Contender, server: Server, kind: str, credit: int | None = None) -> Worker:
    """A process of clients for a server."""
    arguments = ["--port", str(server.port), "--wire", contender.wire, "--kind", kind]
    if credit is not None:
        arguments += ["--credit", str(credit)]
    descriptors = () if credit is None else (credit,)
    return Worker("clients", arguments, descriptors=descriptors)
