"""Tests show every promise of docs/guarantees.md."""

from __future__ import annotations

import re

from tests.documents.support import ROOT

GUARANTEES = ROOT / "docs" / "guarantees.md"


def test_every_guarantee_names_a_test_that_exists():
    """The last cell of each row names a test of a contract or of a file."""
    rows = [line for line in GUARANTEES.read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| layer", "| the client", "| |"))]
    rows = [row for row in rows if not row.endswith("| shown by |")]
    assert len(rows) > 40
    files = {
        "contract": "contract.py",
        "history": "history_contract.py",
        "work": "work_contract.py",
    }
    contracts = {
        name: (ROOT / "src" / "fast_channels" / "testing" / file).read_text()
        for name, file in files.items()
    }
    for row in rows:
        shown_by = row.split("|")[-2].strip()
        if match := re.fullmatch(r"(contract|history|work) `(test_\w+)`", shown_by):
            assert f"def {match[2]}(" in contracts[match[1]], row
        else:
            match = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", shown_by)
            assert match, row
            assert f"def {match[2]}(" in (ROOT / match[1]).read_text(), row
