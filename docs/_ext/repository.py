"""
Adapt the links of pages, which lead to files of the repository, to the site.

A link to a file that is a page of the site, such as CHANGELOG.md, leads to that page. A link to
another file is a download. Only the text is left of a link to a folder, to a page in Markdown
that is not on the site, or to an HTML file, which a browser would show without its application.

Two comments are for the site alone, because a forge would show directives as code:

    <!-- include ../CHANGELOG.md -->     the page consists of this file, whose links are
                                         relative to it; the rest of the page is for the forge
    <!-- toctree Guides                  pages of the navigation, one per line, with an
    layers                               optional heading
    -->
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

# Files outside of docs/, and the pages that include them.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "clients/js/README.md": "reference/javascript.md",
}

FENCE = re.compile(r"^(`{3,}).*?^\1[ ]*$", re.DOTALL | re.MULTILINE)
INCLUDE = re.compile(r"^<!-- include (?P<path>\S+) -->$", re.MULTILINE)
TOCTREE = re.compile(
    r"^<!-- toctree(?: (?P<caption>[^\n]+))?\n(?P<pages>.*?)^-->$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")


def page_read(app: Sphinx, docname: str, source: list[str]) -> None:
    page = DOCS / f"{docname}.md"
    if not page.exists():
        return

    if (match := INCLUDE.search(source[0])) is not None:
        path = Path(os.path.normpath(page.parent / match["path"]))
        app.env.note_dependency(str(path))
        source[0] = with_links(path.read_text(encoding="utf-8"), path.parent, page.parent)
    else:
        source[0] = with_toctrees(with_links(source[0], page.parent, page.parent))


def with_toctrees(text: str) -> str:
    """Return a text in which each comment for the navigation is a directive."""

    def directive(match: re.Match[str]) -> str:
        caption = f":caption: {match['caption']}\n" if match["caption"] else ""
        return f"```{{toctree}}\n:hidden:\n{caption}\n{match['pages']}```"

    return TOCTREE.sub(directive, text)


def with_links(text: str, here: Path, there: Path) -> str:
    """Return a text with links from a folder `here`, for a page in the folder `there`."""

    def moved(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if not target or ":" in target:
            return match[0]
        path = Path(os.path.normpath(here / target))
        if ROOT in path.parents and str(path.relative_to(ROOT)) in PAGES:
            path = DOCS / PAGES[str(path.relative_to(ROOT))]
        outside = path.suffix == ".md" and DOCS not in path.parents
        if path.is_dir() or path.suffix == ".html" or outside:
            return match["text"]
        relative = os.path.relpath(path, there)
        return f"{match['image']}[{match['text']}]({relative}{anchor})"

    # Text within fences is code.
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(moved, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(moved, text[end:])])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", page_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
