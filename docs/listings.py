"""
Write the code that pages show into them, from the files that the tests run.

Pages are also read as plain Markdown, where nothing is included. Therefore the code is in the
page, and a comment on the line before the block names its source:

    <!-- from docs/examples/security/main.py -->              the whole file
    <!-- from sandbox/tasks.py#send_mail, Mailer.send -->     definitions, by their names
    <!-- from docs/examples/security/main.py#region routes -->
        the lines between `# start of routes` and `# end of routes`
    <!-- from app.py#"hosts =" before "class Slug" -->        lines, by texts in them
    <!-- from step 3.2 -->                                    a step of the tutorial

For lines, `line "a"` is one line, `"a"` goes from that line to the end of the file, `"a" to "b"`
includes the line with b, `"a" before "b"` does not, and `before "b"` begins at the top. Several
of these, with `; ` between them, are shown one after the other. Code loses the indentation that
all its lines share; a step of the tutorial keeps it. Ruff also formats pages, so name several
methods instead of taking the lines that have them: then two empty lines separate them.

`python docs/listings.py`, which is a part of `make format`, writes all pages;
tests/documents/test_listings.py fails if a page and its files differ.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "clients/js")
SKIPPED_FOLDERS = {"_build", "node_modules"}

MARK = re.compile(r"<!-- from\s+(?P<source>\S.*?) -->", re.DOTALL)
LISTING = re.compile(
    rf"^(?P<indent> *){MARK.pattern}\n"
    r"(?P<fence>(?P=indent)`{3,})(?P<language>[\w+-]*)\n"
    r"(?P<code>.*?)"
    r"^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
LINES = re.compile(
    r'(?P<single>line )?(?:"(?P<start>[^"]+)")? ?(?:(?P<kind>to|before) "(?P<end>[^"]+)")?'
)


class BadListing(Exception):
    """A mark that names no code."""


def updated(text: str) -> str:
    """Return the text of a page in which every listing is that of its source."""
    marks, listings = MARK.findall(_without_code_spans(text)), LISTING.findall(text)
    if len(marks) != len(listings):
        raise BadListing(f"{len(marks)} marks, but {len(listings)} of them stand before a block")
    return LISTING.sub(_block, text)


def _without_code_spans(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", text)


def _block(match: re.Match[str]) -> str:
    before, after = match[0][: match.start("code") - match.start()], match["fence"]
    # A long mark may have several lines.
    code = indent(listing(" ".join(match["source"].split())), match["indent"])
    if match["fence"].strip() in code:
        raise BadListing(f"{match['source']}: has such a fence itself; write a longer one")
    return f"{before}{code}{after}"


def listing(source: str) -> str:
    """Return the code that a mark names, with a line feed at its end."""
    if source.startswith("step "):
        return _step(source.removeprefix("step "))
    name, _, selection = source.partition("#")
    path = ROOT / name
    if not path.is_file():
        raise BadListing(f"{source}: there is no file {name}")
    text = path.read_text(encoding="utf-8")
    try:
        code = _selected(text, selection)
    except LookupError as exc:
        raise BadListing(f"{source}: {name} has no {exc.args[0]}") from None
    return dedent(code).strip("\n") + "\n"


def _step(number: str) -> str:
    from sandbox.tutorial import steps  # noqa: PLC0415 - the only listing that needs it

    step = steps.all_steps().get(number)
    if step is None:
        raise BadListing(f"step {number}: the tutorial has no such step")
    return step.code.strip("\n") + "\n"


def _selected(text: str, selection: str) -> str:
    if not selection:
        return text
    if selection.startswith("region "):
        return _region(text, selection.removeprefix("region "))
    if '"' in selection:
        return "".join(dedent(_lines(text, part)) for part in selection.split("; "))
    return "\n\n".join(_definition(text, name) for name in selection.split(", "))


def _region(text: str, name: str) -> str:
    begin, end = f"# start of {name}", f"# end of {name}"
    match = re.search(
        rf"^ *{re.escape(begin)}\n(.*?)^ *{re.escape(end)}$", text, re.MULTILINE | re.DOTALL
    )
    if match is None:
        raise LookupError(f"{begin!r} that is followed by {end!r}")
    return match[1]


def _lines(text: str, selection: str) -> str:
    match = LINES.fullmatch(selection)
    if match is None:
        raise LookupError(f"lines that could be meant by {selection}")
    lines = text.splitlines(keepends=True)
    first = _line_with(lines, match["start"], 0) if match["start"] else 0
    if match["end"] is None:
        return "".join(lines[first : first + 1 if match["single"] else None])
    # The text that ends a listing may also be in its first line.
    last = _line_with(lines, match["end"], first + 1 if match["kind"] == "before" else first)
    return "".join(lines[first : last + (match["kind"] == "to")])


def _line_with(lines: list[str], text: str, start: int) -> int:
    for number in range(start, len(lines)):
        if text in lines[number]:
            return number
    raise LookupError(f"line with {text!r} from line {start + 1} on")


def _definition(text: str, name: str) -> str:
    body: list[ast.stmt] = ast.parse(text).body
    found: ast.stmt | None = None
    for part in name.split("."):
        found = next((node for node in body if part in _defined(node)), None)
        if found is None:
            raise LookupError(f"definition of {name!r}")
        body = getattr(found, "body", [])
    assert found is not None
    first = min([found.lineno, *(node.lineno for node in getattr(found, "decorator_list", []))])
    return dedent("".join(text.splitlines(keepends=True)[first - 1 : found.end_lineno]))


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def pages() -> Iterator[Path]:
    """All pages of the repository that may have listings."""
    yield from ROOT.glob("*.md")
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.md")):
            if not SKIPPED_FOLDERS & set(path.parts):
                yield path


def main() -> None:
    sys.path.insert(0, str(ROOT))
    for page in pages():
        text = page.read_text(encoding="utf-8")
        try:
            new = updated(text)
        except BadListing as exc:
            sys.exit(f"{page.relative_to(ROOT)}: {exc}")
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(f"updated {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
