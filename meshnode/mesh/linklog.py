"""What is logged of a link's life: each thing once, however often the same link fails again."""

import math

import trio

from meshnode.logs import subject_logger
from meshnode.mesh.boundary import Ended

REPEATED_AFTER = 3600.0
"""Seconds after which the same complaint is news again, for whoever reads the log of today."""

REMEMBERED = 256
"""Complaints that are remembered of the links of one listener or dialer."""

LONGEST_REASON = 200
"""Characters of a reason by which it is known again."""


class Complaints:
    """What was complained of already.

    A peer that is away or refused for a day is one event, and not four thousand. What lasted once
    is news again when it fails.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}
        """When it was told of whom; what was told last is at the end."""

    def is_news(self, who: str, reason: str) -> bool:
        """Whether this was not told lately; from now on it was."""
        now = trio.current_time()
        complaint = (who, reason[:LONGEST_REASON])
        told = self._told.get(complaint, -math.inf)
        if now < told + REPEATED_AFTER:
            return False
        self._told.pop(complaint, None)
        self._told[complaint] = now
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        return True

    def settle(self, who: str) -> None:
        """Forget what was told of somebody whose link has lasted."""
        for complaint in [c for c in self._told if c[0] == who]:
            del self._told[complaint]


class LinkLog:
    """The log of one link."""

    def __init__(self, name: str, holder: str, complaints: Complaints) -> None:
        """``holder`` is who is complained of while the peer is not known."""
        self._log = subject_logger("link", name)
        self._holder = holder
        self._complaints = complaints

    def agreed(self, peer: str, cost: float) -> None:
        """Tell that both ends are content: a link that is refused says no more than why."""
        self._log.info("established with %s, cost %g", peer, cost)

    def ended(self, peer: str, end: Ended, *, lasted: bool) -> None:
        """Tell why the link is over; ``peer`` is empty if it never came up."""
        who = peer or self._holder
        if lasted:
            self._complaints.settle(who)
        elif end.is_told or not self._complaints.is_news(who, end.reason):
            self._log.debug("closed again (%s): %s", peer or "peer unknown", end.reason)
            return
        if not peer:
            # A line of another kind: a flood of these must not hide that real links end.
            self._log.warning("closed (peer unknown): %s", end.reason)
        else:
            (self._log.warning if end.fault else self._log.info)(
                "closed (%s): %s", peer, end.reason
            )
