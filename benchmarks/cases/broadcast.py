"""One broadcast to thousands of members in a process: CPU until the last handler has sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark
from benchmarks.processes import SERVER_CORES
from benchmarks.results import Metric
from benchmarks.session import worker

if TYPE_CHECKING:
    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place


def run(contender: Contender, place: Place) -> Measured:
    members = place.settings.audience
    arguments = ["--app", contender.app, "--wire", contender.wire]
    with worker("audience", arguments, contender, place, cores=SERVER_CORES) as audience:
        audience.call("grow", members=members, timeout=120)
        seconds = place.settings.seconds
        taken = audience.call("broadcast", times=50, seconds=seconds, timeout=120)["cpu"]
    return {f"{members:,} members, no server": {"cpu_ms": taken * 1e3}}


BENCHMARK = Benchmark(
    "broadcast",
    "Broadcast in memory: CPU of one",
    (Metric("cpu_ms", "CPU, ms", 1, "lower"),),
    run,
    layers=("memory",),
    most_rounds=2,
)
