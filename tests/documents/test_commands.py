"""
Commands, extras and modules that documents name exist.

The only blocks with nothing but such commands are in README.md, CONTRIBUTING.md, RELEASING.md
and docs/performance.md.
"""

from __future__ import annotations

import importlib.util
import re
import tomllib

import pytest

from tests.documents.support import DOCUMENTS, ROOT, blocks, name_of


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_in_documents_exist(document):
    """Make targets, extras and modules that a document names exist."""
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    text = document.read_text()
    for target in re.findall(r"make ([a-z-]+)\b", "\n".join(blocks(document, "console"))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for named in re.findall(r"'(?:fast-channels|\.)\[([a-z,]+)\]'", text):
        assert set(named.split(",")) <= set(extras), named
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module
