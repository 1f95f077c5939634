"""
Measure the prose of this repository against the rules in CONTRIBUTING.

    python -m tests.language                     # a table of the areas
    python -m tests.language src/fast_channels   # a table of files, and each line to look at
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent

# Areas that are measured apart. A file belongs to the first area with a matching pattern.
AREAS = {
    "src": ["src/**/*.py"],
    "examples": ["docs/examples/**/*.py", "sandbox/**/*.py"],
    "benchmarks": ["benchmarks/**/*.py", ".ci/*.py"],
    "tests": ["tests/**/*.py"],
    "pages": ["docs/**/*.md", "*.md", "clients/js/*.md"],
}

# Words that stand for a noun the writer did not name, and how many of them 1,000 words of
# prose may have. Other projects have 0.3, 0.3 and 0.
WORDS = {
    "what": (2.0, {"what", "whatever"}),
    "who": (1.0, {"who", "whose", "whom", "those"}),
    "nobody": (0.5, {"nobody", "somebody", "anybody", "everybody", "whoever", "whomever"}),
}

# Beginnings of docstrings that leave out the subject or point at another docstring.
UNFIT = re.compile(
    r"(The same|Likewise|It|Its|There|Who|Whose|Whom|What|Whether|Of|Those|Nobody|Somebody|"
    r"Whoever|And|But|Or|Nor|Not|So|Also|Where|When|Which|Why)\b"
)

# Capitalised words that begin a message because they are names.
NAMES = {"ASGI", "Celery", "Django", "FastAPI", "JSON", "Lua", "Python", "Redis", "Starlette"}

DIRECTIVE = re.compile(r"#+!?\s*(noqa(:\s*[A-Z0-9, ]+)?|type:\s*\S+|pyright:\s*\S+|pragma:.*)\s*-?")
CODE = re.compile(r"``?[^`]*``?|https?://\S+|<!--.*?-->")
WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")


class Text(NamedTuple):
    """A piece of prose and the line it begins at."""

    line: int
    text: str


class Docstring(NamedTuple):
    """A docstring, the line it begins at, and the name of the object that it describes."""

    line: int
    text: str
    owner: str


def docstrings(source: str) -> Iterator[Docstring]:
    """Yield the docstrings of a file, including the ones below attributes."""
    yield from _docstrings(ast.parse(source), "")


def _docstrings(node: ast.AST, name: str) -> Iterator[Docstring]:
    for child in ast.iter_child_nodes(node):
        own = name
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            own = f"{name}.{child.name}".removeprefix(".")
        elif (text := _string(child)) is not None:
            yield Docstring(child.lineno, inspect.cleandoc(text), name or "module")
        yield from _docstrings(child, own)


def _string(node: ast.AST) -> str | None:
    """Return the value of a statement that is a string and nothing else."""
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text
    return None


def comments(source: str) -> Iterator[Text]:
    """Yield the comments of a file without their directives for linters."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], DIRECTIVE.sub("", token.string).lstrip("#"))


