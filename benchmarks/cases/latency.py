"""Broadcasts at a steady pace that no contender finds hard, and their age when they arrive."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from benchmarks.benchmark import SERVER_CPU, SHARES, Benchmark
from benchmarks.processes import ChildFailed
from benchmarks.results import Metric
from benchmarks.session import session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.session import Session
    from benchmarks.settings import Place, Settings


@contextlib.contextmanager
def stand(contender: Contender, place: Place) -> Iterator[Callable[[], Measured]]:
    with session(contender, place, kind="time") as crowd:
        crowd.connect(place.settings.listeners)
        yield lambda: _measure(crowd, place.settings)


def _measure(crowd: Session, settings: Settings) -> Measured:
    measured = crowd.flood(1, settings.size, per_second=settings.pace)
    # With several client processes, the one with the longest times.
    taken = [client.call("latencies") for client in crowd.clients]
    if not all(found["count"] for found in taken):
        raise ChildFailed("a process of clients timed nothing")
    longest = {key: max(found[key] for found in taken) for key in ("p50", "p99")}
    return {f"{settings.listeners:,} clients, {settings.pace:g} broadcasts/s": measured | longest}


BENCHMARK = Benchmark(
    "latency",
    "Latency: from `group_send` to the client",
    (
        Metric("p50", "p50, ms", 2, "lower"),
        Metric("p99", "p99, ms", 2, "lower"),
        SERVER_CPU,
        *SHARES,
    ),
    stand=stand,
    layers=("pubsub", "queue", "streams"),
    on_request=("memory",),
)
