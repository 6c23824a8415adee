"""A distribution in bounded memory: how often a value fell into which of some fixed ranges.

Whoever measures something keeps one of these, whether or not anybody reads it: one is a list of
integers, and to note a value costs a search among a dozen numbers. It knows nothing of Prometheus,
so a node without an HTTP service imports nothing for it; :mod:`meshnode.web` gives it the form that
Prometheus reads.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

WORK_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3.6e3, 14.4e3)
"""Upper ends, in seconds, for how long units wait and run: from the shortest that a node can start
to four hours, about three to a factor of ten. What takes longer shares the last range."""

LOOP_SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Upper ends, in seconds, for how long the event loop is busy in one go: 1 ms is good, links of
others end when it is 20 s."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram at one moment.

    Attributes:
        bounds: the upper end of each range but the last, which has none.
        cumulative: for each range, how many values are in it or a lower one.
        total: the sum of all values.
    """

    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values there are."""
        return self.cumulative[-1]

    def plus(self, other: "Distribution") -> "Distribution":
        """Return that of the values of both, which have the same ranges."""
        sums = (a + b for a, b in zip(self.cumulative, other.cumulative, strict=True))
        return Distribution(self.bounds, tuple(sums), self.total + other.total)


class Histogram:
    """Counts values by the range that they fall into; a value at an upper end is within."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` are the upper ends, the lowest first."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def note(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def distribution(self) -> Distribution:
        """Return what has been counted up to now."""
        return Distribution(self._bounds, tuple(accumulate(self._counts)), self._total)
