"""Helpers of the compatibility tests."""

from __future__ import annotations

import re

# asyncio's debug mode, part of `-X dev`, logs every slow step. That depends on the machine that
# runs the tests.
SLOW_STEP = re.compile(r"Executing <.* took [\d.]+ seconds")


def complaints(stderr):
    """Return the lines that a program under `-X dev` should not have written."""
    return [line for line in stderr.splitlines() if not SLOW_STEP.fullmatch(line)]
