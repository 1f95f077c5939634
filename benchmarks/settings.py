"""The sizes and times of a run, which the command line can change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_channels.testing.server import ValkeyServer

    from .contenders import Layer

LAYERS: tuple[Layer, ...] = ("pubsub", "queue", "streams", "memory")


@dataclass(frozen=True)
class Settings:
    """Settings of one run. Times are in seconds, sizes in bytes."""

    rounds: int = 3
    # The measured time, after the warm-up.
    seconds: float = 2.0
    warmup: float = 0.5
    clients: int = 500
    # The number of client processes.
    client_processes: int = 1
    # Broadcasts in flight at the same time.
    window: tuple[int, ...] = (20, 1)
    size: int = 100
    # A key of contenders.SERVERS.
    server: str = "uvicorn"
    # Idle connections of which the memory is measured.
    idle: int = 2000
    # Connections that each wait for their own frame.
    echoes: int = 50
    # Clients of which the latency is measured, and broadcasts per second: the slowest contender
    # needs half of its time for them.
    listeners: int = 100
    pace: float = 20.0
    # Members of the one group of an in-memory broadcast.
    audience: int = 5000
    # Sizes of a group, and numbers of groups, over which costs should be flat.
    members: tuple[int, ...] = (10, 100, 1000, 10_000)
    groups: tuple[int, ...] = (10, 100, 1000, 10_000, 100_000)
    # Limits of the estimated time to join the next larger number of groups, and of a broadcast
    # to the next larger group. A contender that needs more does not reach the next size.
    patience: float = 40.0
    longest_broadcast: float = 10.0
    # Clients that reconnect at once, and messages that each of them has missed.
    returning: int = 1000
    missed: int = 100
    # Messages sent to a log before its memory is measured.
    appended: int = 100_000
    # The most messages that a producer sends.
    messages: int = 50_000


@dataclass(frozen=True)
class Place:
    """The Valkey server and the settings of a measurement."""

    valkey: ValkeyServer
    settings: Settings
