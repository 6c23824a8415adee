"""How the node fared in the last hours, in memory: the control command ``history``, for plots.

Every ten seconds a few numbers are noted: units by state, how many came and ended, and of each link
its round-trip time and traffic. Each series is a ring of four bytes a value; together they have a
budget, however many links there are. Nothing is written to disk: who wants more than hours has
Prometheus read ``/metrics``.
"""

import math
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from meshnode.control.registry import (
    Asking,
    Command,
    CommandRegistry,
    ControlSession,
    Handler,
    JsonObject,
)
from meshnode.errors import CommandError
from meshnode.mesh.mesh import LinkStatus
from meshnode.permissions import Verb
from meshnode.protocol.lifecycle import UnitState
from meshnode.protocol.times import SECOND, format_time
from meshnode.work.units.shortage import in_thread_or_here
from meshnode.work.units.tally import TypeFigures

STEP: Final = 10.0
"""Seconds between two values: links are measured no more often."""

LENGTH: Final = 1080
"""Values of a series: three hours."""

HISTORY_BYTES: Final = 1024 * 1024
"""Bytes of all series: some 240, of 70 links and of units."""

MOST_SERIES: Final = HISTORY_BYTES // (4 * LENGTH)

DIGITS: Final = 6
"""Digits of a value that are told: a number of four bytes has no more."""

UNITS, LINKS = "units.", "link."
"""How the names of series begin that are about these."""

_NOTHING: Final = math.nan
"""Stands for a value that there is not."""


class Rings:
    """Series of values, one for each step, the newest ``length`` of each."""

    def __init__(self, length: int = LENGTH, most: int = MOST_SERIES) -> None:
        """``most`` bounds the number of series."""
        self.left_out = 0
        """Series that the last step had and for which there is no room."""
        self._length = length
        self._most = most
        self._rings: dict[str, array[float]] = {}
        self._heard: dict[str, int] = {}
        """The last step in which each series had a value."""
        self._steps = 0

    @property
    def steps(self) -> int:
        """How many steps are remembered."""
        return min(self._steps, self._length)

    def add(self, values: Mapping[str, float], missed: int = 0) -> None:
        """Note the values of a step, after ``missed`` steps of which nobody knows anything."""
        for _ in range(min(missed, self._length)):
            self._advance()
        self._advance()
        place = self._steps % self._length
        self.left_out = 0
        for name, value in values.items():
            ring = self._ring(name)
            if ring is None:
                self.left_out += 1
                continue
            ring[place] = value
            self._heard[name] = self._steps

    def _advance(self) -> None:
        self._steps += 1
        place = self._steps % self._length
        for ring in self._rings.values():
            ring[place] = _NOTHING
        for name in [n for n, heard in self._heard.items() if heard <= self._steps - self._length]:
            self._drop(name)

    def _ring(self, name: str) -> "array[float] | None":
        """Return the ring of a series, in the place of one that is silent if need be."""
        ring = self._rings.get(name)
        if ring is not None:
            return ring
        if len(self._rings) >= self._most:
            longest = min(self._heard, key=self._heard.__getitem__)
            # What had a value in this step or the one before is not silent.
            if self._heard[longest] >= self._steps - 1:
                return None
            self._drop(longest)
        ring = self._rings[name] = array("f", [_NOTHING]) * self._length
        self._heard[name] = self._steps
        return ring

    def _drop(self, name: str) -> None:
        del self._rings[name], self._heard[name]

    def latest(self, count: int, prefixes: Collection[str]) -> dict[str, "array[float]"]:
        """Return the last ``count`` values of each series whose name begins so, oldest first."""
        count = min(count, self.steps)
        end = self._steps % self._length + 1
        start = end - count
        return {
            name: ring[start:end] if start >= 0 else ring[start:] + ring[:end]
            for name, ring in self._rings.items()
            if name.startswith(tuple(prefixes))
        }


@dataclass(slots=True)
class _Traffic:
    """What one link had carried when it was last looked at."""

    since: float
    sent: int = 0
    received: int = 0


