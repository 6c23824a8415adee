"""Whether the other end of a connection still lives, when others say that it does not.

Notices of failed messages and new epochs of a node tell a connection that its other end is no
more, long before silence would. But anybody on the way can forge them, and only the other end can
encrypt for the connection. So such word is a reason to ask it, and only its silence is an answer.
``now`` arguments are seconds of one clock.
"""

import math

from meshnode.errors import MeshError

TIMEOUTS = 3
"""Probe time-outs that the other end has to answer: a question or an answer that is lost is sent
again after one."""

LEAST = 1.0
"""Seconds that it has at least: a node that is flooded answers later than its links are fast."""

MOST = 3.0
"""Seconds that it has at most, on the slowest paths."""

AGAIN = 1.0
"""Seconds between two questions, so that whoever forges such word makes us send no more than one
packet a second for each connection."""


class Doubt:
    """What is doubted of one connection, and until when."""

    def __init__(self) -> None:
        self._reason: MeshError | None = None
        self._ask_at = math.inf
        self._asked_at = -math.inf
        self._until = math.inf

    def __bool__(self) -> bool:
        return self._reason is not None

    def begin(self, reason: MeshError, now: float) -> None:
        """Take word that the other end is no more; ``reason`` is what then ends the connection."""
        if self._reason is None:
            self._reason = reason
            self._ask_at = max(now, self._asked_at + AGAIN)

    def next_deadline(self) -> float:
        """Return when to ask, or to believe."""
        return min(self._ask_at, self._until)

    def is_to_ask(self, now: float) -> bool:
        """Whether the other end is to be asked now; the caller does so."""
        if now < self._ask_at:
            return False
        self._ask_at, self._asked_at = math.inf, now
        return True

    def asked(self, now: float, probe_timeout: float) -> None:
        """Note that what was to be sent is sent: the other end's time begins.

        Not before, because our own link may hold the question up.
        """
        if self._reason is not None and self._ask_at == self._until == math.inf:
            self._until = now + min(max(TIMEOUTS * probe_timeout, LEAST), MOST)

    def heard(self, at: float) -> None:
        """Note when the other end was heard last: after the question, that is an answer."""
        if self._reason is not None and self._ask_at == math.inf and at >= self._asked_at:
            self._reason = None
            self._until = math.inf

    def verdict(self, now: float) -> MeshError | None:
        """Return why the other end is no more, when it has been silent for long enough."""
        return self._reason if now >= self._until else None
