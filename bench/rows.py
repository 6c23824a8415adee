"""One row of the table that `make bench` is about: a scenario against its floor and its target."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.nodes import MESHNODE, Daemon
from bench.processes import MIB, Usage

Measure = Callable[[], float]
"""Does the thing once and returns its figure, in the unit of its row."""

REPEATS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """How to run: small sizes or not, how often, and whom to compare with."""

    quick: bool = False
    repeats: int = REPEATS
    peer: Daemon | None = None

    @property
    def daemons(self) -> list[Daemon]:
        """The programs to measure, ours first."""
        return [MESHNODE] if self.peer is None else [MESHNODE, self.peer]


@dataclass(frozen=True, slots=True)
class Target:
    """What is promised of a ratio, or of the value itself where a row has no floor."""

    bound: float
    at_least: bool = False

    def met_by(self, figure: float) -> bool:
        return figure >= self.bound if self.at_least else figure <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """The figures of one scenario.

    Attributes:
        name: of the row, the same in every run, by which two runs are compared.
        unit: of values and floor; ``ms`` (less is better), ``MB/s`` …
        values: one for each repeat.
        floor: one for each repeat, measured in turn with the values; empty where there is none,
            and the target is of the value itself.
        peer: the values of the daemon compared with, if there was one.
        usage: what each process used, of ours.
    """

    name: str
    unit: str
    values: Sequence[float]
    target: Target
    floor: Sequence[float] = ()
    peer: Sequence[float] = ()
    usage: Sequence[Usage] = field(default=())

    @property
    def ratio(self) -> float | None:
        """Median of the repeats' ratios: what slows the machine for a while slows both sides."""
        if not self.floor:
            return None
        return statistics.median(v / f for v, f in zip(self.values, self.floor, strict=True))

    @property
    def figure(self) -> float:
        """What the target is of."""
        return statistics.median(self.values) if self.ratio is None else self.ratio

    @property
    def met(self) -> bool:
        return self.target.met_by(self.figure)

    def as_json(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "values": list(self.values),
            "floor": list(self.floor),
            "ratio": self.ratio,
            "target": str(self.target),
            "met": self.met,
            "peer": list(self.peer),
            "usage": {u.name: {"peak_mib": u.peak / MIB, "cpu_s": u.cpu} for u in self.usage},
        }


Key = TypeVar("Key")


def alternate(measures: Mapping[Key, Measure], repeats: int) -> dict[Key, list[float]]:
    """Run the measures in turn, ``repeats`` times each after one that does not count."""
    figures: dict[Key, list[float]] = {name: [] for name in measures}
    for turn in range(repeats + 1):
        for name, measure in measures.items():
            figure = measure()
            if turn:
                figures[name].append(figure)
    return figures
