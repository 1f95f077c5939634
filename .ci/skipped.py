"""
Fail if a test was skipped that must run here: `skipped.py REPORT...`, reports in JUnit's format.

A skipped browser test, or a test without its server or interpreter, would look like success.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET

# Reasons for which a test may be skipped, even where everything is installed.
EXPECTED = (
    r"needs Python 3\.\d+",
    r"Hypercorn 0\.18 waits",
    r"this backend keeps no",
    r"pub/sub keeps nothing",
    r"this machine has no ",
    r"needs (nginx|systemd|a C compiler)",
    # Pictures for the documents, which `make pictures` takes.
    r"a picture|is looked at in tests/showcase",
)

# Parts of the names of test modules of which at least one test must have run.
REQUIRED = ("test_browser", "tests.interop", "tests.clients", "tests.contract", "tests.chaos")


def main(reports: list[str]) -> str | None:
    """Return the sentence to fail with, or None."""
    cases = [case for report in reports for case in ET.parse(report).iter("testcase")]
    problems = []
    ran = []
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        if skipped is None:
            ran.append(name)
        elif not any(re.search(reason, skipped.get("message", "")) for reason in EXPECTED):
            problems.append(f"{name}: {skipped.get('message')}")
    problems += [f"no test of {part} ran" for part in REQUIRED if not any(part in r for r in ran)]
    if problems:
        return "tests were skipped that must run here:\n" + "\n".join(problems)
    print(f"{len(ran)} tests ran, {len(cases) - len(ran)} were skipped for a good reason")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
