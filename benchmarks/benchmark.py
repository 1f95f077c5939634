"""What a benchmark is, and how the contenders take turns in it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis import Redis

from .contenders import chosen
from .processes import CORES, ChildFailed, cpu_seconds, machine_seconds, own_seconds
from .results import Metric, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .contenders import Contender, Layer
    from .settings import Place

    # Measurements of one contender in one round: by case, then by metric.
    Measured = Mapping[str, Mapping[str, float]]

# Columns that more than one benchmark has.
SERVER_CPU = Metric("cpu", "server CPU, µs", 2, "lower")
SHARES = (
    Metric("server_share", "server busy", is_share=True),
    Metric("client_share", "client busy", is_share=True),
    Metric("publisher_share", "publisher busy", is_share=True),
)

# Above this part of its time a process may be what was measured.
LIMIT = 0.85


@dataclass(frozen=True)
class Benchmark:
    """One of the suite."""

    name: str
    title: str
    # The first is what ratios and plots are about.
    metrics: tuple[Metric, ...]
    run: Callable[[Contender, Place], Measured]
    layers: tuple[Layer, ...] = ("pubsub", "queue")
    # The only families that it is about, if not all.
    families: tuple[str, ...] = ()
    # Layers that it can also be asked for.
    on_request: tuple[Layer, ...] = ()
    # Fewer rounds than others for what repeats itself within one, and takes long.
    most_rounds: int | None = None
    # Whether its columns are sizes, over which a cost should stay the same.
    is_scaling: bool = False

    def contenders(self, words: Sequence[str], layers: Sequence[Layer]) -> Sequence[Contender]:
        possible = (*self.layers, *self.on_request)
        wanted = [layer for layer in layers if layer in possible] if layers else self.layers
        # What is about one family runs whoever else was asked for.
        return chosen(self.families or words, wanted, self.name)


def emptied(place: Place) -> None:
    """Leave nothing of one contender on the server for the next."""
    with Redis.from_url(place.valkey.url) as redis:
        redis.flushall()


class Disturbance:
    """How much of the machine others have used since this was made."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._began = time.monotonic()
        self._before = self._by_others()

    def share(self) -> float:
        """A part of all cores. Of use when every process of a contender has ended."""
        seconds = time.monotonic() - self._began
        return max(0.0, self._by_others() - self._before) / seconds / len(CORES)

    def _by_others(self) -> float:
        return machine_seconds() - own_seconds() - cpu_seconds(self._place.valkey.pid or 0)


def take_turns(
    benchmark: Benchmark,
    contenders: Sequence[Contender],
    place: Place,
    result: Result,
    say: Callable[[str], None],
    empty: Callable[[Place], None] = emptied,
) -> None:
    """
    Measure everyone, in rounds: A B C A B C, so that a slow minute is nobody's own.

    A contender that fails twice is left out; the others go on.
    """
    failures: dict[str, int] = {}
    rounds = min(place.settings.rounds, benchmark.most_rounds or place.settings.rounds)
    for number in range(rounds):
        for contender in contenders:
            if failures.get(contender.name, 0) == 2:
                continue
            empty(place)
            began = time.monotonic()
            error = _measure(benchmark, contender, place, result)
            took = f"{time.monotonic() - began:.0f} s"
            turn = f"{benchmark.name} {number + 1}/{rounds} {contender.name}"
            say(f"{turn}: {error or took}")
            if error:
                failures[contender.name] = failures.get(contender.name, 0) + 1


def _measure(benchmark: Benchmark, contender: Contender, place: Place, result: Result) -> str:
    """One contender, once; returns what went wrong."""
    disturbance = Disturbance(place)
    try:
        measured = benchmark.run(contender, place)
    except (ChildFailed, OSError) as exc:
        _note_failure(result, contender, str(exc))
        return str(exc)
    others = {"others_share": disturbance.share()}
    for case, values in measured.items():
        result.row(case, contender.name, contender.label).add({**values, **others})
    return ""


def _note_failure(result: Result, contender: Contender, error: str) -> None:
    mine = [row for row in result.rows if row.contender == contender.name]
    for row in mine or [result.row("", contender.name, contender.label)]:
        row.error = error
