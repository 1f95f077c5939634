"""The cost of a delivery in small and in large groups."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark
from benchmarks.processes import SERVER_CORES, Worker
from benchmarks.results import Metric
from benchmarks.session import worker
from benchmarks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place


def run(contender: Contender, place: Place) -> Measured:
    arguments = ["--app", contender.app, "--wire", contender.wire]
    with worker("audience", arguments, contender, place, cores=SERVER_CORES) as audience:
        alone = _broadcast(audience, 1)
        # The fixed cost of a broadcast is not part of the cost of one more delivery.
        measured = {
            str(members): (taken - alone) / (members - 1) * 1e6
            for members, taken in _growing(audience, place.settings)
        }
    where = "in memory" if contender.layer == "memory" else "over Redis"
    return {f"CPU of one more delivery, µs, {where}, by members of the group": measured}


def _growing(audience: Worker, settings: Settings) -> Iterator[tuple[int, float]]:
    """Yield the CPU time of a broadcast for each group size, until it would take too long."""
    for members, larger in itertools.pairwise([*settings.members, 0]):
        audience.call("grow", members=members, timeout=120)
        taken = _broadcast(audience, members)
        yield members, taken
        # The time of some contenders grows with the square of the size.
        if taken * (larger / members) ** 2 > settings.longest_broadcast:
            return


def _broadcast(audience: Worker, members: int) -> float:
    audience.call("grow", members=members)
    return float(audience.call("broadcast", times=1000, seconds=0.4, timeout=120)["cpu"])


BENCHMARK = Benchmark(
    "group_size",
    "Group size: is the cost of a delivery flat?",
    tuple(Metric(str(n), f"{n:,}", 2, "lower") for n in Settings.members),
    run,
    layers=("memory", "pubsub", "streams"),
    most_rounds=1,
    is_scaling=True,
)
