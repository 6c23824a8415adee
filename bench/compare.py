"""Two files of figures beside each other: what got better, what got worse, what is missed now."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Table

MEDIAN_DISTANCES = 3.0
"""Median distances from the median within which nearly all repeats lie (96 % of a normal one)."""

LEAST_SPREAD = 0.1
"""Of few repeats that agree by chance. Two runs of the same program differ by so much."""

UNKNOWN_SPREAD = 0.25
"""Where there is but one repeat."""

HEADER = ("scenario", "old", "new", "change", "spread", "target", "")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of two runs.

    Attributes:
        name: of the row.
        old: its figure in the older run, which is a ratio where there is a floor; None where the
            row is new.
        new: the same in the newer run; None where the row is gone.
        spread: how far repeats lie from their median, as a share of it; of the wider run.
        target: as it is printed.
        met: whether the newer run met it.
        more_is_better: whether a larger figure is.
        comparable: False if sizes differ: small ones against full ones.
    """

    name: str
    old: float | None
    new: float | None
    spread: float
    target: str
    met: bool
    more_is_better: bool
    comparable: bool = True

    @property
    def change(self) -> float | None:
        """The relative change, 0.1 for a tenth more; None where there is none to speak of."""
        if self.old is None or self.new is None or self.old == 0:
            return None
        return self.new / self.old - 1

    @property
    def mark(self) -> str:
        """What a reader must look at, in words; empty if nothing."""
        if self.new is None:
            return "gone"
        if not self.met:
            return "MISSED"
        if self.old is None:
            return "new"
        if not self.comparable:
            return "other size"
        worse = self._worse_by()
        return "WORSE" if worse is not None and worse > self.spread else ""

    @property
    def is_bad(self) -> bool:
        """Whether whoever changed something should be told."""
        return self.mark in ("MISSED", "WORSE")

    def _worse_by(self) -> float | None:
        change = self.change
        return change if change is None or not self.more_is_better else -change

    def cells(self) -> list[str | float]:
        """Return the row's cells, below HEADER."""
        return [
            self.name,
            "-" if self.old is None else self.old,
            "-" if self.new is None else self.new,
            "-" if self.change is None else f"{self.change:+.0%}",
            f"± {self.spread:.0%}",
            self.target,
            self.mark,
        ]


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Comparison]:
    """Compare the rows of two files of figures, in the order of the newer one."""
    before, after = dict(_rows(old)), dict(_rows(new))
    names = [*after, *(name for name in before if name not in after)]
    return [_compared(name, before.get(name), after.get(name)) for name in names]


def compare_files(old: Path, new: Path) -> tuple[Table, bool]:
    """Return the table of two files, and whether anything in it is bad."""
    rows = compare(json.loads(old.read_text()), json.loads(new.read_text()))
    title = f"{old} → {new} (ratios to the floor, or values where there is none)"
    return Table(title, HEADER, [row.cells() for row in rows]), any(row.is_bad for row in rows)


def verdict(bad: bool) -> str:
    """Say in a sentence what the marks mean."""
    if not bad:
        return "nothing got worse by more than the spread of its repeats, and all targets are met"
    return "WORSE: by more than the spread of the repeats. MISSED: the target is not met now."


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row's name and JSON, with a key more: whether its scenario had small sizes."""
    for scenario in figures["scenarios"].values():
        for name, row in scenario.get("rows", {}).items():
            yield name, {**row, "quick": scenario.get("quick", False)}


def _compared(name: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> Comparison:
    known = [row for row in (old, new) if row is not None]
    latest = known[-1]
    return Comparison(
        name=name,
        old=None if old is None else figure(old),
        new=None if new is None else figure(new),
        spread=max(_spread(row) for row in known),
        target=latest["target"],
        met=latest["met"],
        more_is_better=latest["target"].startswith("≥"),
        comparable=len({row["quick"] for row in known}) == 1,
    )


def figure(row: Mapping[str, Any]) -> float:
    """Return what a row's target is of: its ratio, or its median where it has no floor."""
    ratio = row["ratio"]
    return float(statistics.median(row["values"]) if ratio is None else ratio)


def _spread(row: Mapping[str, Any]) -> float:
    """Return how far nearly all repeats lie from the median, as a share of it.

    Of each repeat's ratio, as the figure is: what slows the machine for a while slows both sides.
    The median distance counts: the largest would be decided by the one repeat that was disturbed.
    """
    figures = _figures(row)
    middle = statistics.median(figures)
    if len(figures) < 2 or middle == 0:
        return UNKNOWN_SPREAD
    distance = statistics.median(abs(f - middle) for f in figures)
    return max(LEAST_SPREAD, MEDIAN_DISTANCES * distance / abs(middle))


def _figures(row: Mapping[str, Any]) -> Sequence[float]:
    if not row["floor"]:
        return list(row["values"])
    return [v / f for v, f in zip(row["values"], row["floor"], strict=True)]
