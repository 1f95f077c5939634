"""What CONTRIBUTING.md shows works as it is written."""

from __future__ import annotations

import re

from tests.documents.support import CONTRIBUTING, block_with, run_pytest


def test_backend_of_the_guide_keeps_the_contract(tmp_path):
    """The example backend in CONTRIBUTING passes the suite that it shows."""
    (tmp_path / "test_wire.py").write_text(block_with(CONTRIBUTING, "class WireBroker"))
    result = run_pytest(tmp_path)
    assert result.returncode == 0, result.stdout[-3000:]
    assert re.search(r"\b\d\d passed", result.stdout)
