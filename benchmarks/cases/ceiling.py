"""The limit of the clients: how many frames they can count if a server costs almost nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark
from benchmarks.processes import SERVER_CORES, Worker
from benchmarks.results import Metric
from benchmarks.session import CONNECT_TIMEOUT, MissingDeliveries
from fast_channels.testing.server import free_port

if TYPE_CHECKING:
    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place


def run(contender: Contender, place: Place) -> Measured:  # noqa: ARG001 - one contender
    settings = place.settings
    port = ["--port", str(free_port())]
    with Worker("writer", port, cores=SERVER_CORES) as writer, Worker("clients", port) as clients:
        clients.call("connect", timeout=CONNECT_TIMEOUT, count=settings.clients)
        clients.call("expect", size=settings.size)
        cpu, began = clients.cpu(), time.monotonic()
        written = writer.call("write", seconds=settings.seconds, size=settings.size)["written"]
        # Frames that were written but not counted do not show how fast clients count.
        took, counted = time.monotonic() - began, clients.call("count")["frames"]
        used = clients.cpu() - cpu
        until = time.monotonic() + CONNECT_TIMEOUT
        while clients.call("count")["frames"] < written:
            if time.monotonic() > until:
                raise MissingDeliveries(f"{counted:,} frames were counted of {written:,}")
    return {
        f"{settings.clients:,} clients": {
            "per_second": counted / took,
            "client": used / counted * 1e6,
            "client_share": used / took,
        }
    }


BENCHMARK = Benchmark(
    "ceiling",
    "Ceiling: frames per second that the clients can count",
    (
        Metric("per_second", "frames/s"),
        Metric("client", "client CPU, µs", 2, "lower"),
        Metric("client_share", "client busy", is_share=True),
    ),
    run,
    layers=("pubsub",),
    families=("frames",),
)
