"""docs/_ext/repository.py adapts links of the repository to the site."""

from __future__ import annotations

import importlib.util

import pytest

from tests.documents.support import ROOT


@pytest.fixture(scope="module")
def repository():
    """Return the extension docs/_ext/repository.py."""
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
        ("[a](../SECURITY.md)", "a"),
        ("![a](showcase.png)", "![a](../showcase.png)"),
        (
            "```js\n[a](../CHANGELOG.md)\n```\n[b](work.md)",
            "```js\n[a](../CHANGELOG.md)\n```\n[b](../work.md)",
        ),
    ],
)
def test_link_leads_to_the_page_that_shows_a_file(text, shown, repository):
    """Links of a text in docs/ fit a page in docs/guides/; a folder has no page."""
    docs = ROOT / "docs"
    assert repository.with_links(text, docs, docs / "guides") == shown


def test_comments_for_the_navigation_are_directives(repository):
    """A forge hides the comment, and the site gets a hidden table of contents."""
    text = "# Page\n\n<!-- toctree Guides\nlayers\nFan-out <fan-out>\n-->\n"
    assert repository.with_toctrees(text) == (
        "# Page\n\n```{toctree}\n:hidden:\n:caption: Guides\n\nlayers\nFan-out <fan-out>\n```\n"
    )
    assert repository.with_toctrees("<!-- toctree\na\n-->") == "```{toctree}\n:hidden:\n\na\n```"
