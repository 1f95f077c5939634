"""Find the steps of the tutorial by comparing the templates with the finished files."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path

FINISHED = Path(__file__).parents[1]
TEMPLATES = Path(__file__).parent
# Files and folders beside the templates.
NO_TEMPLATES = ("__init__.py", "__main__.py", "steps.py", "solutions", "__pycache__")
# The library's client for browsers, which the page imports.
CLIENT = Path("clients", "js")
# Starts a broker for readers who have none on their PATH.
COMPOSE_FILE = "docker-compose.yml"

# The number consists of the part and the step in it.
TODO = re.compile(r"^\s*# TODO (?P<number>\d+\.\d+): (?P<what>.+)$", re.MULTILINE)

# A TODO that is solved by uncommenting the lines after it.
UNCOMMENT = "uncomment "
COMMENTED = re.compile(r"^(?P<indent>\s*)# ?", re.MULTILINE)

# A line after the last one of a file, so that a TODO at the end has a next passage.
END = "\0"

# Not copied into the folder of a reader.
LEFT_OUT = ("tutorial", "__pycache__")


class BadTemplate(Exception):
    """A template and its finished file do not fit together."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


@dataclass(frozen=True)
class Step:
    """A TODO: its number in the tutorial, its file below `sandbox/`, and its solution."""

    number: str
    path: Path
    what: str
    todo: str
    code: str

    @property
    def part(self) -> int:
        return int(self.number.partition(".")[0])


class Template:
    """
    A file in its initial state, with the steps that finish it.

    `lines` has its lines; a TODO is one item together with the code that it says to uncomment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = with_commented_code((TEMPLATES / path).read_text().splitlines())

    @cached_property
    def steps(self) -> list[Step]:
        """
        The TODOs from top to bottom. Raises BadTemplate unless all solutions together make the
        finished file.

        The lines between two TODOs are found in the finished file as one passage. If TODOs
        follow each other directly, each has one line as its solution, or the code that it says
        to uncomment.
        """
        finished = (FINISHED / self.path).read_text().splitlines()
        steps: list[Step] = []
        todos: list[str] = []
        done = 0
        for is_todo, group in groupby([*self.lines, END], lambda line: bool(TODO.match(line))):
            if is_todo:
                todos = list(group)
                continue
            passage = list(group)
            start = self._find(passage, [*finished, END], done)
            steps += self._solutions(todos, finished[done:start])
            done = start + len(passage)
        return steps

    def _find(self, passage: list[str], lines: list[str], start: int) -> int:
        for position in range(start, len(lines) - len(passage) + 1):
            if lines[position : position + len(passage)] == passage:
                return position
        raise BadTemplate(self.path, f"the finished file lacks the lines from {passage[0]!r}")

    def _solutions(self, todos: list[str], code: list[str]) -> list[Step]:
        if not todos and code:
            raise BadTemplate(self.path, f"no TODO stands for {code[0]!r}")
        if len(todos) > 1:
            lengths = [len(commented_code(todo)) or 1 for todo in todos]
            if sum(lengths) != len(code):
                raise BadTemplate(self.path, f"{len(code)} lines solve {len(todos)} TODOs: {todos}")
        else:
            lengths = [len(code)]
        remaining = iter(code)
        return [
            self._step(todo, list(islice(remaining, length)))
            for todo, length in zip(todos, lengths, strict=False)
        ]

    def _step(self, todo: str, code: list[str]) -> Step:
        match = TODO.match(todo)
        assert match
        if not code:
            raise BadTemplate(self.path, f"nothing in the finished file solves {todo.strip()!r}")
        if commented_code(todo) not in ([], code):
            raise BadTemplate(self.path, f"{todo.strip()!r} is not the code of the finished file")
        return Step(match["number"], self.path, match["what"], todo, "\n".join(code))

    def solved(self, part: int) -> str:
        """Return the file after a part of the tutorial."""
        solutions = {step.todo: step.code for step in self.steps if step.part <= part}
        return "\n".join(solutions.get(line, line) for line in self.lines) + "\n"


def with_commented_code(lines: list[str]) -> list[str]:
    """Join each TODO that says "uncomment" with the comment lines after it."""
    joined: list[str] = []
    for line in lines:
        todo = TODO.match(joined[-1]) if joined else None
        wanted = todo is not None and todo["what"].startswith(UNCOMMENT)
        if wanted and COMMENTED.match(line) and not TODO.match(line):
            joined[-1] += f"\n{line}"
        else:
            joined.append(line)
    return joined


def commented_code(todo: str) -> list[str]:
    """Return the lines that a TODO says to uncomment, uncommented."""
    _, *commented = todo.splitlines()
    return [COMMENTED.sub(r"\g<indent>", line, count=1) for line in commented]


def templates() -> list[Template]:
    paths = [p.relative_to(TEMPLATES) for p in sorted(TEMPLATES.rglob("*.py"))]
    return [Template(path) for path in paths if path.parts[0] not in NO_TEMPLATES]


def all_steps() -> dict[str, Step]:
    """Return all steps by number, in order. Raises BadTemplate if two share a number."""
    steps: dict[str, Step] = {}
    for step in (step for template in templates() for step in template.steps):
        if step.number in steps:
            raise BadTemplate(step.path, f"TODO {step.number} is also in {steps[step.number].path}")
        steps[step.number] = step
    return dict(sorted(steps.items(), key=lambda item: [*map(int, item[0].split("."))]))


def prepare(folder: Path) -> None:
    """Make the folder that a reader works in. Raises FileExistsError if it exists."""
    shutil.copytree(FINISHED, folder / FINISHED.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.copytree(
        FINISHED.parent / CLIENT,
        folder / CLIENT,
        ignore=shutil.ignore_patterns("node_modules", "build"),
    )
    shutil.copy(FINISHED.parent / COMPOSE_FILE, folder)
    solve(folder, 0)


def solve(folder: Path, part: int) -> None:
    """Bring every file that the tutorial changes to the state after a part."""
    for template in templates():
        (folder / FINISHED.name / template.path).write_text(template.solved(part))
