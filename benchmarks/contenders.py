"""
The contenders. A new layer or contender is one line in CONTENDERS.

Its application is a file in `benchmarks/apps`; the docstring of that package lists its parts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

Layer = Literal["pubsub", "queue", "streams", "memory"]

# The interpreters in which the imports of applications are installed.
ENVIRONMENTS = {
    "suite": sys.executable,
    "peers": str(ROOT / ".venv-bench-peers" / "bin" / "python"),
}

# Arguments of uvicorn. Contenders without a server of their own have the same loop and protocol.
SERVERS: dict[str, Sequence[str]] = {
    # The default of uvicorn, which is "websockets-sansio" since 0.52.
    "uvicorn": ("--loop", "uvloop", "--ws", "auto"),
    "websockets": ("--loop", "uvloop", "--ws", "websockets"),
    "wsproto": ("--loop", "uvloop", "--ws", "wsproto"),
    "coalesced": (
        *("--loop", "uvloop"),
        *("--ws", "fast_channels.servers.uvicorn:CoalescingWebSocketProtocol"),
    ),
}


@dataclass(frozen=True)
class Contender:
    """One row of the tables."""

    name: str
    label: str
    app: str
    layer: Layer
    environment: Literal["suite", "peers"] = "peers"
    wire: Literal["plain", "socketio"] = "plain"
    # A key of SERVERS for a contender with a server of its own, or "".
    server: str = ""
    # BENCH_LANE: the way in which the application sends a message to clients.
    lane: str = "handler"
    # True if the contender works after some idle seconds. python-socketio ends connections
    # without answers to its pings, which our clients do not send, and with the queue of
    # channels_redis, some clients miss messages then.
    rests: bool = True
    # Benchmarks that need a feature that the contender does not have.
    without: frozenset[str] = frozenset()
    # The benchmarks of the contender, or all if empty.
    only: frozenset[str] = frozenset()

    @property
    def python(self) -> str:
        return ENVIRONMENTS[self.environment]

    def takes_part(self, benchmark: str) -> bool:
        return benchmark not in self.without and (not self.only or benchmark in self.only)

    @property
    def family(self) -> str:
        """The first part of the name: "ours" for "ours-queue"."""
        return self.name.partition("-")[0]


# Only these benchmarks show a difference in how broadcasts are written.
BROADCASTS = frozenset({"fanout", "latency", "group_size"})

# Benchmarks that need shared channels, or channels that join groups one by one.
FRAMEWORK = frozenset({"pipeline", "membership"})

CONTENDERS = (
    Contender("bare-pubsub", "bare ASGI", "bare", "pubsub", "suite"),
    Contender(
        "frames", "ready frames, no server", "bare", "pubsub", "suite", only=frozenset({"ceiling"})
    ),
    Contender(
        "bare-queue", "Redis by hand", "bare", "queue", "suite", only=frozenset({"pipeline"})
    ),
    Contender("bare-memory", "bare ASGI, in memory", "bare", "memory", "suite"),
    Contender("ours-pubsub", "Fast Channels, pub/sub", "ours", "pubsub", "suite"),
    Contender(
        "ours-forwards",
        "Fast Channels, pub/sub, `forwards`",
        "ours",
        "pubsub",
        "suite",
        lane="fast",
        only=BROADCASTS,
    ),
    Contender(
        "ours-coalesced",
        "Fast Channels, pub/sub, coalesced writes",
        "ours",
        "pubsub",
        "suite",
        server="coalesced",
        only=BROADCASTS,
    ),
    Contender(
        "ours-both",
        "Fast Channels, pub/sub, `forwards` and coalesced writes",
        "ours",
        "pubsub",
        "suite",
        server="coalesced",
        lane="fast",
        only=BROADCASTS,
    ),
    Contender("ours-queue", "Fast Channels, queue", "ours", "queue", "suite"),
    Contender("ours-streams", "Fast Channels, streams", "ours", "streams", "suite"),
    Contender(
        "ours-streams-forwards",
        "Fast Channels, streams, `forwards`",
        "ours",
        "streams",
        "suite",
        lane="fast",
        only=BROADCASTS,
    ),
    Contender("ours-memory", "Fast Channels, in memory", "ours", "memory", "suite"),
    Contender("fc1-pubsub", "fast-channels 1.1, pub/sub", "fast_channels_1", "pubsub"),
    Contender("fc1-queue", "fast-channels 1.1, queue", "fast_channels_1", "queue", rests=False),
    Contender("fc1-memory", "fast-channels 1.1, in memory", "fast_channels_1", "memory"),
    Contender("channels-pubsub", "Django Channels, pub/sub", "django_channels", "pubsub"),
    Contender("channels-queue", "Django Channels, queue", "django_channels", "queue", rests=False),
    Contender("channels-memory", "Django Channels, in memory", "django_channels", "memory"),
    Contender(
        "litestar-pubsub", "Litestar channels", "litestar_channels", "pubsub", without=FRAMEWORK
    ),
    Contender(
        "litestar-memory",
        "Litestar channels, in memory",
        "litestar_channels",
        "memory",
        without=FRAMEWORK,
    ),
    Contender(
        "socketio-pubsub",
        "python-socketio",
        "python_socketio",
        "pubsub",
        wire="socketio",
        rests=False,
        without=FRAMEWORK,
    ),
    Contender(
        "socketio-memory",
        "python-socketio, in memory",
        "python_socketio",
        "memory",
        wire="socketio",
        rests=False,
        without=FRAMEWORK,
    ),
)


def chosen(words: Sequence[str], layers: Sequence[Layer], benchmark: str) -> tuple[Contender, ...]:
    """
    Return the contenders of a benchmark with one of `layers`.

    `words` are names or families of contenders; none means all. Raises ValueError for an
    unknown word.
    """
    for word in words:
        if not any(word in (c.name, c.family) for c in CONTENDERS):
            known = ", ".join(c.name for c in CONTENDERS)
            raise ValueError(f"no contender is called {word!r}; there are {known}")
    return tuple(
        contender
        for contender in CONTENDERS
        if contender.layer in layers
        and contender.takes_part(benchmark)
        and (not words or contender.name in words or contender.family in words)
    )
