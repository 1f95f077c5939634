"""The job: ordinary blocking code that knows no queue."""

from __future__ import annotations

import contextlib
import os

from layers import layer

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.sync import SyncChannelLayer

# Made once, also if this module is imported by a process that forks its workers.
sync_layer = SyncChannelLayer(layer)


def build(name: str) -> None:
    message = {"type": "report.ready", "name": name, "process": os.getpid()}
    # The report is there, and must not be built again because nobody could be told.
    with contextlib.suppress(LayerUnavailable):
        sync_layer.group_send("reports", message)
