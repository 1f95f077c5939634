"""The JavaScript tests of clients/js run against servers in Python."""

from __future__ import annotations

import pytest

from tests.clients.support import JS_TESTS, run_node_tests


@pytest.mark.parametrize("name", ["resume.test.js", "socket.test.js"])
async def test_client_does_what_its_tests_say(name, scripted):
    """All tests of a file pass, and at least one exists."""
    assert await run_node_tests(JS_TESTS / name, SCRIPTED_SERVER=scripted.address) >= 10
