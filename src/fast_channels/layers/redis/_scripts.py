"""Lua scripts, kept as files beside this one."""

from __future__ import annotations

import hashlib
from importlib.resources import files


class Script:
    """A script's text, and the digest by which a server knows it."""

    def __init__(self, name: str) -> None:
        self.text = (
            files("fast_channels.layers.redis").joinpath(f"{name}.lua").read_text(encoding="utf-8")
        )
        # What EVALSHA expects; not a matter of security.
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
