"""Exercise of part 1: an endpoint for the counters of each layer."""

from __future__ import annotations

from fast_channels.layers import channel_layers
from sandbox.main import app


@app.get("/statistics")
async def statistics() -> dict[str, object]:
    aliases = channel_layers.list_aliases()
    return {alias: channel_layers[alias].statistics() for alias in aliases}
