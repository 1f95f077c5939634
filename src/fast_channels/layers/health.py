"""The health of a layer and its broker, for health checks and dashboards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

State: TypeAlias = Literal["connecting", "ready", "degraded", "closed"]
"""
State of a layer or of one server of its broker.

- `connecting`: no server has answered yet.
- `ready`: every connection works.
- `degraded`: a connection is broken and is being replaced. Calls that need it wait or raise
  LayerUnavailable.
- `closed`: the layer is not in use.
"""

# The worst first: a layer has the worst state of its servers.
_SEVERITY: tuple[State, ...] = ("degraded", "connecting", "ready", "closed")


@dataclass(frozen=True)
class Health:
    """The health of a layer or of one server of its broker."""

    state: State
    """The state; with several servers, the worst one."""

    since: float
    """Begin of the state: Unix time in seconds."""

    error: str | None = None
    """The last error; it stays when everything works again."""

    servers: Mapping[str, Health] = field(default_factory=dict["str", "Health"])
    """The health of each server of the broker, by its address without a password."""


def combined(servers: Mapping[str, Health]) -> Health:
    """Return the worst state among `servers`, which must not be empty."""
    worst = min(servers.values(), key=lambda health: _SEVERITY.index(health.state))
    errors = [health for health in servers.values() if health.error is not None]
    error = worst.error or (errors[0].error if errors else None)
    return Health(worst.state, worst.since, error, servers)
