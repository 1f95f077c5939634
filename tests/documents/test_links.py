"""Links in documents work in the repository, where people also read them."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from tests.documents.support import DOCUMENTS, ROOT, name_of

LINKS = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(document):
    """Return the text of a document without its code."""
    text = re.sub(
        r"^([ >-]*`{3,}).*?^\1`*$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE
    )
    return re.sub(r"(`+)[^`].*?\1", "", text)


def links(document):
    """Return the targets of a document's links, except links to other sites."""
    found = LINKS.findall(prose(document))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(document):
    """Return the anchors that a forge creates for the headings of a document."""
    tokens = MarkdownIt("commonmark").parse(document.read_text())
    headings = [
        following.content for token, following in pairwise(tokens) if token.type == "heading_open"
    ]
    # Like GitHub: letters, digits, hyphens and underscores, and a hyphen for each space.
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {f"#{slug}" for slug in slugs}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    """A relative link names a file or folder of this repository, and an existing heading."""
    for link in links(document):
        path, hash_, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert ROOT in target.parents, link
        if hash_:
            assert f"#{anchor}" in anchors(target), link


def test_broken_links_are_noticed(tmp_path):
    """Links with an anchor and images count; a link in code does not."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One `name`\n![a](a.png) [b](#one-name)\n`[c](c)`\n```\n[d](d)\n```\n[e](http://e)\n"
    )
    assert links(page) == ["a.png", "#one-name"]
    assert anchors(page) == {"#one-name"}
