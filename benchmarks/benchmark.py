"""The class of a benchmark, and the turns of its contenders."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from redis import Redis

from fast_channels.testing.server import ValkeyServer

from .contenders import chosen
from .processes import CORES, ChildFailed, cpu_seconds, machine_seconds, own_seconds
from .results import Metric, Result
from .settings import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from .contenders import Contender, Layer
    from .settings import Settings

    # Measurements of one contender in one round: by case, then by metric.
    Measured = Mapping[str, Mapping[str, float]]
    # Starts a contender, and yields a function that measures it once.
    Stand = Callable[[Contender, Place], AbstractContextManager[Callable[[], Measured]]]

# Columns that more than one benchmark has.
SERVER_CPU = Metric("cpu", "server CPU, µs", 2, "lower")
SHARES = (
    Metric("server_share", "server busy", is_share=True),
    Metric("client_share", "client busy", is_share=True),
    Metric("publisher_share", "publisher busy", is_share=True),
)

# A process that was busy for a larger part of its time may have limited the measurement.
LIMIT = 0.85

# A contender takes no more turns after this many failures.
MOST_FAILURES = 2

# If contenders keep running, a round is divided into this many short ones.
SLICES = 4
# Seconds to warm up before a short round: all clients are connected and have been busy before.
SHORT_WARMUP = 0.2


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the suite."""

    name: str
    title: str
    # Ratios and plots use the first one.
    metrics: tuple[Metric, ...]
    # A benchmark has `run` or `stand`. `run` starts a contender, measures it and ends it. With
    # `stand`, the contender runs during all rounds, idle in the turns of other contenders.
    run: Callable[[Contender, Place], Measured] | None = None
    stand: Stand | None = None
    layers: tuple[Layer, ...] = ("pubsub", "queue")
    # The families that it measures, or all if empty.
    families: tuple[str, ...] = ()
    # Layers that the command line can add.
    on_request: tuple[Layer, ...] = ()
    # Fewer rounds for a benchmark that takes long and repeats itself within a round.
    most_rounds: int | None = None
    # True if its columns are sizes over which a cost should stay the same.
    is_scaling: bool = False
    # True if the lines of its table are its cases, because it has one contender.
    is_by_case: bool = False

    def contenders(self, words: Sequence[str], layers: Sequence[Layer]) -> Sequence[Contender]:
        possible = (*self.layers, *self.on_request)
        wanted = [layer for layer in layers if layer in possible] if layers else self.layers
        # A benchmark of one family runs even if the command line names other contenders.
        return chosen(self.families or words, wanted, self.name)


def emptied(place: Place) -> None:
    """Delete all data that a contender has left on the server."""
    with Redis.from_url(place.valkey.url) as redis:
        redis.flushall()


class Disturbance:
    """Measures how much of the machine other programs use, from its creation on."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._began = time.monotonic()
        self._before = self._by_others()

    def share(self) -> float:
        """Return the used part of all cores. Call this when all processes of a contender ended."""
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
    Measure all contenders in rounds, A B C A B C, so that a slow minute affects all of them.

    A contender that fails twice takes no more turns; the others continue. If contenders keep
    running, rounds are short, and every second round is in reverse: A B C C B A.
    """
    settings = place.settings
    slices = 1 if benchmark.stand is None else SLICES
    short = replace(settings, seconds=settings.seconds / slices, warmup=SHORT_WARMUP)
    rounds = min(settings.rounds, benchmark.most_rounds or settings.rounds) * slices
    with contextlib.ExitStack() as stack:
        turns = [Turns(benchmark, contender, place, result, empty) for contender in contenders]
        for one in turns:
            one.begin(stack, short)
        for number in range(rounds):
            for one in reversed(turns) if slices > 1 and number % 2 else turns:
                if not one.failed and (one.stands or number % slices == 0):
                    began = time.monotonic()
                    error = one.take()
                    took = f"{time.monotonic() - began:.0f} s"
                    turn = f"{benchmark.name} {number + 1}/{rounds} {one.contender.name}"
                    say(f"{turn}: {error or took}")


class Turns:
    """The turns of one contender, which is started for each turn unless it keeps running."""

    def __init__(
        self,
        benchmark: Benchmark,
        contender: Contender,
        place: Place,
        result: Result,
        empty: Callable[[Place], None],
    ) -> None:
        self.contender = contender
        self.stands = benchmark.stand is not None and contender.rests
        self._benchmark = benchmark
        self._place = place
        self._result = result
        self._empty = empty
        self._measure: Callable[[], Measured] = self._measure_anew
        self._failures = 0

    @property
    def failed(self) -> bool:
        """True if the contender has failed too often to take another turn."""
        return self._failures >= MOST_FAILURES

    def begin(self, stack: contextlib.ExitStack, settings: Settings) -> None:
        """Start the contender for all of its turns, if it keeps running."""
        if not self.stands or self._benchmark.stand is None:
            return
        try:
            # On a separate Valkey server, because all contenders use the same names.
            place = Place(stack.enter_context(ValkeyServer()), settings)
            self._measure = stack.enter_context(self._benchmark.stand(self.contender, place))
        except (ChildFailed, OSError) as exc:
            self._failures = MOST_FAILURES
            self._note_failure(str(exc))

    def take(self) -> str:
        """Measure the contender once. Return the error, or an empty string."""
        contender = self.contender
        try:
            for case, values in self._measure().items():
                self._result.row(case, contender.name, contender.label).add(values)
        except (ChildFailed, OSError) as exc:
            self._failures += 1
            self._note_failure(str(exc))
            return str(exc)
        return ""

    def _measure_anew(self) -> Measured:
        self._empty(self._place)
        if self._benchmark.stand is not None:
            with self._benchmark.stand(self.contender, self._place) as measure:
                return measure()
        if self._benchmark.run is None:
            raise TypeError(
                f"the benchmark {self._benchmark.name} has neither run nor stand; pass one"
            )
        disturbance = Disturbance(self._place)
        measured = self._benchmark.run(self.contender, self._place)
        others = {"others_share": disturbance.share()}
        return {case: {**values, **others} for case, values in measured.items()}

    def _note_failure(self, error: str) -> None:
        name, result = self.contender.name, self._result
        mine = [row for row in result.rows if row.contender == name]
        for row in mine or [result.row("", name, self.contender.label)]:
            row.error = error
