"""
The benchmarks, one file for each.

Each file has a BENCHMARK: a title, columns, and `run`, which measures one contender once and
returns the measurements by case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import (
    broadcast,
    ceiling,
    connect,
    echo,
    fanout,
    group_size,
    history,
    latency,
    membership,
    pipeline,
    replay,
    workers,
)

if TYPE_CHECKING:
    from benchmarks.benchmark import Benchmark

# In the order of the document.
ALL: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        fanout,
        latency,
        workers,
        echo,
        connect,
        pipeline,
        replay,
        history,
        broadcast,
        group_size,
        membership,
        ceiling,
    )
}
