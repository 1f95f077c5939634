"""docs/reference/command-line.md quotes the real output of the command."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.documents.support import ROOT, block_with

PAGE = ROOT / "docs" / "reference" / "command-line.md"


def test_help_is_as_the_page_quotes_it():
    """The quote equals the output, with lines of at most 100 columns."""
    result = subprocess.run(
        [sys.executable, "-m", "fast_channels", "worker", "--help"],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert block_with(PAGE, "usage:", "console") == result.stdout
