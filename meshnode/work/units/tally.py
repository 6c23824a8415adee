"""How many units of each type there are, in which state, and how they fared: counted as it happens.

Each unit holds the figures of its type, and says there what happens to it. So a look at 10,000
units takes as long as a look at their types, nothing is counted twice, and what is counted of a
unit when it comes is taken back from the same figures when it goes.

Work types of this node are named by its configuration. Those of other nodes are named by whoever
submits the work, so there is a bound for them: units of further ones are counted together.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

import trio

from meshnode.histogram import WORK_SECONDS, Distribution, Histogram
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.status import REMOTE, UnitStatus

MAX_REMOTE_TYPES: Final = 64
"""Work types of other nodes with figures of their own. Each takes 3 KiB here, and some 40 series in
the database of whoever reads metrics."""

KEPT_SECONDS: Final = 3600.0
"""Seconds for which figures are kept of a type that has no units and is not offered here. Shorter,
and the figures of a type whose units are released at once would begin anew all the time; longer,
and who invents names could keep those of others out."""

OTHER: Final = "other"
"""The type that further ones are counted as."""

UNKNOWN: Final = "unknown"
"""The type of units that were adopted before their node had told it."""


class TypeFigures:
    """Figures of the units of one type."""

    __slots__ = (
        "_clock",
        "_states",
        "ended",
        "idle_since",
        "payload_bytes",
        "result_bytes",
        "runner",
        "runs",
        "submitted",
        "waits",
        "work_type",
    )

    def __init__(self, runner: str, work_type: str, clock: Callable[[], float]) -> None:
        self.runner = runner
        """What drives them: ``command``, ``remote`` or another kind."""
        self.work_type = work_type
        self.submitted = 0
        """Units that were submitted or adopted since the node started."""
        self.payload_bytes = 0
        """Bytes of input that were taken in since then."""
        self.result_bytes = 0
        """Bytes of output that were sent to clients since then."""
        self.ended: dict[UnitState, int] = {}
        """Units that have ended since then, by their final state."""
        self.waits = Histogram(WORK_SECONDS)
        """Seconds from submissions to starts."""
        self.runs = Histogram(WORK_SECONDS)
        """Seconds from starts to ends."""
        self.idle_since = clock()
        """When the last unit went, if there is none."""
        self._states: dict[UnitState, int] = dict.fromkeys(UnitState, 0)
        self._clock = clock

    @property
    def states(self) -> dict[UnitState, int]:
        """How many units there are in each state."""
        return dict(self._states)

    @property
    def has_units(self) -> bool:
        """Whether there are any."""
        return any(self._states.values())

    def distributions(self) -> tuple[Distribution, Distribution]:
        """Return those of the times until units started, and from there until they ended."""
        return self.waits.distribution(), self.runs.distribution()

    # --- what units tell ----------------------------------------------------------------------

    def came(self, status: UnitStatus) -> None:
        """Count a unit that is there from now on."""
        self._states[status.state] += 1

    def changed(self, old: UnitStatus, new: UnitStatus) -> None:
        """Count that a unit has another state."""
        self._states[old.state] -= 1
        self._states[new.state] += 1
        if old.state is UnitState.PENDING and new.started is not None:
            _note_span(self.waits, new.created, new.started)
        if new.state.is_final:
            self.ended[new.state] = self.ended.get(new.state, 0) + 1
            _note_span(self.runs, new.started, new.finished)

    def went(self, status: UnitStatus) -> None:
        """Count that a unit is gone."""
        self._states[status.state] -= 1
        if not self.has_units:
            self.idle_since = self._clock()


def _note_span(histogram: Histogram, begin: str | None, end: str | None) -> None:
    """Note the seconds between two times of a status, if both are known.

    Clocks may be set in between, and those of two nodes differ: no span is below zero.
    """
    if begin is not None and end is not None:
        histogram.note(max(0.0, (_moment(end) - _moment(begin)).total_seconds()))


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    # Another node may have written it without a zone.
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class UnitTally:
    """The figures of all types of a node."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._types: dict[tuple[str, str], TypeFigures] = {}
        self._clock = clock
        self._remote_types = 0

    def figures_of(self, status: UnitStatus) -> TypeFigures:
        """Return the figures that a new unit is to hold."""
        remote = status.remote
        name = (status.work_type if remote is None else remote.work_type) or UNKNOWN
        key = (status.kind, name)
        found = self._types.get(key)
        if found is None:
            if status.kind == REMOTE and self._remote_types >= MAX_REMOTE_TYPES:
                self.forget()
                if self._remote_types >= MAX_REMOTE_TYPES:
                    key = (REMOTE, OTHER)
            found = self._types.get(key) or self._add(key)
        return found

    def _add(self, key: tuple[str, str]) -> TypeFigures:
        self._types[key] = found = TypeFigures(*key, self._clock)
        self._remote_types += key[0] == REMOTE and key[1] != OTHER
        return found

    def offer(self, runner: str, names: Iterable[str]) -> None:
        """Have figures of types of this node that there is no unit of yet.

        A first unit then makes a number grow, and does not only make it appear.
        """
        for name in names:
            if (runner, name) not in self._types:
                self._add((runner, name))

    def forget(self, offered: Container[str] = ()) -> None:
        """Forget the types that had no units for long, but those that this node offers."""
        overdue = self._clock() - KEPT_SECONDS
        for key, figures in list(self._types.items()):
            is_offered = key[0] != REMOTE and key[1] in offered
            if not (is_offered or figures.has_units or figures.idle_since > overdue):
                del self._types[key]
                self._remote_types -= key[0] == REMOTE and key[1] != OTHER

    def __iter__(self) -> Iterator[TypeFigures]:
        """Yield the figures of each type."""
        return iter(tuple(self._types.values()))
