"""
Show excerpts of the pages that a search finds, even on a site that is opened from a disk.

Sphinx fetches each page for its excerpt, and a browser does not fetch from `file://`. Therefore
the text of each page is also in a script, `_excerpts/<page>.js`, which `_static/excerpts.js`
loads on the search page. A site on a web server does not use them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

FOLDER = "_excerpts"

# The search looks for elements by their ids, and needs no other tags.
TAGS_WITHOUT_ID = re.compile(r"</?(?:span|code|em|strong|a)(?![^>]*\bid=)[^>]*>")
HEADER_LINKS = re.compile(r'<a class="headerlink".*?</a>', re.DOTALL)
PICTURES = re.compile(r"<img\b[^>]*>")


def page_rendered(
    app: Sphinx, page: str, _template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    if page == "search":
        app.add_js_file("excerpts.js")
    if document is None:
        return
    body = HEADER_LINKS.sub("", context["body"])
    body = TAGS_WITHOUT_ID.sub("", PICTURES.sub("", body))
    path = Path(app.outdir) / FOLDER / f"{page}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"excerptLoaded({json.dumps(page)}, {json.dumps(body)});\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", page_rendered)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
