"""The examples of docs/testing.md pass as they are written."""

from __future__ import annotations

import io
import re
import unittest

from tests.documents.support import ROOT, block_with, run_pytest

PAGE = ROOT / "docs" / "testing.md"
EXAMPLES = ROOT / "docs" / "examples" / "testing"


def test_examples_pass():
    """The tests of testing.md pass in their folder, with the command of the page."""
    assert "pytest" in block_with(PAGE, "pytest", "console").split()
    result = run_pytest(EXAMPLES)
    assert result.returncode == 0, result.stdout[-3000:]
    found = sum(
        len(re.findall(r"^async def test_", file.read_text(), re.MULTILINE))
        for file in EXAMPLES.glob("test_*.py")
    )
    assert found > 10
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= found


def test_settings_of_the_page_are_those_of_the_examples():
    """pytest.ini has the settings of testing.md."""
    settings = block_with(PAGE, "[pytest]", "ini")
    assert settings in (EXAMPLES / "pytest.ini").read_text()


def test_test_case_of_the_page_works(registry):
    """The test case registers its layer in asyncSetUp, and removes it afterwards."""
    space: dict = {}
    exec(block_with(PAGE, "IsolatedAsyncioTestCase"), space)
    seen = []

    class Case(space["ChatTestCase"]):
        async def test_layer(self):
            seen.append((registry["chat"].health().state, registry.list_aliases()))

    result = unittest.TextTestRunner(stream=io.StringIO()).run(Case("test_layer"))
    assert (result.testsRun, result.wasSuccessful()) == (1, True)
    assert seen == [("ready", ["chat"])]
    assert registry.list_aliases() == []


def test_every_example_is_shown():
    """Each file of the folder is a listing of testing.md."""
    text = PAGE.read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f"<!-- from docs/examples/testing/{file.name} -->" in text, file
