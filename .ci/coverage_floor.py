"""
Show which lines of each module the tests ran, and fail below a floor.

`make coverage` measures, in the processes of the tests and in those that they start.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import coverage

# Percent of the lines of each module that tests must run.
MODULE_FLOOR = 90
# Percent of all lines.
TOTAL_FLOOR = 98

# Modules with a lower floor.
EXCEPTIONS = {
    # Reads private attributes for tests; some that it can read are not needed now.
    "src/fast_channels/testing/inspect.py": 75,
}


def main() -> str | None:
    """Return the sentence to fail with, or None."""
    measured = coverage.Coverage()
    measured.combine()
    measured.save()
    total = measured.report()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "coverage.json")
        measured.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    percents = {name: file["summary"]["percent_covered"] for name, file in files.items()}
    below = [
        f"{name} {percent:.0f} %, floor {floor} %"
        for name, percent in percents.items()
        if percent < (floor := EXCEPTIONS.get(name, MODULE_FLOOR))
    ]
    if total < TOTAL_FLOOR:
        below.append(f"all modules {total:.1f} %, floor {TOTAL_FLOOR} %")
    if below:
        return "tests run too few lines:\n" + "\n".join(below)
    return None


if __name__ == "__main__":
    sys.exit(main())
