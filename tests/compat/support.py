"""What the compatibility tests share."""

from __future__ import annotations

import re

# asyncio's debug mode, part of `-X dev`, remarks on every step that took long.
# That is about the machine the tests run on.
SLOW_STEP = re.compile(r"Executing <.* took [\d.]+ seconds")


def complaints(stderr):
    """Return the lines that a program under `-X dev` should not have written."""
    return [line for line in stderr.splitlines() if not SLOW_STEP.fullmatch(line)]
