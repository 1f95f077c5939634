"""The job is ordinary blocking code, independent of any queue."""

from __future__ import annotations

import contextlib
import os

from layers import layer

from fast_channels import LayerUnavailable, SyncChannelLayer

# One object is enough, even if a process imports this module and then forks its workers.
sync_layer = SyncChannelLayer(layer)


def build(name: str) -> None:
    message = {"type": "report.ready", "name": name, "process": os.getpid()}
    # The report is built. An error here would make the queue build it again.
    with contextlib.suppress(LayerUnavailable):
        sync_layer.group_send("reports", message)
