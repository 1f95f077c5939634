"""How a layer and its broker are doing, for health checks and dashboards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

# `connecting`: nothing has answered yet. `ready`: every connection works. `degraded`:
# one of them does not and is being made anew; what needs it waits or raises
# LayerUnavailable. `closed`: the layer is not in use.
State: TypeAlias = Literal["connecting", "ready", "degraded", "closed"]

# The worst first: what the whole is like if one part is.
_SEVERITY: tuple[State, ...] = ("degraded", "connecting", "ready", "closed")


@dataclass(frozen=True)
class Health:
    """How a layer is doing, or one server of its broker."""

    # Of several servers, the worst.
    state: State
    # When it began: Unix time in seconds.
    since: float
    # What went wrong last; kept when all is well again.
    error: str | None = None
    # The same for each server of the broker, by its address without a password.
    servers: Mapping[str, Health] = field(default_factory=dict["str", "Health"])


def combined(servers: Mapping[str, Health]) -> Health:
    """Return the worst state among `servers`, of which there is at least one."""
    worst = min(servers.values(), key=lambda health: _SEVERITY.index(health.state))
    errors = [health for health in servers.values() if health.error is not None]
    error = worst.error or (errors[0].error if errors else None)
    return Health(worst.state, worst.since, error, servers)
