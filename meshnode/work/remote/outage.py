"""Shows in a unit's detail why its node is not reached, and since when.

Clients read it of units that wait: ``waiting for node bar: no route since 12:04:31``. Of a unit
that runs over there it says how old the state is: ``last heard from bar at 12:04:31: no route``.

It costs no disk write: what is shown lives in memory, and a unit that goes through at once never
shows any of it.
"""

from datetime import UTC, datetime, timedelta

import trio

from meshnode.work.units.unit import Clock, Unit


class Outage:
    """One unit's view of its node, while that is not reached; all conversations share it.

    ``now`` is the wall clock.
    """

    def __init__(self, unit: Unit, now: Clock) -> None:
        self._unit = unit
        self._now = now
        self._reason = ""
        self._meant = ""
        """The node that was probably meant."""
        self._since = now()
        self._heard: datetime | None = None
        """When the node was last heard from; None if it was not since this task began."""

    @property
    def cause(self) -> str:
        """The last reason and since when it holds; empty if there was none since the last talk."""
        if not self._reason:
            return ""
        hint = f"; did you mean {self._meant}?" if self._meant else ""
        return f"{self._reason} since {_clock(self._since, self._now())}{hint}"

    @property
    def holds_for(self) -> float:
        """Seconds for which what is shown can be read as it is: a time of day needs its date."""
        now = self._now().astimezone(UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return (midnight - now).total_seconds()

    def heard(self, at: float) -> None:
        """Note when, in trio's time, something came from the node."""
        moment = self._now() - timedelta(seconds=max(trio.current_time() - at, 0.0))
        if self._heard is None or moment > self._heard:
            self._heard = moment

    def show(self, reason: str, meant: str = "") -> None:
        """Show why the node is not reached, and which one was probably meant instead."""
        if reason != self._reason:
            self._reason, self._since = reason, self._now()
        self._meant = meant
        self._unit.show_outage(self._text())

    def end(self) -> None:
        """Show nothing: the node is reached."""
        if self._reason:
            self._reason = ""
            self._unit.show_outage("")

    def _text(self) -> str:
        status, node = self._unit.status, self._unit.remote.node
        if status.state.is_final:
            return f"its release waits for node {node}: {self.cause}"
        if not self._unit.remote.started or self._unit.remote.is_unseen:
            return f"waiting for node {node}: {self.cause}"
        if self._heard is None:
            return f"not heard from {node} since this node started: {self.cause}"
        return f"last heard from {node} at {_clock(self._heard, self._now())}: {self._reason}"


def _clock(moment: datetime, now: datetime) -> str:
    """Return the time of day in UTC, with the date if that is another day than today."""
    moment, now = moment.astimezone(UTC), now.astimezone(UTC)
    is_today = moment.date() == now.date()
    return f"{moment:%H:%M:%S}" if is_today else f"{moment:%Y-%m-%d %H:%M:%S}"
