"""What a scenario brings back, as text for people and as JSON for comparing."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.processes import MIB
from bench.rows import Row


@dataclass(frozen=True)
class Table:
    """Figures that belong together; ``rows`` are as long as ``header``."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | float]]

    def lines(self) -> list[str]:
        """Lay the table out: the first column to the left, figures to the right."""
        cells = [list(self.header), *([show(value) for value in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.header))]
        return [
            self.title,
            *(
                "  ".join(
                    cell.ljust(width) if i == 0 else cell.rjust(width)
                    for i, (cell, width) in enumerate(zip(row, widths, strict=True))
                ).rstrip()
                for row in cells
            ),
        ]


@dataclass(frozen=True)
class Report:
    """The outcome of one scenario.

    Attributes:
        rows: its rows of the great table.
        tables: further tables of its own.
        figures: all other figures by name, for the JSON file.
        notes: what a reader of the figures must know.
    """

    rows: Sequence[Row] = field(default=())
    tables: Sequence[Table] = field(default=())
    figures: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = field(default=())


ROW_HEADER = ("scenario", "median", "min – max", "floor", "ratio", "target", "met", "peer")


def row_table(rows: Sequence[Row]) -> Table:
    """Return the table of the rows against their targets."""
    return Table("Against the targets", ROW_HEADER, [_row_cells(row) for row in rows])


def _row_cells(row: Row) -> list[str | float]:
    return [
        row.name,
        f"{show(statistics.median(row.values))} {row.unit}",
        f"{show(min(row.values))} – {show(max(row.values))}",
        show(statistics.median(row.floor)) if row.floor else "-",
        "-" if row.ratio is None else row.ratio,
        str(row.target),
        "met" if row.met else "MISSED",
        show(statistics.median(row.peer)) if row.peer else "-",
    ]


def usage_table(rows: Sequence[Row]) -> Table:
    """Return the table of what each process of each row used."""
    cells: list[list[str | float]] = []
    for row in rows:
        for i, usage in enumerate(row.usage):
            name = row.name if i == 0 else ""
            cells.append([name, usage.name, usage.peak / MIB, usage.cpu])
    return Table("Processes", ("scenario", "process", "peak, MiB", "CPU, s"), cells)


def show(value: str | float) -> str:
    """Write a figure with three digits that count."""
    if isinstance(value, str):
        return value
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def growth(sizes: Sequence[float], values: Sequence[float]) -> str:
    """Say how values grow from the first size to the last: ``n^1.0`` is in proportion."""
    if len(sizes) < 2 or values[0] <= 0 or values[-1] <= 0:
        return "-"
    return f"n^{math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0]):.1f}"
