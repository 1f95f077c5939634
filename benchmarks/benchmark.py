"""What a benchmark is, and how the contenders take turns in it."""

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
    # Starts a contender, and yields what measures it once.
    Stand = Callable[[Contender, Place], AbstractContextManager[Callable[[], Measured]]]

# Columns that more than one benchmark has.
SERVER_CPU = Metric("cpu", "server CPU, µs", 2, "lower")
SHARES = (
    Metric("server_share", "server busy", is_share=True),
    Metric("client_share", "client busy", is_share=True),
    Metric("publisher_share", "publisher busy", is_share=True),
)

# Above this part of its time a process may be what was measured.
LIMIT = 0.85

# After so many a contender is left out.
MOST_FAILURES = 2

# Into so many is a round cut where contenders need no start for it.
SLICES = 4
# Seconds to warm up before each of them: everybody is connected, and has worked before.
SHORT_WARMUP = 0.2


@dataclass(frozen=True)
class Benchmark:
    """One of the suite."""

    name: str
    title: str
    # The first is what ratios and plots are about.
    metrics: tuple[Metric, ...]
    # One of the two. The first starts a contender, measures it and ends it; with the
    # second it stays for all rounds, idle while it is the turn of others.
    run: Callable[[Contender, Place], Measured] | None = None
    stand: Stand | None = None
    layers: tuple[Layer, ...] = ("pubsub", "queue")
    # The only families that it is about, if not all.
    families: tuple[str, ...] = ()
    # Layers that it can also be asked for.
    on_request: tuple[Layer, ...] = ()
    # Fewer rounds than others for what repeats itself within one, and takes long.
    most_rounds: int | None = None
    # Whether its columns are sizes, over which a cost should stay the same.
    is_scaling: bool = False
    # Whether the lines of its table are its cases, there being one contender.
    is_by_case: bool = False

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

    A contender that fails twice is left out; the others go on. Where contenders
    stand, rounds are short, and every other one goes backwards: A B C C B A.
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
    """The turns of one contender. It is started for each of them, unless it stands."""

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
        """Whether it has failed too often to be given another turn."""
        return self._failures >= MOST_FAILURES

    def begin(self, stack: contextlib.ExitStack, settings: Settings) -> None:
        """Start it for all of its turns, if it stands."""
        if not self.stands or self._benchmark.stand is None:
            return
        try:
            # With a server of its own: all of them use the same names.
            place = Place(stack.enter_context(ValkeyServer()), settings)
            self._measure = stack.enter_context(self._benchmark.stand(self.contender, place))
        except (ChildFailed, OSError) as exc:
            self._failures = MOST_FAILURES
            self._note_failure(str(exc))

    def take(self) -> str:
        """Measure it once; returns what went wrong."""
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
            raise TypeError(f"{self._benchmark.name} has no way to be run")
        disturbance = Disturbance(self._place)
        measured = self._benchmark.run(self.contender, self._place)
        others = {"others_share": disturbance.share()}
        return {case: {**values, **others} for case, values in measured.items()}

    def _note_failure(self, error: str) -> None:
        name, result = self.contender.name, self._result
        mine = [row for row in result.rows if row.contender == name]
        for row in mine or [result.row("", name, self.contender.label)]:
            row.error = error