def prose(path: Path) -> list[Text]:
    """Return the prose of a Python file or of a page in Markdown."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = [Text(text.line, text.text) for text in docstrings(source)]
        return sorted([*found, *comments(source)])
    return list(_paragraphs(source))


def _paragraphs(page: str) -> Iterator[Text]:
    inside = False
    for number, line in enumerate(page.splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            inside = not inside
        elif not inside:
            yield Text(number, line)


def words(text: str) -> list[str]:
    """Return the words of a piece of prose without its code."""
    indented = re.compile(r"^ {4,}\S.*$", re.MULTILINE)
    return WORD.findall(CODE.sub(" ", indented.sub("", text)))


class Count(NamedTuple):
    """How many words a text has, and how many of them belong to each kind in WORDS."""

    total: int
    kinds: Counter[str]

    def rate(self, kind: str) -> float:
        """Return the words of a kind per 1,000 words."""
        return 1000 * self.kinds[kind] / self.total if self.total else 0.0


def count(paths: list[Path]) -> Count:
    """Count the words in the prose of some files."""
    total, kinds = 0, Counter[str]()
    for path in paths:
        for piece in prose(path):
            found = words(piece.text)
            total += len(found)
            lower = [word.lower() for word in found]
            for kind, (_, members) in WORDS.items():
                kinds[kind] += sum(word in members for word in lower)
    return Count(total, kinds)


@functools.cache
def counted(area: str) -> Count:
    """Count the words of an area."""
    return count(files(area))


def files(area: str) -> list[Path]:
    """Return the files of an area."""
    ours = {path for pattern in AREAS[area] for path in ROOT.glob(pattern)}
    return sorted(path for path in ours if "node_modules" not in path.parts)


def unfit_docstrings(path: Path) -> list[Docstring]:
    """Return the docstrings of a file that do not begin with a subject or an imperative."""
    found = docstrings(path.read_text(encoding="utf-8"))
    return [text for text in found if UNFIT.match(text.text)]


def unfit_messages(path: Path) -> list[Text]:
    """Return the messages of errors that begin with a capital or end with a full stop."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [text for text in _messages(tree) if _is_unfit(text.text)]


def _messages(tree: ast.AST) -> Iterator[Text]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            arguments = node.exc.args
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__":
            arguments = node.args
        else:
            continue
        for argument in arguments:
            if (text := _literal(argument)) is not None and " " in text:
                yield Text(node.lineno, text)


def _literal(node: ast.AST) -> str | None:
    """Return a string literal, with {} in place of the values of an f-string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part) or "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _literal(node.left), _literal(node.right)
        return None if left is None and right is None else f"{left or '{}'}{right or '{}'}"
    return None


def _is_unfit(message: str) -> bool:
    first = re.match(r"[A-Z][a-z]+(?![A-Za-z(.])", message)
    return message.endswith(".") or (first is not None and first.group() not in NAMES)


def shared_names() -> dict[str, list[str]]:
    """Return the top-level names of src that more than one module defines, with the modules."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in files("src"):
        module = path.relative_to(ROOT / "src/fast_channels").as_posix()
        for name in _defined(ast.parse(path.read_text(encoding="utf-8")).body):
            found[name].add(module)
    return {name: sorted(modules) for name, modules in found.items() if len(modules) > 1}


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            names = (n for target in node.targets for n in ast.walk(target))
            yield from (name.id for name in names if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.If | ast.Try):
            yield from _defined([*node.body, *node.orelse])


def main(arguments: list[str]) -> None:
    """Print the table of the areas, or of the given files and folders."""
    if not arguments:
        for area in AREAS:
            _print_row(area, counted(area))
        return
    for argument in arguments:
        given = Path(argument).resolve()
        paths = sorted(p for p in given.rglob("*") if p.suffix in (".py", ".md"))
        for path in paths if given.is_dir() else [given]:
            _print_row(str(path.relative_to(ROOT)), count([path]))
            for line, problem in sorted(_problems(path)):
                print(f"    {line}: {problem}")  # noqa: T201
        if given.is_dir():
            _print_row(str(given.relative_to(ROOT)), count(paths))


def _print_row(name: str, words: Count) -> None:
    rates = "  ".join(
        f"{kind} {words.rate(kind):5.1f} (< {limit})" for kind, (limit, _) in WORDS.items()
    )
    print(f"{name:50} {words.total:6} words  {rates}")  # noqa: T201


def _problems(path: Path) -> Iterator[tuple[int, str]]:
    if path.suffix == ".py":
        for text in unfit_docstrings(path):
            yield text.line, f"docstring of {text.owner} begins: {text.text[:60]!r}"
        for message in unfit_messages(path):
            yield message.line, f"message: {message.text!r}"
    banned = {word for _, members in WORDS.values() for word in members}
    for piece in prose(path):
        for number, line in enumerate(piece.text.splitlines()):
            if banned & {word.lower() for word in words(line)}:
                yield piece.line + number, line.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
