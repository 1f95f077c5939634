"""Tables of results in Markdown, for the terminal and for the document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .benchmark import LIMIT, SERVER_CPU
from .results import ratio, reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .benchmark import Benchmark
    from .results import Metric, Result, Row

NOTHING = "-"
# If other programs use a larger part of the machine, a row gets a remark.
NOISE = 0.1


def tables(benchmark: Benchmark, result: Result) -> str:
    """Return the tables of a benchmark: one for each case, or one of all cases."""
    parts = []
    cases = [case for case in result.cases() if case]
    if benchmark.is_by_case and cases:
        parts.append(table_of_case(benchmark, [row for row in result.rows if row.case]))
        cases = []
    for case in cases:
        parts.append(f"**{case}**")
        parts.append(table_of_case(benchmark, result.of_case(case)))
    # A contender that failed before its first measurement is in the case "".
    failed = [f"- {row.label}: {row.error}" for row in result.of_case("")]
    return "\n\n".join([*parts, *(["Failed:\n\n" + "\n".join(failed)] if failed else [])])


def table_of_case(benchmark: Benchmark, rows: Sequence[Row]) -> str:
    """Return a table with medians, ratios and remarks of each row."""
    metrics = [m for m in benchmark.metrics if any(row.rounds.get(m.key) for row in rows)]
    head = ["", *[metric.header for metric in metrics], *heads_compared(benchmark)]
    # CPU time hardly changes if other programs use the machine, too.
    with_cpu = SERVER_CPU in metrics[1:]
    head += ["CPU / bare"] if with_cpu else []
    body = []
    for row in rows:
        cells = [shown(row, metric, metric is metrics[0]) for metric in metrics]
        if benchmark.is_scaling:
            cells.append(growth(row, metrics))
        elif not benchmark.is_by_case:
            cells += [compared(rows, row, metrics[0], whom) for whom in ("bare", "ours")]
        if with_cpu:
            cells.append(compared(rows, row, SERVER_CPU, "bare"))
        label = row.case if benchmark.is_by_case else row.label
        body.append([label, *cells, "; ".join(remarks(row))])
    if any(line[-1] for line in body):
        head.append("remarks")
    return markdown(head, [line[: len(head)] for line in body])


def heads_compared(benchmark: Benchmark) -> list[str]:
    """Return the headers of the columns that compare lines with each other."""
    if benchmark.is_scaling:
        return ["largest / smallest"]
    return [] if benchmark.is_by_case else ["/ bare", "/ ours"]


def shown(row: Row, metric: Metric, with_spread: bool) -> str:
    """Return the median, and for the main metric the lowest and the highest round."""
    median, spread = row.median(metric.key), row.spread(metric.key)
    if median is None or spread is None:
        return NOTHING
    if metric.is_share:
        return f"{median:.0%}"
    text = f"{median:,.{metric.digits}f}"
    if with_spread and spread[0] != spread[1]:
        text += f" ({spread[0]:,.{metric.digits}f} to {spread[1]:,.{metric.digits}f})"
    return text


def compared(rows: Sequence[Row], row: Row, metric: Metric, whom: str) -> str:
    times = ratio(row, reference(rows, whom), metric.key)
    return NOTHING if times is None else f"{times:.2f}"


def growth(row: Row, metrics: Sequence[Metric]) -> str:
    """Return the ratio of the costs of the largest and the smallest measured size."""
    found = [m for metric in metrics if (m := row.median(metric.key)) is not None]
    return f"{found[-1] / found[0]:.2f}" if len(found) > 1 and found[0] else NOTHING


def remarks(row: Row) -> list[str]:
    """Return the reasons to doubt the numbers of a row."""
    found = []
    for key, who in (("client_share", "the client"), ("publisher_share", "the publisher")):
        share = row.median(key) or 0.0
        if share > LIMIT:
            found.append(f"limited by {who}, busy {share:.0%} of the time")
    load, server = row.median("load_share") or 0.0, row.median("server_share") or 0.0
    # All processes of the load share cores, so together they may have limited the measurement.
    if not found and load > LIMIT > server:
        found.append(f"limited by the load, busy {load:.0%} of the time together")
    others = row.median("others_share") or 0.0
    if others > NOISE:
        found.append(f"disturbed: others used {others:.0%} of the machine")
    if row.error:
        found.append(f"failed in some rounds: {row.error}")
    return found


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns: the first and the remarks to the left."""
    widths = [max(len(line[n]) for line in [head, *body]) for n in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if number == 0 or head[number] == "remarks" else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rules = [
        "-" * width if number == 0 or head[number] == "remarks" else "-" * (width - 1) + ":"
        for number, width in enumerate(widths)
    ]
    return "\n".join([line(head), line(rules), *[line(cells) for cells in body]])


def comparison(benchmark: Benchmark, before: Result, now: Result) -> str:
    """Return the changes since an earlier run on the machine, absolute and relative to bare."""
    metric = benchmark.metrics[0]
    body = []
    for row in now.rows:
        old = next(
            (r for r in before.rows if (r.case, r.contender) == (row.case, row.contender)), None
        )
        then, since = (old.median(metric.key) if old else None), row.median(metric.key)
        if old is None or not then or since is None:
            continue
        of_bare = [
            compared(result.of_case(row.case), found, metric, "bare")
            for result, found in ((before, old), (now, row))
        ]
        numbers = [f"{value:,.{metric.digits}f}" for value in (then, since)]
        body.append([f"{row.label}, {row.case}", *numbers, f"{since / then - 1:+.0%}", *of_bare])
    head = [metric.header, "before", "now", "change", "/ bare before", "/ bare now"]
    return markdown(head, body)