class History:
    """Notes how the node fares, and tells it.

    Args:
        registry: says who may know what.
        types: returns the figures of all units, by type.
        links: returns the links of the node at this moment.
    """

    def __init__(
        self,
        registry: CommandRegistry,
        types: Callable[[], Iterable[TypeFigures]],
        links: Callable[[], Iterable[LinkStatus]],
        rings: Rings | None = None,
    ) -> None:
        self._registry = registry
        self._types = types
        self._links = links
        self._rings = rings or Rings()
        self._counted: tuple[int, int] | None = None
        self._traffic: dict[str, _Traffic] = {}
        self._noted = 0.0
        """When the last values were noted, in Unix time."""

    async def run(self) -> None:
        """Note values, each ten seconds, until cancelled."""
        planned, missed = trio.current_time(), 0
        while True:
            self.note(missed)
            planned += STEP * (missed + 1)
            await trio.sleep_until(planned)
            # The machine may have slept, or the process been stopped.
            missed = int((trio.current_time() - planned) / STEP)

    def note(self, missed: int = 0) -> None:
        """Note the values of this moment, after so many steps that were missed."""
        self._noted = time.time()
        self._rings.add({**self._of_units(), **self._of_links()}, missed)

    def _of_units(self) -> dict[str, float]:
        states = dict.fromkeys(UnitState, 0)
        submitted = ended = 0
        for figures in self._types():
            for state, count in figures.states.items():
                states[state] += count
            submitted += figures.submitted
            ended += sum(figures.ended.values())
        before, self._counted = self._counted or (submitted, ended), (submitted, ended)
        # A type that is forgotten takes its counts along.
        flow = {"submitted": submitted - before[0], "ended": ended - before[1]}
        return {
            **{f"{UNITS}{state.label.lower()}": count for state, count in states.items()},
            **{f"{UNITS}{what}": max(0, count) for what, count in flow.items()},
        }

    def _of_links(self) -> dict[str, float]:
        values: dict[str, float] = {}
        seen: dict[str, _Traffic] = {}
        for link in self._links():
            figures, known = link.figures, self._traffic.get(link.peer)
            if known is None or known.since != figures.since:
                known = _Traffic(figures.since)
            now = _Traffic(figures.since, figures.sent_bytes, figures.received_bytes)
            seen[link.peer] = now
            name = f"{LINKS}{link.peer}"
            values[f"{name}.sent"] = now.sent - known.sent
            values[f"{name}.received"] = now.received - known.received
            if figures.round_trip is not None:
                values[f"{name}.rtt"] = figures.round_trip
        self._traffic = seen
        return values

    # --- telling ------------------------------------------------------------------------------

    def command(self) -> Command:
        """Return the command ``history``."""

        def run_with(seconds: float) -> Handler:
            async def run(session: ControlSession) -> JsonObject:
                prefixes = self._prefixes(session)
                count = min(LENGTH, math.ceil(seconds / STEP))
                rings, left_out, noted = self._rings, self._rings.left_out, self._noted
                steps = min(count, rings.steps)
                values = rings.latest(count, prefixes)
                series = await in_thread_or_here(_told, values)
                begin = noted - STEP * max(0, steps - 1)
                return {
                    "step": int(STEP),
                    "from": format_time(int(begin * SECOND)),
                    "series": series,
                    "left_out": left_out,
                }

            return Asking(run, None)

        def parse_text(rest: str) -> Handler:
            if rest and not (rest.isascii() and rest.isdecimal() and len(rest) < 10):
                raise CommandError("history takes a number of seconds")
            return run_with(int(rest) if rest else LENGTH * STEP)

        def parse_json(body: JsonObject) -> Handler:
            seconds = body.get("seconds", LENGTH * STEP)
            is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
            if not (is_number and 0 < seconds < math.inf):
                raise CommandError("field seconds must be a number above 0")
            return run_with(seconds)

        return Command("history", parse_text, parse_json)

    def _prefixes(self, session: ControlSession) -> list[str]:
        """Return which series a client may have. Raises NotAllowed: none."""
        may_have = []
        if self._registry.shows_units(session):
            may_have.append(UNITS)
        if self._registry.may(session, Verb.MESH):
            may_have.append(LINKS)
        if not may_have:
            self._registry.require(session, Verb.MESH)  # refuses, and tells whoever keeps account
        return may_have


def _told(series: Mapping[str, "array[float]"]) -> dict[str, list[float | None]]:
    """Return series as JSON has them."""
    return {name: [_shown(value) for value in values] for name, values in series.items()}


def _shown(value: float) -> float | None:
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() else float(f"{value:.{DIGITS}g}")
