"""Releases units that ended long ago (``node: unit-retention``)."""

from datetime import UTC, datetime

import trio

from meshnode.errors import MeshnodeError
from meshnode.logs import subject_logger
from meshnode.protocol.times import format_duration
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.unit import Clock, Unit, wall_clock

LONGEST_SLEEP = 3600.0
"""Most seconds until the next look: the clock may be set, and failed releases are tried again."""

SHORTEST_SLEEP = 0.01
"""Least seconds until the next look; a clock may not tell shorter times apart."""

AHEAD = 86400.0
"""Seconds that an end may lie in the future, if the clock was set back; what is later is wrong."""

FIRST_YEAR = 2000
"""Year before which no unit has ended; machines without a battery clock begin in 1970."""

AT_A_TIME = 8
"""Releases at a time: that of a remote unit waits for its node."""


class Retention:
    """Releases each unit ``seconds`` after its end."""

    def __init__(self, units: UnitManager, seconds: float, now: Clock = wall_clock) -> None:
        self._units = units
        self._age = seconds
        self._now = now
        self._odd: dict[Unit, datetime] = {}
        """Units whose recorded end is impossible, and when they were first seen."""
        self._shown = format_duration(int(seconds * 1e9))
        self._log = subject_logger("retention")

    async def run(self) -> None:
        """Release what is due, whenever something is, until cancelled."""
        self._log.info("units are released %s after their end", self._shown)
        while True:
            await self._sweep()
            await trio.sleep(self._until_next())

    def _ages(self) -> dict[Unit, float]:
        """Return the seconds since their ends of the units that are not being released already."""
        now = self._now()
        return {
            unit: self._age_of(unit, now)
            for unit in self._units.all()
            if unit.is_final and not unit.status.releasing
        }

    def _age_of(self, unit: Unit, now: datetime) -> float:
        end = self._end_of(unit)
        # A difference of times has no bounds that a status on disk could break; a sum has.
        age = (now - end).total_seconds()
        if age > -AHEAD and end.year >= FIRST_YEAR:
            return age
        # The clock was wrong then, or the file is: count from the first look at it.
        self._odd.setdefault(unit, now)
        return (now - self._odd[unit]).total_seconds()

    def _end_of(self, unit: Unit) -> datetime:
        status = unit.status
        # Another node says when its unit ended. What counts is when this node learned of it.
        known = status.finished if status.remote is None else status.learned
        if known is None:
            # receptor's units do not say; nothing has been written since.
            return self._units.store.last_written(unit.unit_id)
        moment = datetime.fromisoformat(known)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def _until_next(self) -> float:
        """Return the seconds until a unit can be due; one that ends now is due last."""
        left = [self._age - age for age in self._ages().values() if age < self._age]
        # Bounded, because the clock may be set meanwhile.
        return max(SHORTEST_SLEEP, min(LONGEST_SLEEP, self._age, *left))

    async def _sweep(self) -> None:
        self._odd = {unit: seen for unit, seen in self._odd.items() if not unit.released}
        places = trio.CapacityLimiter(AT_A_TIME)
        async with trio.open_nursery() as nursery:
            for unit, age in self._ages().items():
                if age >= self._age:
                    nursery.start_soon(self._release, unit, places)

    async def _release(self, unit: Unit, places: trio.CapacityLimiter) -> None:
        async with places:
            try:
                done = await self._units.ender.release(unit)
            except MeshnodeError as error:
                unit.log.warning("not released %s after its end: %s", self._shown, error)
            else:
                outcome = "released" if done else "release pending"
                unit.log.info("%s, since it ended more than %s ago", outcome, self._shown)
