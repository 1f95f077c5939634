"""One group, many clients: broadcasts of another process, and how fast they reach all clients."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from benchmarks.benchmark import SERVER_CPU, SHARES, Benchmark
from benchmarks.results import Metric
from benchmarks.session import session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place


@contextlib.contextmanager
def stand(contender: Contender, place: Place) -> Iterator[Callable[[], Measured]]:
    settings = place.settings
    with session(contender, place) as crowd:
        crowd.connect(settings.clients)
        yield lambda: {
            f"{settings.clients:,} clients, {window} in flight": crowd.flood(window, settings.size)
            for window in settings.window
        }


BENCHMARK = Benchmark(
    "fanout",
    "Fan-out: deliveries per second",
    (Metric("per_second", "deliveries/s"), SERVER_CPU, *SHARES),
    stand=stand,
    layers=("pubsub", "queue", "streams"),
    on_request=("memory",),
)
