"""The cost of replay: a crowd of clients reconnects at once, and has missed messages."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark, emptied
from benchmarks.processes import Worker, cpu_seconds
from benchmarks.results import Metric
from benchmarks.session import CONNECT_TIMEOUT, serving, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place

# Messages of the group before the first missed one.
BEFORE = 10
HISTORY = ("--history-size", "1000", "--history-ttl", "300")


class Scene:
    """A server without connections, a crowd that may connect, and the log of its group."""

    def __init__(self, contender: Contender, place: Place, stack: contextlib.ExitStack) -> None:
        self.settings = place.settings
        self._valkey = place.valkey
        self._server = stack.enter_context(serving(contender, place))
        port = ["--port", str(self._server.port)]
        self.crowd = stack.enter_context(Worker("returning", port))
        self._log = stack.enter_context(worker("log", HISTORY, contender, place))

    def append(self, count: int) -> str:
        """Append `count` messages, and return the position of the last one."""
        return str(self._log.call("append", count=count, size=self.settings.size)["position"])

    def come(self, missed: int, place: str = "") -> None:
        """Let the crowd connect. Clients with a position, `place`, have `missed` messages."""
        self.crowd.call(
            "come",
            timeout=CONNECT_TIMEOUT,
            count=self.settings.returning,
            had=BEFORE,
            missed=missed,
            place=place,
        )

    def measure(self, work: Callable[[], None]) -> dict[str, float]:
        """Do `work`, and return its cost for each client."""
        before = self._moment()
        work()
        seconds, server, valkey, clients = (
            after - then for then, after in zip(before, self._moment(), strict=True)
        )
        count = self.settings.returning
        return {
            "seconds": seconds,
            "cpu": server / count * 1e3,
            "valkey": valkey / count * 1e3,
            "server_share": server / seconds,
            "client_share": clients / seconds,
        }

    def _moment(self) -> tuple[float, float, float, float]:
        valkey = cpu_seconds(self._valkey.pid or 0)
        return time.monotonic(), self._server.cpu(), valkey, self.crowd.cpu()

    def deliver(self, count: int) -> None:
        """Append `count` messages, and wait until each client has received them next."""
        self.crowd.call("expect", more=count)
        self.append(count)
        self.crowd.call("reached", timeout=CONNECT_TIMEOUT)


@contextlib.contextmanager
def scene(contender: Contender, place: Place) -> Iterator[Scene]:
    emptied(place)
    with contextlib.ExitStack() as stack:
        made = Scene(contender, place, stack)
        yield made
        # One more message shows that no client got a message twice or still waits for one.
        made.deliver(1)


def run(contender: Contender, place: Place) -> Measured:
    missed = place.settings.missed
    with scene(contender, place) as one:
        one.append(BEFORE)
        plain = one.measure(lambda: one.come(0))
        live = one.measure(lambda: one.deliver(missed))
    with scene(contender, place) as one:
        here = one.append(BEFORE)
        informed = one.measure(lambda: one.come(0, here))
        placed = one.measure(lambda: one.deliver(missed))
    with scene(contender, place) as one:
        here = one.append(BEFORE)
        one.append(missed)
        resumed = one.measure(lambda: one.come(missed, here))
    cases = {
        "connect, without the protocol": plain,
        f"connect, then {missed:,} messages live": together(plain, live),
        "resume, nothing missed": informed,
        f"resume, then {missed:,} messages live": together(informed, placed),
        f"resume, {missed:,} messages missed": resumed,
    }
    return {
        case: {
            **measured,
            "times": measured["seconds"] / plain["seconds"],
            "cpu_times": measured["cpu"] / plain["cpu"],
        }
        for case, measured in cases.items()
    }


def together(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Add the costs of two steps. Shares of a time cannot be added."""
    return {key: first[key] + second[key] for key in ("seconds", "cpu", "valkey")}


BENCHMARK = Benchmark(
    "replay",
    "Replay: a crowd comes back at once",
    (
        Metric("seconds", "until all have all, s", 2, "lower"),
        Metric("times", "/ connect", 2, "lower"),
        Metric("cpu", "server CPU of each, ms", 2, "lower"),
        Metric("cpu_times", "CPU / connect", 2, "lower"),
        Metric("valkey", "Valkey CPU of each, ms", 3, "lower"),
        Metric("server_share", "server busy", is_share=True),
        Metric("client_share", "client busy", is_share=True),
    ),
    run,
    layers=("streams",),
    families=("ours",),
    is_by_case=True,
)
