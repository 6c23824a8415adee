"""What a scenario brings back, as text for people and as JSON for comparing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


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
    """The outcome of one scenario: its tables, and all its figures by name for the JSON file."""

    tables: Sequence[Table]
    figures: Mapping[str, Any]
    notes: Sequence[str] = field(default=())


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
