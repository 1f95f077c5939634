"""Documents, and the code blocks in them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from docs.listings import MARK as LISTING
from fast_channels.testing.server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"

DOCUMENTS = [
    README,
    CONTRIBUTING,
    ROOT / "CHANGELOG.md",
    ROOT / "RELEASING.md",
    ROOT / "SECURITY.md",
    ROOT / "clients" / "js" / "README.md",
    *sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if not {"_build", "node_modules"} & set(path.parts)
    ),
]

# Directives without code that a forge may show as a block. docs/_ext/repository.py and
# docs/listings.py replace {include}, {toctree} and {literalinclude} by comments.
DIRECTIVES = {
    *("admonition", "caution", "hint", "important", "note", "seealso", "tip", "warning"),
    *("contents", "eval-rst", "figure", "image"),
}

# Directives that may contain code blocks.
CONTAINERS = {"admonition", "caution", "hint", "important", "note", "seealso", "tip", "warning"}

RUN_BY = re.compile(r"<!-- run by (?P<file>tests/[\w/]+\.py)::(?P<test>\w+) -->")
FRAGMENT = re.compile(r"<!-- fragment: (?P<reason>\S.*?) -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block, with the comment on the line before it."""

    document: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def directive(self) -> str | None:
        """Return the name of a directive, such as `toctree`; None for code."""
        match = re.match(r"\{([\w-]+)\}", self.language)
        return match[1] if match else None

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}: ```{self.language}"


def name_of(document: Path) -> str:
    """Return the path of a document below the repository, for the names of tests."""
    return str(document.relative_to(ROOT))


def all_blocks(document: Path) -> list[Block]:
    """Return the blocks of a document in any language, in their order."""
    return list(_blocks(document, document.read_text(), 0))


def _blocks(document: Path, text: str, start: int) -> Iterator[Block]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type not in ("fence", "code_block"):
            continue
        assert token.map
        line = start + token.map[0] + 1
        language = token.info.strip() if token.type == "fence" else "(indented)"
        block = Block(document, line, language, token.content, _mark(before, token))
        yield block
        if block.directive in CONTAINERS:
            yield from _blocks(document, token.content, line)


def _mark(before: Token | None, token: Token) -> str:
    """Return the comment that ends on the line before a block; empty without one."""
    if before is None or before.type != "html_block" or before.map is None or token.map is None:
        return ""
    if before.map[1] != token.map[0]:
        return ""
    return before.content[before.content.rfind("<!--") :].strip()


def blocks(document: Path, language: str) -> list[str]:
    """Return the code blocks of a document in one language that do not come from a file."""
    return [
        block.text
        for block in all_blocks(document)
        if block.language == language and not LISTING.fullmatch(block.mark)
    ]


def block_with(document: Path, text: str, language: str = "python") -> str:
    """Return the one block of a language, by default Python, that contains a text."""
    (found,) = [block for block in blocks(document, language) if text in block]
    return found


def run_pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the tests in a folder as a user would, with asyncio's mode set to auto."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def served(folder: Path, block: str) -> Iterator[int]:
    """Run the line of a block that starts uvicorn, in a folder; yield its port."""
    port = free_port()
    lines = block.replace("\\\n", "").splitlines()
    (line,) = [line for line in lines if line.startswith("uvicorn")]
    command = [sys.executable, "-m", *line.split(), "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for said in process.stderr:
            if "Uvicorn running" in said:
                break
        yield port
        process.terminate()
