"""Connections: handshake, join and accept per second, and the memory of idle connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark
from benchmarks.processes import private_bytes
from benchmarks.results import Metric
from benchmarks.session import CONNECT_TIMEOUT, crowd, serving

if TYPE_CHECKING:
    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place

# Connections before the measurement, which fill caches and pools.
FIRST = 200


def run(contender: Contender, place: Place) -> Measured:
    count = place.settings.idle
    with serving(contender, place) as server, crowd(contender, server, "count") as clients:
        clients.call("connect", count=min(FIRST, count))
        memory, cpu, client_cpu = private_bytes(server.pid), server.cpu(), clients.cpu()
        took = clients.call("connect", timeout=CONNECT_TIMEOUT, count=count)["seconds"]
        return {
            f"{count:,} connections": {
                "per_second": count / took,
                "cpu": (server.cpu() - cpu) / count * 1e6,
                "memory": (private_bytes(server.pid) - memory) / count / 1024,
                "server_share": (server.cpu() - cpu) / took,
                "client_share": (clients.cpu() - client_cpu) / took,
            }
        }


BENCHMARK = Benchmark(
    "connect",
    "Connect: handshake, join and accept",
    (
        Metric("per_second", "connections/s"),
        Metric("memory", "memory of an idle one, KiB", 1, "lower"),
        Metric("cpu", "server CPU of each, µs", 0, "lower"),
        Metric("server_share", "server busy", is_share=True),
        Metric("client_share", "client busy", is_share=True),
    ),
    run,
    layers=("pubsub", "queue", "streams"),
)
