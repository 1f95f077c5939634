"""Every code block of every document comes from a file, is run by a test, or says why not."""

from __future__ import annotations

import re

import pytest

from tests.documents import support
from tests.documents.support import (
    DIRECTIVES,
    DOCUMENTS,
    FRAGMENT,
    LISTING,
    ROOT,
    RUN_BY,
    all_blocks,
    block_with,
    name_of,
)


def complaint(block):
    """Return the fault of a block as text, or None."""
    if block.directive is not None:
        if block.directive not in DIRECTIVES:
            return f"{block}: no directive for code that is shown; use <!-- from a/file.py -->"
        if block.directive == "eval-rst" and re.search(
            r"^\.\. (code|sourcecode)", block.text, re.MULTILINE
        ):
            return f"{block}: code in it is not checked; use <!-- from a/file.py -->"
        return None
    # test_listings.py compares a listing with its source.
    if FRAGMENT.fullmatch(block.mark) or LISTING.fullmatch(block.mark):
        return None
    named = RUN_BY.fullmatch(block.mark)
    if named is None:
        return (
            f"{block}: on the line before it goes <!-- from path/of/a/file.py -->, "
            "<!-- run by tests/...py::test_name --> or <!-- fragment: why it cannot be run -->, "
            f"not {block.mark!r}"
        )
    path = ROOT / named["file"]
    if not path.exists():
        return f"{block}: there is no {named['file']}"
    source = path.read_text()
    if not re.search(rf"^ *(async )?def {named['test']}\(", source, re.MULTILINE):
        return f"{block}: there is no {named['test']} in {named['file']}"
    if block.document.name not in source:
        return f"{block}: {named['file']} does not name {block.document.name}"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_block_is_run_or_a_fragment(document):
    """A mark before each block names its file, its test, or the reason for having none."""
    assert list(filter(None, map(complaint, all_blocks(document)))) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```python\n1\n```", "on the line before it goes"),
        ("```\n1\n```", "on the line before it goes"),
        ("~~~js\n1\n~~~", "on the line before it goes"),
        ("text\n\n    1\n", "on the line before it goes"),
        ("<!-- fragment: too far away -->\n\n```python\n1\n```", "on the line before it goes"),
        ("<!-- fragment: -->\n```python\n1\n```", "on the line before it goes"),
        ("- in a list\n\n  ```python\n  1\n  ```", "on the line before it goes"),
        ("````{note}\n```python\n1\n```\n````", "on the line before it goes"),
        ("<!-- run by tests/test_not.py::test_x -->\n```python\n1\n```", "there is no tests/"),
        ("<!-- run by tests/test_cli.py::test_x -->\n```python\n1\n```", "there is no test_x in"),
        (
            "<!-- run by tests/test_cli.py::test_version_is_printed -->\n```python\n1\n```",
            "tests/test_cli.py does not name page.md",
        ),
        ("```{code-block} python\n1\n```", "no directive for code"),
        ("```{literalinclude} examples/x.py\n```", "no directive for code"),
        ("```{toctree}\nx\n```", "no directive for code"),
        ("```{eval-rst}\n.. code-block:: python\n\n   1\n```", "code in it is not checked"),
    ],
)
def test_block_without_a_true_mark_is_noticed(text, wrong, tmp_path, monkeypatch):
    """Blocks without a test and marks that are not true are faults."""
    monkeypatch.setattr(support, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n{text}\n")
    complaints = list(filter(None, map(complaint, all_blocks(page))))
    assert len(complaints) == 1
    assert wrong in complaints[0]
    assert complaints[0].startswith("page.md:")


@pytest.mark.parametrize(
    "text",
    [
        "<!-- fragment: a part of a class -->\n```python\n1\n```",
        "<!-- fragment: two\nlines -->\n```python\n1\n```",
        "Text.\n<!-- fragment: within a paragraph -->\n```python\n1\n```",
        "<!-- from docs/listings.py#listing -->\n```python\n1\n```",
        "```{contents}\nx\n```",
        "- in a list\n\n  <!-- fragment: a part -->\n  ```python\n  1\n  ```",
        "<details>\n\n<!-- fragment: a part -->\n```js\n1\n```\n\n</details>",
    ],
)
def test_block_with_a_true_mark_is_in_order(text, tmp_path):
    """Blocks in lists and in collapsed parts need a mark, too."""
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n{text}\n")
    assert len(all_blocks(page)) == 1
    assert list(filter(None, map(complaint, all_blocks(page)))) == []


def test_block_is_found_by_a_text_in_it(tmp_path):
    """Exactly one block of the given language must contain the text."""
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```ini\nx = 1\n```\n\n```python\ny = 1\n```\n")
    assert block_with(page, "x = ") == "x = 1\n"
    assert block_with(page, "x = ", "ini") == "x = 1\n"
    for text in ("z = ", " = 1"):
        with pytest.raises(ValueError, match="values to unpack"):
            block_with(page, text)
