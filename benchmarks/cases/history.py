"""The memory of a log on the server, which depends on its settings and not on the messages sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import Redis

from benchmarks.benchmark import Benchmark, emptied
from benchmarks.processes import ChildFailed
from benchmarks.results import Metric
from benchmarks.session import worker

if TYPE_CHECKING:
    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place

# Seconds within which an expired log must be gone.
FORGET_TIMEOUT = 30.0


class Kept(NamedTuple):
    """The keys of the layer, their messages, and their memory in bytes."""

    keys: int
    messages: int
    memory: int


class Case(NamedTuple):
    """Settings of a layer, and of the messages sent with it."""

    history_size: int
    size: int
    keyed: bool = False
    # In seconds. The benchmark waits for the end of a short one.
    history_ttl: float = 300.0

    @property
    def title(self) -> str:
        keyed = ", each with an `idempotency_key`" if self.keyed else ""
        over = ", `history_ttl` is over" if self.expires else ""
        return f"`history_size={self.history_size:,}`, {self.size:,} bytes{keyed}{over}"

    @property
    def expires(self) -> bool:
        return self.history_ttl < 10


CASES = (
    *(Case(kept, size) for kept in (100, 1000, 10_000) for size in (100, 1000)),
    Case(1000, 100, keyed=True),
    Case(1000, 100, history_ttl=1.0),
)


def run(contender: Contender, place: Place) -> Measured:
    return {case.title: measured(case, contender, place) for case in CASES}


def measured(case: Case, contender: Contender, place: Place) -> dict[str, float]:
    settings = place.settings
    emptied(place)
    arguments = ["--history-size", str(case.history_size), "--history-ttl", str(case.history_ttl)]
    with (
        Redis.from_url(place.valkey.url) as redis,
        worker("log", arguments, contender, place) as log,
    ):
        found: list[Kept] = []
        # Twice as many as the log keeps, so that removed messages have left fragmented memory.
        first = 2 * case.history_size
        for count in (first, settings.appended - first):
            log.call("append", timeout=300, count=count, size=case.size, keyed=case.keyed)
            found.append(kept(redis))
        if case.expires:
            found[-1] = forgotten(redis)
    full, last = found
    return {
        "sent": settings.appended,
        "messages": last.messages,
        "keys": last.keys,
        "full": full.memory / 1024,
        "last": last.memory / 1024,
        "growth": last.memory / full.memory,
        # In other cases the memory also holds data that is not messages.
        **({} if case.keyed or case.expires else {"each": last.memory / last.messages}),
    }


def kept(redis: Any) -> Kept:
    keys = list(redis.scan_iter("*", count=10_000))
    with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            # samples=0 counts the whole stream instead of an estimate. A stream that has just
            # expired has None.
            pipe.memory_usage(key, samples=0)
        sizes = pipe.execute()
    logs = redis.scan_iter("*", count=10_000, _type="stream")
    present = [size for size in sizes if size is not None]
    return Kept(len(present), sum(map(redis.xlen, logs)), sum(present))


def forgotten(redis: Any) -> Kept:
    """Wait until a log has expired, and return the rest of it."""
    until = time.monotonic() + FORGET_TIMEOUT
    while (left := kept(redis)).messages:
        if time.monotonic() > until:
            raise ChildFailed(f"{left.messages:,} messages are kept after their expiry")
        time.sleep(0.1)  # a poll: the server does not report an expired key
    return left


BENCHMARK = Benchmark(
    "history",
    "History: memory on the server",
    (
        Metric("last", "KiB after all", 1, "lower"),
        Metric("full", "KiB once full", 1, "lower"),
        Metric("growth", "all / full", 2, "lower"),
        Metric("sent", "messages sent"),
        Metric("messages", "kept"),
        Metric("keys", "keys"),
        Metric("each", "bytes of one kept", 0, "lower"),
    ),
    run,
    layers=("streams",),
    families=("ours",),
    most_rounds=1,
    is_by_case=True,
)
