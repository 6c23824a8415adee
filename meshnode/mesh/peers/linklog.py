"""What is logged of a link's life: each thing once, however often the same link fails again."""

import math
import random
from dataclasses import dataclass

import trio

from meshnode.logs import subject_logger
from meshnode.mesh.peers.boundary import Ended

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


# --- What there is to say about one link: for ``status``


@dataclass(frozen=True, slots=True)
class LinkFigures:
    """One link at one moment.

    ``kind`` and ``address`` are the link's (``tcp``, ``10.0.0.7:41532``); ``since`` is the Unix
    time at which it was established and ``uptime`` the seconds from then to now by a clock that
    nobody sets; messages and bytes are those of links, hellos and routing included; ``dropped``
    counts data messages that a full queue refused; ``refused`` counts updates and advertisements
    that were not what they must be, written by the peer or somebody beyond it; ``round_trip`` is in
    seconds, None while the peer has not answered.
    """

    kind: str
    address: str
    since: float
    uptime: float
    sent_messages: int
    sent_bytes: int
    received_messages: int
    received_bytes: int
    dropped: int
    refused: int
    round_trip: float | None


# --- When to dial again (protocol section 1 says what receptor does; ours begins sooner)

REDIAL_FIRST = 0.5
"""Seconds to the first new attempt. Receptor waits 5 s; a peer that was only restarted is back
before that, and one small packet twice a second for the first seconds costs nobody anything."""

REDIAL_MOST = 20.0
"""Seconds between attempts at most, as receptor's."""

REDIAL_GROWTH = 1.5
"""Growth from one pause to the next, as receptor's."""

REDIAL_JITTER = 0.2
"""Share by which a pause is shortened at random, so that the dialers of a node that was restarted
do not all come at the same moment."""

STEADY = 30.0
"""Seconds that a link must have been up for its peer to count as found: three routing updates, by
which each end has said all that it may be refused for. One that ends before is dialed again as one
that never came up, so that two nodes that disagree do not meet twice a second for ever."""

_MOST_STEPS = math.ceil(math.log(REDIAL_MOST / REDIAL_FIRST, REDIAL_GROWTH))


def redial_delay(failures: int) -> float:
    """Return the seconds to wait after ``failures`` failures in a row (at least 1), jittered."""
    steps = min(failures - 1, _MOST_STEPS)
    pause = min(REDIAL_FIRST * REDIAL_GROWTH**steps, REDIAL_MOST)
    return pause * (1 - REDIAL_JITTER * random.random())
