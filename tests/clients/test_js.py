"""The tests of clients/js, which are JavaScript, against servers that are Python."""

from __future__ import annotations

import pytest

from tests.clients.support import JS_TESTS, run_node_tests


@pytest.mark.parametrize("name", ["resume.test.js", "socket.test.js"])
async def test_client_does_what_its_tests_say(name, scripted):
    """All tests of a file pass, and there are some."""
    assert await run_node_tests(JS_TESTS / name, SCRIPTED_SERVER=scripted.address) >= 10
