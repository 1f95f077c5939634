"""The site, built once for all tests and all processes of a run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.documents.support import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Site:
    """The folder that `make docs` builds, and the warnings of Sphinx."""

    folder: Path
    complaints: str

    def pages(self) -> list[Path]:
        """Return all pages except generated ones, such as the index."""
        made = {"genindex.html", "py-modindex.html", "search.html"}
        return [page for page in sorted(self.folder.rglob("*.html")) if page.name not in made]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Return the site that `make docs` has built, or build it."""
    if built := os.environ.get("SITE"):
        folder = ROOT / built
        return Site(folder, (folder / "warnings.txt").read_text())
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, complaints = shared / "site", shared / "site.log"
    # The first process builds the site and the others wait. The lock ends with its process.
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complaints.exists():
            complaints_so_far = shared / "site.log.new"
            command = [sys.executable, "-m", "sphinx", "--nitpicky", "--quiet", "--fresh-env"]
            with complaints_so_far.open("w") as log:
                subprocess.run(
                    [*command, str(ROOT / "docs"), str(folder)],
                    cwd=shared,
                    stdout=log,
                    stderr=log,
                    check=False,
                )
            complaints_so_far.rename(complaints)
    return Site(folder, complaints.read_text())
