"""Plots of results, legible on light and on dark. Equal numbers give equal files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .benchmark import Benchmark
    from .results import Result, Row

# A grey that is legible on a white and on a black page.
INK = "#7d8590"
COLORS = {
    "bare": "#8b949e",
    "ours": "#1f9d76",
    "fc1": "#c98500",
    "channels": "#c4554d",
    "litestar": "#4a8fd4",
    "socketio": "#a371c9",
}
STYLES = {"pubsub": "-", "queue": "--", "memory": "-"}


def draw(benchmark: Benchmark, result: Result, folder: Path) -> list[Path]:
    """Draw one file, or none if there are no measurements. Needs matplotlib."""
    if not any(row.rounds for row in result.rows):
        return []
    # Imported here, because the rest of the suite runs without matplotlib.
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "fast-channels",
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "font.size": 9,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.benchmark}.svg"
    figure = _lines(benchmark, result) if benchmark.is_scaling else _bars(benchmark, result)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    return [path]


def _figure(parts: int, height: float) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(
        parts, 1, figsize=(7.5, height * parts), squeeze=False, layout="constrained"
    )
    for axis in axes[:, 0]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:, 0]


def _bars(benchmark: Benchmark, result: Result) -> Any:
    metric = benchmark.metrics[0]
    parts = _parts(benchmark, result)
    most = max(len(rows) for rows in parts.values())
    figure, axes = _figure(len(parts), 0.8 + 0.3 * most)
    for axis, (title, part) in zip(axes, parts.items(), strict=True):
        rows = [row for row in part if row.rounds][::-1]
        medians = [row.median(metric.key) or 0.0 for row in rows]
        bars = axis.barh(
            [(row.case if benchmark.is_by_case else row.label).replace("`", "") for row in rows],
            medians,
            xerr=_errors(rows, metric.key, medians),
            color=[color(row) for row in rows],
            ecolor=INK,
        )
        axis.bar_label(bars, [f"  {median:,.{metric.digits}f}" for median in medians], color=INK)
        axis.set_title(title.replace("`", ""), loc="left", fontsize=9)
        axis.margins(x=0.15)
    return figure


def _parts(benchmark: Benchmark, result: Result) -> dict[str, Sequence[Row]]:
    """Return the rows of each drawing, by its title."""
    header = benchmark.metrics[0].header
    if benchmark.is_by_case:
        return {header: [row for row in result.rows if row.case]}
    return {f"{header}: {case}": result.of_case(case) for case in result.cases() if case}


def _errors(rows: Sequence[Row], key: str, medians: Sequence[float]) -> list[list[float]]:
    """Return the distances of the lowest and the highest round from the median."""
    spreads = [
        row.spread(key) or (median, median) for row, median in zip(rows, medians, strict=True)
    ]
    return [
        [median - low for (low, _), median in zip(spreads, medians, strict=True)],
        [high - median for (_, high), median in zip(spreads, medians, strict=True)],
    ]


def _lines(benchmark: Benchmark, result: Result) -> Any:
    cases = [case for case in result.cases() if case]
    figure, axes = _figure(len(cases), 3.2)
    for axis, case in zip(axes, cases, strict=True):
        for row in result.of_case(case):
            points = [
                (int(metric.key), median)
                for metric in benchmark.metrics
                if (median := row.median(metric.key)) is not None and median > 0
            ]
            axis.plot(
                *zip(*points, strict=True),
                color=color(row),
                marker="o",
                markersize=4,
                label=row.label,
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(case, loc="left", fontsize=9)
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def color(row: Row) -> str:
    return COLORS.get(row.contender.partition("-")[0], INK)
