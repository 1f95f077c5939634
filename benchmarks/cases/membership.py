"""The time to join and leave a group, with few and with many other groups."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark
from benchmarks.processes import SERVER_CORES
from benchmarks.results import Metric
from benchmarks.session import worker
from benchmarks.settings import Settings

if TYPE_CHECKING:
    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place

# Joins for each number of groups; the result is their median.
TIMES = 300


def run(contender: Contender, place: Place) -> Measured:
    settings = place.settings
    measured = {}
    arguments = ["--app", contender.app]
    with worker("membership", arguments, contender, place, cores=SERVER_CORES) as memberships:
        joined = 0
        for groups in settings.groups:
            began = time.monotonic()
            memberships.call("grow", groups=groups, timeout=300)
            measured[str(groups)] = memberships.call("join", times=TIMES)["micros"]
            each = (time.monotonic() - began) / (groups - joined)
            joined = groups
            # Each number is ten times the one before.
            if each * groups * 9 > settings.patience:
                break
    where = "in memory" if contender.layer == "memory" else "over Redis"
    return {f"a join and a leave, µs, {where}, by groups that there are": measured}


BENCHMARK = Benchmark(
    "membership",
    "Membership: is the cost of a join flat?",
    tuple(Metric(str(n), f"{n:,}", 1, "lower") for n in Settings.groups),
    run,
    layers=("memory", "pubsub", "streams"),
    most_rounds=1,
    is_scaling=True,
)
