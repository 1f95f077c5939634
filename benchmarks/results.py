"""Measurements and their ratios: plain numbers, without knowledge of their origin."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from operator import truediv
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Metric:
    """One column of a table. A measurement of a round has its value as `key`."""

    key: str
    header: str
    digits: int = 0
    better: Literal["higher", "lower"] = "higher"
    # Shown as a share of the whole, in percent.
    is_share: bool = False


@dataclass
class Row:
    """One contender in one case, in every round."""

    case: str
    contender: str
    label: str
    rounds: dict[str, list[float]] = field(default_factory=dict)
    # The reason why measurements are missing.
    error: str = ""

    def add(self, measured: Mapping[str, float]) -> None:
        for key, value in measured.items():
            self.rounds.setdefault(key, []).append(value)

    def median(self, key: str) -> float | None:
        values = self.rounds.get(key)
        return statistics.median(values) if values else None

    def spread(self, key: str) -> tuple[float, float] | None:
        values = self.rounds.get(key)
        return (min(values), max(values)) if values else None


@dataclass
class Result:
    """One benchmark: its rows in the order of their cases, and the machine."""

    benchmark: str
    command: str
    machine: dict[str, str]
    # The load average before the start; above zero, other programs used the machine, too.
    load_before: float = 0.0
    rows: list[Row] = field(default_factory=list)

    def row(self, case: str, contender: str, label: str = "") -> Row:
        """Return the row of a contender in a case. Add it if it is missing."""
        for row in self.rows:
            if (row.case, row.contender) == (case, contender):
                return row
        self.rows.append(Row(case, contender, label))
        return self.rows[-1]

    def cases(self) -> list[str]:
        return list(dict.fromkeys(row.case for row in self.rows))

    def of_case(self, case: str) -> list[Row]:
        return [row for row in self.rows if row.case == case]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in stored.pop("rows")]
        return cls(**stored, rows=rows)


def reference(rows: Iterable[Row], family: str) -> Row | None:
    """Return the first measured row of "bare" or "ours", with which other rows are compared."""
    for row in rows:
        if row.contender.partition("-")[0] == family and row.rounds:
            return row
    return None


def ratio(row: Row, to: Row | None, key: str) -> float | None:
    """
    Return how many times as much as `to` a row has: the median of the ratios of all rounds.

    In a round the contenders run one after the other, so a slow minute of the machine affects
    both. If one of them failed in some rounds, return the ratio of the medians.
    """
    if to is None:
        return None
    ours, theirs = row.rounds.get(key, []), to.rounds.get(key, [])
    if len(ours) == len(theirs) and all(theirs):
        return statistics.median(map(truediv, ours, theirs)) if ours else None
    mine, other = row.median(key), to.median(key)
    return mine / other if mine is not None and other else None
