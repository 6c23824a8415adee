"""The queue of a node's units: which wait until others have ended, and in which order they start.

A work type may bound how many of its units run at once (``maxconcurrent``), the node how many of
all types (``maxrunning``). What is beyond that waits as Pending, by priority, and then first come,
first served. A unit that waits has no task, no process and no thread: it costs what a finished one
does. Units on other nodes wait there, and are not counted here.

A place is a unit's from its start until it is final or released.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import trio

from meshnode.work.units.unit import Unit

REFRESH_SECONDS = 1.0
"""Seconds between two reports to who watches a unit that waits: where it stands by then."""

REPORTS_PER_SECOND = 100
"""Such reports a second at most: each is a line to a client, and 10,000 may be watched."""


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """How many units may run at once; None, and a type that is not named, is any number.

    Attributes:
        running: of the whole node (``maxrunning``).
        by_type: of each work type (``maxconcurrent``).
    """

    running: int | None = None
    by_type: Mapping[str, int] = field(default_factory=dict)


Rank = tuple[int, str, int]
"""What sorts units that wait: priority, highest first; creation; and of equals, arrival."""


class _Entry:
    """A unit that has a place or waits for one."""

    __slots__ = ("queue", "rank", "unit", "waits")

    def __init__(self, queue: "RunQueue", unit: Unit, rank: Rank, *, waits: bool) -> None:
        self.queue = queue
        self.unit = unit
        self.rank = rank
        self.waits = waits

    def __lt__(self, other: "_Entry") -> bool:
        return self.rank < other.rank

    def changed(self) -> None:
        """Give the place back once the unit is final; called after each change of the unit."""
        if self.unit.is_final:
            self.queue.leave(self.unit)

    def words(self) -> str:
        """Return where the unit stands, for a person."""
        return self.queue.words(self)


class RunQueue:
    """Decides which units may run; ``begin`` starts one that has waited.

    It is closed at first: what is taken over from the last run comes in no order, so nothing that
    waits is started before all of it is known.
    """

    def __init__(self, begin: Callable[[Unit], object]) -> None:
        self.when_counts_change: Callable[[], None] = lambda: None
        """Called when another number of units runs or waits."""
        self._begin = begin
        self._bounds = QueueBounds()
        self._entries: dict[str, _Entry] = {}
        self._waiting: dict[str, list[_Entry]] = {}
        """Heaps of what waits, by type; who has left stays until it comes up."""
        self._running: Counter[str] = Counter()
        """Places that are taken, by type."""
        self._all_running = 0
        self._queued: Counter[str] = Counter()
        """Units that wait, by type."""
        self._arrivals = count()
        self._is_open = False
        self._order: _Order | None = None
        """Who stands where; None after a change, until somebody asks."""
        self._changed = trio.Event()

    @property
    def bounds(self) -> QueueBounds:
        """How many may run at once; what runs goes on, also beyond new bounds."""
        return self._bounds

    @bounds.setter
    def bounds(self, bounds: QueueBounds) -> None:
        self._bounds = bounds
        self._note_change()
        self._start_next()

    def open(self) -> None:
        """Start what may run of those that wait, now and from now on."""
        self._is_open = True
        self._start_next()

    # --- coming and going ---------------------------------------------------------------------

    def would_wait(self, unit: Unit) -> bool:
        """Whether a unit that comes now has to wait."""
        if unit.status.remote is not None or not self._may_bound(unit):
            return False
        is_free = self._is_open and self._has_room(unit.status.work_type)
        return not is_free or self._is_outdone(unit)

    def _may_bound(self, unit: Unit) -> bool:
        bounds = self._bounds
        return bounds.running is not None or unit.status.work_type in bounds.by_type

    def _is_outdone(self, unit: Unit) -> bool:
        """Whether one of its type waits that goes first."""
        first = self._first(unit.status.work_type)
        return first is not None and first.rank < self._rank(unit)

    def enter(self, unit: Unit, *, has_started: bool = False) -> bool:
        """Give a unit a place, or have it wait for one; return whether it has one.

        One that ``has_started`` has its place, whatever the bounds say. ``begin`` is called for a
        unit that waited when its turn comes.
        """
        if unit.status.remote is not None:
            return True
        known = self._entries.get(unit.unit_id)
        if known is not None:
            # Its task was stopped for a request that has been refused.
            return not known.waits
        waits = not has_started and self.would_wait(unit)
        self._add(unit, waits=waits)
        return not waits

    def _add(self, unit: Unit, *, waits: bool) -> None:
        name = unit.status.work_type
        entry = _Entry(self, unit, self._rank(unit), waits=waits)
        self._entries[unit.unit_id] = entry
        unit.add_listener(entry.changed)
        if waits:
            heappush(self._waiting.setdefault(name, []), entry)
            unit.place = entry.words
            self._queued[name] += 1
            self._note_change()
        else:
            self._take_place(name)

    def _rank(self, unit: Unit) -> Rank:
        return (-unit.status.priority, unit.status.created or "", next(self._arrivals))

    def is_waiting(self, unit: Unit) -> bool:
        """Whether a unit waits for a place: nothing of it runs, and it has no task."""
        entry = self._entries.get(unit.unit_id)
        return entry is not None and entry.waits

    def leave(self, unit: Unit) -> None:
        """Take a unit out, if it is in; its place is the next one's."""
        entry = self._entries.pop(unit.unit_id, None)
        if entry is None:
            return
        unit.remove_listener(entry.changed)
        name = unit.status.work_type
        if entry.waits:
            self._stop_waiting(entry)
            return
        self._running[name] -= 1
        self._all_running -= 1
        self.when_counts_change()
        self._start_next()

    # --- whose turn it is ---------------------------------------------------------------------

    def _take_place(self, name: str) -> None:
        self._running[name] += 1
        self._all_running += 1
        self.when_counts_change()

    def _has_room(self, name: str) -> bool:
        most, most_of_all = self._bounds.by_type.get(name), self._bounds.running
        if most_of_all is not None and self._all_running >= most_of_all:
            return False
        return most is None or self._running[name] < most

    def _first(self, name: str) -> _Entry | None:
        """Return who of a type goes next."""
        heap = self._waiting.get(name)
        while heap:
            if heap[0].waits:
                return heap[0]
            heappop(heap)
        self._waiting.pop(name, None)
        return None

    def _start_next(self) -> None:
        """Start whatever may start."""
        while self._is_open and (entry := self._next()) is not None:
            name = entry.unit.status.work_type
            heappop(self._waiting[name])
            self._stop_waiting(entry)
            self._take_place(name)
            self._begin(entry.unit)

    def _stop_waiting(self, entry: _Entry) -> None:
        entry.waits = False
        entry.unit.place = None
        self._queued[entry.unit.status.work_type] -= 1
        self._note_change()

    def _next(self) -> _Entry | None:
        ready = (self._first(name) for name in tuple(self._waiting) if self._has_room(name))
        return min((entry for entry in ready if entry is not None), default=None)

    # --- what people see ----------------------------------------------------------------------

    def words(self, entry: _Entry) -> str:
        """Return where a unit stands that waits: ``Queued: 3rd of 7 (maxconcurrent 2)``."""
        order = self._order = self._order or _Order(self._waiting_now())
        name = entry.unit.status.work_type
        most = self._bounds.by_type.get(name)
        most_of_all = self._bounds.running
        # Before the queue is open, units wait whether a bound is reached or not.
        if most is not None and (most_of_all is None or self._running[name] >= most):
            place, total = order.of_type(entry)
            why = f"maxconcurrent {most}"
        else:
            place, total = order.of_all(entry)
            why = f"maxrunning {most_of_all}"
        return f"Queued: {_ordinal(place)} of {total} ({why})"

    def _waiting_now(self) -> Iterator[_Entry]:
        return (entry for entry in self._entries.values() if entry.waits)

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """Return how many units run, and how many wait, by type."""
        return +self._running, +self._queued

    def _note_change(self) -> None:
        self._order = None
        self._changed.set()
        self.when_counts_change()

    async def run(self) -> None:
        """Tell those who watch a waiting unit where it stands, from time to time, until
        cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            # One listener is the queue's own.
            watched = [entry.unit for entry in self._waiting_now() if entry.unit.watchers > 1]
            for unit in watched:
                unit.tell_watchers()
            await trio.sleep(max(REFRESH_SECONDS, len(watched) / REPORTS_PER_SECOND))


class _Order:
    """Who stands where at one moment."""

    def __init__(self, waiting: Iterable[_Entry]) -> None:
        self._all: list[Rank] = []
        self._by_type: dict[str, list[Rank]] = {}
        for entry in sorted(waiting):
            self._all.append(entry.rank)
            self._by_type.setdefault(entry.unit.status.work_type, []).append(entry.rank)

    def of_all(self, entry: _Entry) -> tuple[int, int]:
        """Return the place among all that wait, from 1, and how many these are."""
        return bisect_left(self._all, entry.rank) + 1, len(self._all)

    def of_type(self, entry: _Entry) -> tuple[int, int]:
        """Return the same among those of its work type."""
        ranks = self._by_type[entry.unit.status.work_type]
        return bisect_left(ranks, entry.rank) + 1, len(ranks)


def _ordinal(number: int) -> str:
    """Return ``1st``, ``2nd``, ``11th``."""
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
