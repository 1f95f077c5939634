"""How much of everything: what the command line can change, and for whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_channels.testing.server import ValkeyServer

    from .contenders import Layer

LAYERS: tuple[Layer, ...] = ("pubsub", "queue", "streams", "memory")


@dataclass(frozen=True)
class Settings:
    """One run. Times are in seconds, sizes in bytes."""

    rounds: int = 3
    # Measured, after warming up.
    seconds: float = 2.0
    warmup: float = 0.5
    clients: int = 500
    # Processes that the clients are spread over.
    client_processes: int = 1
    # Broadcasts that are under way at the same time.
    window: tuple[int, ...] = (20, 1)
    size: int = 100
    # A key of contenders.SERVERS.
    server: str = "uvicorn"
    # Idle connections whose memory is measured.
    idle: int = 2000
    # Connections of which each waits for its own frame.
    echoes: int = 50
    # Clients whose latency is measured, and broadcasts per second: what the slowest
    # contender can do in half of its time.
    listeners: int = 100
    pace: float = 20.0
    # Members of the one group of an in-memory broadcast.
    audience: int = 5000
    # Sizes of a group, and numbers of groups, over which costs should be flat.
    members: tuple[int, ...] = (10, 100, 1000, 10_000)
    groups: tuple[int, ...] = (10, 100, 1000, 10_000, 100_000)
    # What the next larger number of groups may take to join, and a broadcast to the
    # next larger group, by what the last one took; those who need more are left out.
    patience: float = 40.0
    longest_broadcast: float = 10.0
    # Clients that come back at once, and messages that each of them has missed.
    returning: int = 1000
    missed: int = 100
    # Messages that are sent to a log whose memory is measured.
    appended: int = 100_000
    # Messages that a producer may send at most.
    messages: int = 50_000


@dataclass(frozen=True)
class Place:
    """Where a contender is measured."""

    valkey: ValkeyServer
    settings: Settings
