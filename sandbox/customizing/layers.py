"""One more row for the table of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_channels.layers import RedisChannelLayer
from sandbox.layers import LayerFactory, setup_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

MONITORING: Mapping[str, LayerFactory] = {
    # An alert waits if its reader is busy for a minute.
    "monitoring": lambda url: RedisChannelLayer(
        hosts=[url],
        prefix="showcase-monitoring",
        expiry=120,
        capacity=500,
    ),
}


def setup_monitoring() -> None:
    """Register the layers of the showcase and the one above."""
    setup_layers(extra=MONITORING)
