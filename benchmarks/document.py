"""Put tables and plots between the markers of docs/performance.md; the other text is prose."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .results import ratio, reference
from .tables import tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .benchmark import Benchmark
    from .results import Result, Row


class NoMarker(Exception):
    """The document has no markers for a benchmark."""


def update(document: Path, parts: Mapping[str, str]) -> None:
    """Replace the text between `<!-- name -->` and `<!-- end of name -->`, for each name."""
    text = document.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            raise NoMarker(f"{document} has no {begin} followed by {end}")
        block = f"{begin}\n{part}\n{end}" if part else f"{begin}\n{end}"
        # A backslash in a part must not be read as a reference to a group.
        text = pattern.sub(block.replace("\\", r"\\"), text)
    document.write_text(text, encoding="utf-8")


def section(benchmark: Benchmark, result: Result, plots: Sequence[Path]) -> str:
    """Return the part of the document for one benchmark: plots, tables and the command."""
    images = [f"![{benchmark.title}]({plot.parent.name}/{plot.name})" for plot in plots]
    command = f"`{result.command}`, {rounds(result)}, load average before {result.load_before:.1f}"
    return "\n\n".join([*images, tables(benchmark, result), command])


def rounds(result: Result) -> str:
    most = max((len(values) for row in result.rows for values in row.rounds.values()), default=0)
    return f"median of {most} rounds (lowest to highest)" if most > 1 else "one round"


def standing(measured: Sequence[tuple[Benchmark, Result]]) -> str:
    """Return the summary: which contenders are ahead of us and which behind, case by case."""
    lines = ["| | behind | ahead of |", "|---|---|---|"]
    for benchmark, result in measured:
        if benchmark.is_scaling or benchmark.is_by_case:
            continue
        for case in [case for case in result.cases() if case]:
            behind, ahead = sides(benchmark, result.of_case(case))
            title = benchmark.title.partition(":")[0]
            lines.append(f"| {title}, {case} | {behind or '-'} | {ahead or '-'} |")
    return "\n".join(lines)


def sides(benchmark: Benchmark, rows: Sequence[Row]) -> tuple[str, str]:
    """Return the contenders that did better than our first row, and worse, with the ratios."""
    metric, ours = benchmark.metrics[0], reference(rows, "ours")
    found: tuple[list[str], list[str]] = [], []
    for row in rows:
        times = ratio(row, ours, metric.key)
        if times and not row.contender.startswith("ours"):
            better = times if metric.better == "higher" else 1 / times
            by = max(better, 1 / better)
            text = f"{row.label} ({by:.{1 if by >= 2 else 2}f} times)"
            found[better < 1].append(text)
    return ", ".join(found[0]), ", ".join(found[1])


def machines(results: Sequence[Result]) -> str:
    """Return the machines and versions, once if all results have the same."""
    parts: dict[str, list[str]] = {}
    for result in results:
        lines = "\n".join(f"- {name}: {value}" for name, value in result.machine.items())
        parts.setdefault(lines, []).append(result.benchmark)
    if len(parts) == 1:
        return next(iter(parts))
    return "\n\n".join(f"{', '.join(names)}:\n\n{lines}" for lines, names in parts.items())
