"""One contender under load: its server, connected clients, and a publisher."""

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

# Seconds until all clients must be connected, even on a busy machine.
CONNECT_TIMEOUT = 120.0

# Seconds without a frame after which a measurement has failed.
STANDSTILL = 30.0


class MissingDeliveries(ChildFailed):
    """The number of frames that arrived differs from the number that was sent."""


def environment_of(contender: Contender, place: Place) -> dict[str, str]:
    """Return the environment variables for the processes of a contender."""
    return {
        "BENCH_REDIS": place.valkey.url,
        "BENCH_LAYER": contender.layer,
        "BENCH_LANE": contender.lane,
        # This repository for our package; not for the peers, one of which has the same name.
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
    """Return a process of benchmarks.load with the environment of a contender."""
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
    """The frames that had arrived and the CPU time that was used at a time."""

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
    The clients of one server, and the process that publishes to them.

    All frames are counted: `flood` returns only if each client has received each broadcast.
    """

    def __init__(
        self, server: Server, clients: Sequence[Worker], publisher: Worker, place: Place
    ) -> None:
        self.clients = clients
        self.publisher = publisher
        self._server = server
        self._place = place
        # The connections of all client processes together.
        self._connected = 0

    def connect(self, count: int) -> None:
        """Connect `count` clients, spread over the client processes."""
        for number, client in enumerate(self.clients):
            share = count * (number + 1) // len(self.clients) - count * number // len(self.clients)
            client.ask("connect", count=share)
        for client in self.clients:
            client.answer(CONNECT_TIMEOUT)
        self._connected += count

    def flood(self, window: int, size: int, *, per_second: float = 0) -> dict[str, float]:
        """Publish for a while, and return the cost of one delivery."""
        settings = self._place.settings
        for client in self.clients:
            client.call("expect", size=size)
        self.publisher.call("start", window=window, size=size, per_second=per_second)
        time.sleep(settings.warmup)  # the warm-up, which is not measured
        for client in self.clients:
            client.call("latencies")
        before = self._moment()
        time.sleep(settings.seconds)  # the measurement: other processes work
        after = self._moment()
        # A process may have been suspended during a short measurement.
        while after.frames == before.frames and after.time - before.time < STANDSTILL:
            time.sleep(settings.seconds)  # the measurement continues
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
        """Raise MissingDeliveries unless each client got each broadcast exactly once."""
        frames = sum(client.call("count")["frames"] for client in self.clients)
        wanted = stopped["sent"] * self._connected
        if frames != wanted:
            raise MissingDeliveries(
                f"{frames:,} frames arrived of {wanted:,} "
                f"({stopped['sent']:,} broadcasts to {self._connected:,} clients)"
            )


def measured(before: Moment, after: Moment) -> dict[str, float]:
    """Return the work between two moments, per second and per delivery."""
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
    """Start server, clients and publisher, without connections."""
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
    """Return a process of clients for a server."""
    arguments = ["--port", str(server.port), "--wire", contender.wire, "--kind", kind]
    if credit is not None:
        arguments += ["--credit", str(credit)]
    descriptors = () if credit is None else (credit,)
    return Worker("clients", arguments, descriptors=descriptors)
