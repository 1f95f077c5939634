"""One or two worker processes: the cost of a delivery in all of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.benchmark import SERVER_CPU, SHARES, Benchmark
from benchmarks.results import Metric
from benchmarks.session import session

if TYPE_CHECKING:
    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place


def run(contender: Contender, place: Place) -> Measured:
    settings = place.settings
    measured = {}
    for workers, case in ((1, "one worker"), (2, "two workers")):
        with session(contender, place, workers=workers) as crowd:
            crowd.connect(settings.clients)
            measured[case] = crowd.flood(settings.window[0], settings.size)
    return measured


BENCHMARK = Benchmark(
    "workers",
    "Workers: server CPU per delivery, of all its processes",
    (SERVER_CPU, Metric("per_second", "deliveries/s"), *SHARES),
    run,
    most_rounds=2,
)
