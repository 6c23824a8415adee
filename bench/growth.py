"""Costs over sizes: the table and the plot of what grows how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report import Table, growth


@dataclass(frozen=True)
class Plot:
    """Costs of one kind of thing over how many there are.

    Attributes:
        title: for the plot and the table.
        size: what is counted.
        unit: of all the costs; a plot with two would say nothing.
        sizes: ascending.
        series: the costs by name, one for each size.
    """

    title: str
    size: str
    unit: str
    sizes: Sequence[float]
    series: Mapping[str, Sequence[float]]

    def table(self) -> Table:
        """Return the table, with the power of the size by which each cost grows."""
        header = (f"{self.title}, {self.unit}", *(f"{n:,g}" for n in self.sizes), "grows as")
        rows: list[tuple[str | float, ...]] = [
            (name, *values, growth(self.sizes, values)) for name, values in self.series.items()
        ]
        return Table(f"{self.title}, by {self.size}", header, rows)

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "size": self.size,
            "unit": self.unit,
            "sizes": list(self.sizes),
            "series": {name: list(values) for name, values in self.series.items()},
        }
