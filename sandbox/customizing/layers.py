"""One more row for the table of layers."""

from __future__ import annotations

from fast_channels.layers import RedisPubSubChannelLayer
from sandbox.layers import LayerTable, redis_url, setup_layers

MONITORING: LayerTable = {
    "monitoring": {
        "layer": RedisPubSubChannelLayer(hosts=[redis_url], prefix="monitor", capacity=500),
        "description": "alerts for clients that watch the servers",
    },
}


def setup_monitoring() -> None:
    """Register the layers of the showcase and the one above."""
    setup_layers(extra=MONITORING)
