"""Units that ended long ago release themselves: ``node: unit-retention``."""

from datetime import UTC, datetime, timedelta

import trio

from meshnode.errors import MeshnodeError
from meshnode.logs import subject_logger
from meshnode.protocol.durations import format_duration
from meshnode.work.registry import Units
from meshnode.work.unit import Clock, Unit, wall_clock

LONGEST_SLEEP = 3600.0
"""Seconds until the next look at most: somebody may set the clock, and a unit that could not be
released gets another try."""

AT_A_TIME = 8
"""Releases at a time: one of a remote unit whose node is away waits for a while."""


class Retention:
    """Releases each unit ``seconds`` after its end."""

    def __init__(self, units: Units, seconds: float, now: Clock = wall_clock) -> None:
        self._units = units
        self._age = timedelta(seconds=seconds)
        self._now = now
        self._shown = format_duration(int(seconds * 1e9))
        self._log = subject_logger("retention")

    async def run(self) -> None:
        """Release what is due, whenever something is, until cancelled."""
        self._log.info("units are released %s after their end", self._shown)
        while True:
            await self._sweep()
            await trio.sleep(self._until_next())

    def _ended(self) -> dict[Unit, datetime]:
        """Return the units that have ended, and are not being released already, with their ends."""
        return {
            unit: self._end_of(unit)
            for unit in self._units.all()
            if unit.is_final and not (unit.status.remote and unit.status.remote.released)
        }

    def _end_of(self, unit: Unit) -> datetime:
        if unit.status.finished is not None:
            try:
                moment = datetime.fromisoformat(unit.status.finished)
                return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            except ValueError:
                unit.log.debug("no time of its end: %r", unit.status.finished)
        # receptor's units do not say; nothing has been written since.
        return self._units.store.last_written(unit.unit_id)

    def _until_next(self) -> float:
        """Return the seconds until a unit can be due; one that ends from now on is the last."""
        now = self._now()
        ages = [end + self._age - now for end in self._ended().values() if end + self._age > now]
        # Not for ages that a sleep cannot have, nor for ever in case the clock is set.
        return min(LONGEST_SLEEP, *(age.total_seconds() for age in (*ages, self._age)))

    async def _sweep(self) -> None:
        latest = self._now() - self._age
        places = trio.CapacityLimiter(AT_A_TIME)
        async with trio.open_nursery() as nursery:
            for unit, end in self._ended().items():
                if end <= latest:
                    nursery.start_soon(self._release, unit, places)

    async def _release(self, unit: Unit, places: trio.CapacityLimiter) -> None:
        async with places:
            try:
                done = await self._units.release(unit)
            except MeshnodeError as error:
                unit.log.warning("not released %s after its end: %s", self._shown, error)
            else:
                outcome = "released" if done else "release pending"
                unit.log.info("%s, since it ended more than %s ago", outcome, self._shown)
