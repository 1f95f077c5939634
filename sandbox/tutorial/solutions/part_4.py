"""Exercise of part 4: a worker sends to a room, too."""

from __future__ import annotations

import contextlib

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.sync import SyncChannelLayer


def tell_lobby(text: str) -> None:
    with contextlib.suppress(LayerUnavailable):
        SyncChannelLayer("chat").group_send("room-lobby", {"type": "room.message", "text": text})
