"""The time by which a remote unit must have started."""

import math
from datetime import UTC, datetime

import trio

from meshnode.work.unit import Clock

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


class Expiry:
    """Ends a block when a unit's time to start is over.

    While the unit *may* have started, because the other node could have got all of the payload and
    its answer is not here, time does not count: a unit that runs must not be called expired.
    """

    def __init__(self, moment: datetime | None, now: Clock) -> None:
        self._moment = moment
        self._now = now
        self.scope = trio.CancelScope()

    @property
    def text(self) -> str:
        """What clients match on (reference section 8), in Go's layout; times are UTC."""
        assert self._moment is not None
        at = self._moment.astimezone(UTC)
        day = f"{_DAYS[at.weekday()]} {_MONTHS[at.month - 1]} {at.day}"
        return f"Work unit expired on {day} {at:%H:%M:%S}"

    def count(self) -> None:
        """Let time count."""
        if self._moment is not None:
            left = (self._moment - self._now()).total_seconds()
            self.scope.deadline = trio.current_time() + left

    def hold(self) -> None:
        """Let time not count."""
        self.scope.deadline = math.inf
