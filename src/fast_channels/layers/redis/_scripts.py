"""Lua scripts, which are files in this folder."""

from __future__ import annotations

import hashlib
from importlib.resources import files


class Script:
    """The text of a script, and the digest that identifies it to a server."""

    def __init__(self, name: str) -> None:
        self.text = (
            files("fast_channels.layers.redis").joinpath(f"{name}.lua").read_text(encoding="utf-8")
        )
        # EVALSHA expects SHA-1, which is not used for security here.
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
