"""Sends lists of units, of any length, so that nobody else waits for them.

All of them in the order of their IDs, as receptor does; or a page of those that are wanted, the
newest first. Either is done in turns of a few milliseconds, among those of other clients.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Final

from meshnode.control.registry import ControlSession
from meshnode.protocol.control import encode_reply
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.follow import shown
from meshnode.work.units.unit import Unit
from meshnode.work.units.wanted import Place, Wanted, cursor_of, place_of

LISTED_AT_ONCE = 256
"""Units of a list that are encoded together: some 100 KiB, a few milliseconds. A list of all in one
piece would hold up everybody else, and the memory of a long one would not be freed."""

LOOKED_AT_ONCE = 512
"""Units that are looked at together whether they are wanted: a millisecond or two. Nothing is
encoded of those that are not shown."""

ORDERED_AT_ONCE = 10_000
"""Units that are put in the order of their IDs together: some 5 ms. Parts are joined as they are
sent."""

_unit_id = attrgetter("unit_id")

_HEAD: Final = b'{"items":['
_END: Final = b"]}\n"

Shows = Callable[[Unit], bool]
"""Whether a client may see a unit."""


async def send_all(units: Sequence[Unit], session: ControlSession, shows: Shows) -> None:
    """Send the reply that shows those of these units that the client may see, piece by piece."""
    runs = []
    for start in range(0, len(units), ORDERED_AT_ONCE):
        async with session.turn():
            runs.append(sorted(units[start : start + ORDERED_AT_ONCE], key=_unit_id))
    in_order, before = merge(*runs, key=_unit_id), b"{"
    while some := list(islice(in_order, LISTED_AT_ONCE)):
        async with session.turn():
            # Asked here: to ask rules of thousands of units at once would hold up everybody else.
            those = [unit for unit in some if shows(unit)]
            members = encode_reply({unit.unit_id: shown(unit) for unit in those})[1:-2]
        if those:
            await session.send(before + members)
            before = b","
    await session.send(b"{}\n" if before == b"{" else b"}\n")


async def send_page(
    units: Sequence[Unit], session: ControlSession, wanted: Wanted, shows: Shows
) -> None:
    """Send the reply that shows a page of the units that are wanted and that the client may see."""

    def fits(unit: Unit) -> bool:
        return wanted.fits(unit.status, session.node_id) and shows(unit)

    page = _Page(wanted, fits)
    for start in range(0, len(units), LOOKED_AT_ONCE):
        async with session.turn():
            # From the end: the newest units came last, so older ones seldom change the page.
            page.look_at(units[max(0, len(units) - start - LOOKED_AT_ONCE) : len(units) - start])
    found, before = page.units(), _HEAD
    while some := list(islice(found, LISTED_AT_ONCE)):
        async with session.turn():
            # Some may have become others since they were looked at, and some are gone.
            those = [unit for unit in some if not unit.released and fits(unit)]
            items = [{"ID": unit.unit_id, **shown(unit)} for unit in those]
            members = encode_reply({"items": items})[len(_HEAD) : -len(_END)]
        if those:
            await session.send(before + members)
            before = b","
    end = b"]," + encode_reply(page.summary())[1:]
    await session.send(_HEAD + end if before == _HEAD else end)


@dataclass(slots=True)
class _Page:
    """The units of a page, as far as they are known."""

    wanted: Wanted
    fits: Callable[[Unit], bool]
    counts: Counter[UnitState] = field(default_factory=Counter)
    """How many units fit, on all pages, by their states."""
    rest: int = 0
    """How many of them stand behind the place where the page begins."""
    runs: list[list[tuple[Place, Unit]]] = field(default_factory=list)
    """The units of the page, each part in its order; a page with a limit has one part."""

    def look_at(self, units: Iterable[Unit]) -> None:
        found = [unit for unit in units if self.fits(unit)]
        self.counts.update(unit.status.state for unit in found)
        after, limit = self.wanted.after, self.wanted.limit
        # The place is kept, so that the order is one whatever becomes of the unit.
        entries = [(place_of(unit.unit_id, unit.status), unit) for unit in found]
        if after is not None:
            entries = [entry for entry in entries if entry[0] < after]
        self.rest += len(entries)
        if limit is not None and self.runs:
            entries += self.runs.pop()
        entries.sort(key=_place, reverse=True)
        self.runs.append(entries[:limit])

    def units(self) -> Iterator[Unit]:
        """Yield the units of the page in their order."""
        return (unit for _, unit in merge(*self.runs, key=_place, reverse=True))

    def summary(self) -> dict[str, object]:
        """Return what the reply says of all pages, and where the next one begins."""
        return {
            "next": self._next(),
            "states": {state.label: self.counts[state] for state in UnitState},
            "total": self.counts.total(),
        }

    def _next(self) -> str | None:
        limit = self.wanted.limit
        if not limit or self.rest <= limit:
            return None
        [(*_, (place, _))] = self.runs
        return cursor_of(place)


def _place(entry: tuple[Place, Unit]) -> Place:
    return entry[0]
