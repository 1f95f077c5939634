"""What docs/_ext adds to Sphinx: steps of the tutorial, and links of the repository."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from sandbox.tutorial.steps import all_steps
from tests.documents.support import ROOT

PAGES = {
    "index.md": """# Pages

```{toctree}
steps
wrong
```
""",
    "steps.md": "# Steps\n\n" + "\n".join(f"```{{step}} {number}\n```\n" for number in all_steps()),
    "wrong.md": "# Wrong\n\n```{step} 9.99\n```\n",
}

SPHINX = [sys.executable, "-m", "sphinx", "-q", "-C", "-D", "extensions=myst_parser,step"]


@dataclass(frozen=True)
class Built:
    complaints: str
    steps: str


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A site of a few pages, with the directive and nothing else of ours."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in PAGES.items():
        (source / name).write_text(text)
    paths = [ROOT / "docs" / "_ext", ROOT, ROOT / "src"]
    result = subprocess.run(
        [*SPHINX, str(source), str(site)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=True,
    )
    return Built(result.stderr, (site / "steps.html").read_text())


def test_step_shows_its_file_its_code_and_what_it_replaces(built):
    """With the indentation that it has in the file, to be copied as it is."""
    parts = re.split(r'<div class="step [^"]*" id="(step-\d+-\d+)">', built.steps)
    shown = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert len(shown) == len(all_steps())
    for step in all_steps().values():
        part = shown[f"step-{step.number.replace('.', '-')}"]
        code = re.search(r"<pre>(.*?)</pre>", part, re.DOTALL)[1]
        assert html.unescape(re.sub(r"<[^>]+>", "", code)).rstrip("\n") == step.code.rstrip("\n")
        assert f"sandbox/{step.path}" in part
        assert html.escape(step.todo.strip()) in html.escape(
            html.unescape(re.sub(r"<[^>]+>", "", part))
        )


def test_step_that_is_not_there_is_an_error_that_names_those_that_are(built):
    """Where it stands, and what there is instead."""
    complaint = "wrong.md:3: ERROR: the tutorial has no step '9.99'; it has 1.1, 1.2"
    assert complaint in built.complaints
    assert "steps.md" not in built.complaints


@pytest.fixture(scope="module")
def repository():
    """The extension docs/_ext/repository.py."""
    path = ROOT / "docs" / "_ext" / "repository.py"
    spec = importlib.util.spec_from_file_location("repository", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[a](../CHANGELOG.md)", "[a](../changelog.md)"),
        ("[a](../clients/js/README.md#x)", "[a](../reference/javascript.md#x)"),
        ("[a](work.md#dead-letters)", "[a](../work.md#dead-letters)"),
        ("[a](#here) [b](https://example.com/x)", "[a](#here) [b](https://example.com/x)"),
        ("[`sandbox/`](../sandbox)", "`sandbox/`"),
        ("[a](../sandbox/tasks.py)", "[a](../../sandbox/tasks.py)"),
        ("[`a.html`](examples/a.html)", "`a.html`"),
        ("![a](showcase.png)", "![a](../showcase.png)"),
        (
            "```js\n[a](../CHANGELOG.md)\n```\n[b](work.md)",
            "```js\n[a](../CHANGELOG.md)\n```\n[b](../work.md)",
        ),
    ],
)
def test_link_leads_to_the_page_that_shows_a_file(text, shown, repository):
    """Seen from docs/guides/, for a text that was written in docs/; a folder has no page."""
    docs = ROOT / "docs"
    assert repository.with_links(text, docs, docs / "guides") == shown
