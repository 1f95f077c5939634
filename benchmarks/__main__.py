"""The command line: `python -m benchmarks fanout --clients 500 --window 20 1 --rounds 5`."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_channels.testing.server import ValkeyServer

from . import cases, machine
from .benchmark import take_turns
from .contenders import SERVERS
from .document import machines, section, standing, update
from .plots import draw
from .processes import LOAD_CORES, ROOT
from .results import Result
from .settings import LAYERS, Place, Settings
from .tables import comparison, tables

if TYPE_CHECKING:
    from .benchmark import Benchmark

DOCUMENT = ROOT / "docs" / "performance.md"
# Folders of results: in the repository, and of this machine only.
PUBLISHED = ROOT / "docs" / "performance"
LOCAL = ROOT / ".bench"

# The benchmarks that a developer runs again and again; they take less than two minutes.
QUICK = ("fanout", "echo", "pipeline", "broadcast")
QUICK_CONTENDERS = ("bare", "ours")


def parser() -> argparse.ArgumentParser:
    default = Settings()
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=", ".join(cases.ALL))
    made.add_argument("--contenders", type=words, default=[], help="names, or their first parts")
    made.add_argument("--layer", nargs="+", choices=LAYERS, default=[])
    made.add_argument("--server", choices=SERVERS, default=default.server)
    made.add_argument("--rounds", type=int)
    made.add_argument("--seconds", type=float)
    made.add_argument("--clients", type=int)
    made.add_argument("--client-processes", type=int)
    made.add_argument("--listeners", type=int, help="clients whose latency is measured")
    made.add_argument("--pace", type=float, help="broadcasts per second, for latency")
    made.add_argument("--window", type=int, nargs="+", help="broadcasts in flight")
    made.add_argument("--size", type=int, help="bytes of a message")
    made.add_argument("--idle", type=int, help="connections whose memory is measured")
    made.add_argument("--audience", type=int, help="members of an in-memory broadcast")
    made.add_argument("--returning", type=int, help="clients that come back at once")
    made.add_argument("--missed", type=int, help="messages that each of them has missed")
    made.add_argument("--appended", type=int, help="messages sent to a log, for its memory")
    made.add_argument(
        "--quick", action="store_true", help="small settings, and a comparison with the stored run"
    )
    made.add_argument(
        "--save", action="store_true", help="with --quick: store this run for later comparisons"
    )
    made.add_argument(
        "--document", action="store_true", help="write the results into docs/performance.md"
    )
    made.add_argument(
        "--render", action="store_true", help="only write the document again from stored results"
    )
    made.add_argument("--output", type=Path, help="folder for results and plots")
    return made


def words(text: str) -> list[str]:
    return text.split(",")


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings of the command line, with defaults for the rest."""
    quick = {"rounds": 2, "seconds": 1.0, "clients": 200, "warmup": 0.3, "messages": 20_000}
    chosen: dict[str, Any] = dict(quick) if options.quick else {}
    for name in Settings.__dataclass_fields__:
        value = getattr(options, name, None)
        if value is not None:
            chosen[name] = tuple(value) if isinstance(value, list) else value
    return Settings(**chosen)


def measure(benchmark: Benchmark, options: argparse.Namespace, settings: Settings) -> Result:
    """Run one benchmark on a Valkey server of its own."""
    contenders = options.contenders or (QUICK_CONTENDERS if options.quick else ())
    result = Result(
        benchmark.name, command(benchmark, options), machine.describe(), os.getloadavg()[0]
    )
    with ValkeyServer() as valkey:
        place = Place(valkey, settings)
        taking_part = benchmark.contenders(contenders, options.layer)
        take_turns(benchmark, taking_part, place, result, say)
    return result


def command(benchmark: Benchmark, options: argparse.Namespace) -> str:
    """Return the command that runs this benchmark only."""
    given = [word for word in sys.argv[1:] if word not in options.benchmarks]
    return shlex.join(["python", "-m", "benchmarks", benchmark.name, *given])


def publish(benchmark: Benchmark, result: Result) -> None:
    """Write a result and its plot into the document, and update the list of machines."""
    result.save(PUBLISHED / f"{benchmark.name}.json")
    plots = draw(benchmark, result, PUBLISHED)
    measured = [
        (known, Result.load(path))
        for name, known in cases.ALL.items()
        if (path := PUBLISHED / f"{name}.json").exists()
    ]
    parts = {
        benchmark.name: section(benchmark, result, plots),
        "machine": machines([result for _, result in measured]),
        "standing": standing(measured),
    }
    update(DOCUMENT, parts)


def compare(benchmark: Benchmark, result: Result, *, save: bool) -> None:
    """Print the changes since the stored run. Store this run if none is stored."""
    path = LOCAL / "quick" / f"{benchmark.name}.json"
    if path.exists():
        print("\n" + comparison(benchmark, Result.load(path), result))
    if save or not path.exists():
        result.save(path)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    failed = 0
    for name in options.benchmarks or (QUICK if options.quick else cases.ALL):
        benchmark = cases.ALL[name]
        if options.render:
            stored = PUBLISHED / f"{name}.json"
            if stored.exists():
                publish(benchmark, Result.load(stored))
            continue
        result = measure(benchmark, options, settings)
        failed += any(row.error for row in result.rows)
        print(f"\n## {benchmark.title}\n\n{tables(benchmark, result)}", flush=True)
        if options.output:
            result.save(options.output / f"{name}.json")
        if options.quick:
            compare(benchmark, result, save=options.save)
        if options.document:
            publish(benchmark, result)
    return 1 if failed else 0


def main() -> int:
    made = parser()
    options = made.parse_args()
    for name in options.benchmarks:
        if name not in cases.ALL:
            made.error(f"no benchmark is called {name!r}; there are {', '.join(cases.ALL)}")
    # SIGTERM ends the suite like Ctrl+C, so that it ends the processes that it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Valkey inherits these cores. The server under test has the other ones.
    os.sched_setaffinity(0, LOAD_CORES)
    try:
        return run(options)
    except KeyboardInterrupt:
        say("stopped; all processes of the suite have ended")
        return 130


if __name__ == "__main__":
    sys.exit(main())
