"""A frame in, the same frame out: only the path through a consumer, without a layer."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from benchmarks.benchmark import SERVER_CPU, Benchmark
from benchmarks.results import Metric
from benchmarks.session import MissingDeliveries, crowd, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.processes import Server, Worker
    from benchmarks.settings import Place, Settings


@contextlib.contextmanager
def stand(contender: Contender, place: Place) -> Iterator[Callable[[], Measured]]:
    with serving(contender, place) as server, crowd(contender, server, "echo") as clients:
        clients.call("connect", count=place.settings.echoes)
        clients.call("expect", size=place.settings.size)
        yield lambda: _echo(server, clients, place.settings)


def _echo(server: Server, clients: Worker, settings: Settings) -> Measured:
    clients.call("echo", size=settings.size)
    time.sleep(settings.warmup)  # the warm-up, which is not measured
    measured = _measure(server, clients, settings.seconds)
    ended = clients.call("quiet")
    if ended["sent"] != ended["frames"]:
        raise MissingDeliveries(f"{ended['frames']:,} frames came back of {ended['sent']:,}")
    return {f"{settings.echoes} connections": measured}


def _measure(server: Server, clients: Worker, seconds: float) -> dict[str, float]:
    def moment() -> tuple[float, float, float, int]:
        return time.monotonic(), server.cpu(), clients.cpu(), clients.call("count")["frames"]

    before = moment()
    time.sleep(seconds)  # the measurement: counters are read before and after
    took, server_cpu, client_cpu, frames = (b - a for a, b in zip(before, moment(), strict=True))
    return {
        "per_second": frames / took,
        "cpu": server_cpu / max(frames, 1) * 1e6,
        "server_share": server_cpu / took,
        "client_share": client_cpu / took,
    }


BENCHMARK = Benchmark(
    "echo",
    "Echo: round trips per second",
    (
        Metric("per_second", "round trips/s"),
        SERVER_CPU,
        Metric("server_share", "server busy", is_share=True),
        Metric("client_share", "client busy", is_share=True),
    ),
    stand=stand,
    layers=("pubsub",),
)
