"""The time-outs of one connection, and whether its other end still lives.

``now`` arguments are seconds of one clock.
"""

import math

from meshnode.errors import MeshError

IDLE_TIMEOUT = 30.0
"""Seconds after which a silent connection is dead (protocol section 7)."""

KEEP_ALIVE = 15.0
"""Seconds of silence after which the dialer asks for a sign of life (protocol section 7)."""

HANDSHAKE_TIMEOUT = 15.0
"""Seconds for the handshake (protocol section 7)."""

NO_HANDSHAKE = f"no handshake within {HANDSHAKE_TIMEOUT:g} s"

POOL_IDLE = 60.0
"""Seconds that a dialer keeps a connection without a stream, so that the next one is cheap."""

LINGER = POOL_IDLE + 30.0
"""Seconds that a listener keeps a connection without a stream. Dialers close theirs; this ends the
connections of those that do not, and never before a meshnode would use it again."""

FIRST_STREAM = 15.0
"""Seconds after the handshake for a dialer to open its first stream, which it dialed for."""

UNUSED = 5.0
"""Seconds that a dialer keeps a connection on which it opened no stream, because all dials were
given up. Less than FIRST_STREAM, or the listener would close it under the next dial."""

DELIVERY = 600.0
"""Seconds in which the other end must take some of what was written on streams that are closed
here; then they are reset. As long as a client may pause the output of a unit."""


TIMEOUTS = 3
"""Probe time-outs of the engine within which the other end must answer a question. More than one,
because a question that is lost is sent again after the first."""

LEAST = 1.0
"""Seconds that the other end has at least: a flooded node answers late, however fast its links."""

MOST = 3.0
"""Seconds that the other end has at most, on the slowest paths."""

AGAIN = 1.0
"""Seconds between two questions, so that forged reports make us send one packet a second at most
for each connection."""


class ConnectionTimers:
    """The time-outs of one connection, of a dialer or a listener.

    ``idle`` is for how many seconds it is kept after its last stream.
    """

    def __init__(self, *, is_client: bool, idle: float, now: float) -> None:
        self.idle = idle
        self.was_used = False
        """Whether there was a stream."""
        self._first = UNUSED if is_client else FIRST_STREAM
        self._begun_at = now
        self._ready_by = now + HANDSHAKE_TIMEOUT
        self._ping_at = now + KEEP_ALIVE if is_client else math.inf
        self._idle_since = math.inf
        self._undelivered = 0
        self._delivered_at = math.inf

    def next_deadline(self, heard_at: float) -> float:
        """Return when to look again, if nothing happens before."""
        return min(
            self._ready_by,
            self._ping_at,
            self._idle_until,
            self._quiet_until(heard_at),
            self._delivered_at + DELIVERY,
        )

    # --- the handshake, and life after it ----------------------------------------------------

    def ready(self, now: float) -> None:
        """Note that the handshake is done."""
        self._ready_by = math.inf
        self._idle_since = now

    def is_late(self, now: float) -> bool:
        """Whether the handshake should be done."""
        return now >= self._ready_by

    def is_to_ping(self, now: float) -> bool:
        """Whether the listener is to be asked for a sign of life; the caller does so."""
        if now < self._ping_at:
            return False
        self._ping_at = now + KEEP_ALIVE
        return True

    def is_quiet(self, heard_at: float, now: float) -> bool:
        """Whether the other end has been silent for too long.

        What others send in its name is not its own: only what it has encrypted is heard.
        """
        return now >= self._quiet_until(heard_at)

    def _quiet_until(self, heard_at: float) -> float:
        return max(heard_at, self._begun_at) + IDLE_TIMEOUT

    # --- streams -----------------------------------------------------------------------------

    def used(self) -> None:
        """Note that a stream was opened."""
        self.was_used = True
        self._idle_since = math.inf

    def unused(self, now: float) -> None:
        """Note that the last stream is over."""
        self._idle_since = now

    def is_idle(self, now: float) -> bool:
        """Whether the connection has been without a stream for long enough."""
        return now >= self._idle_until

    @property
    def _idle_until(self) -> float:
        return self._idle_since + (self.idle if self.was_used else self._first)

    def waits_in_vain(self, undelivered: int, streams: int, now: float) -> bool:
        """Whether the other end has taken nothing for ``DELIVERY`` seconds of what waits for it.

        ``streams`` is how many streams are closed here and still have bytes to deliver;
        ``undelivered`` is how many bytes those are.
        """
        if not streams:
            self._delivered_at = math.inf
        elif undelivered != self._undelivered or self._delivered_at == math.inf:
            self._delivered_at = now
        elif now >= self._delivered_at + DELIVERY:
            self._delivered_at = now
            return True
        self._undelivered = undelivered
        return False


class LivenessCheck:
    """Whether the other end of a connection still lives, when others report that it does not.

    Notices of failed messages, and new epochs of a node, report the end of a connection long before
    silence would. But anybody on the way can forge them, and only the other end can encrypt for the
    connection. So a report makes us ask it, and only its silence is believed.
    """

    def __init__(self) -> None:
        self._reason: MeshError | None = None
        self._ask_at = math.inf
        self._asked_at = -math.inf
        self._until = math.inf

    def __bool__(self) -> bool:
        return self._reason is not None

    def begin(self, reason: MeshError, now: float) -> None:
        """Take a report that the other end is no more; ``reason`` then ends the connection."""
        if self._reason is None:
            self._reason = reason
            self._ask_at = max(now, self._asked_at + AGAIN)

    def next_deadline(self) -> float:
        """Return when to ask, or to believe the report."""
        return min(self._ask_at, self._until)

    def is_to_ask(self, now: float) -> bool:
        """Whether the other end is to be asked now; the caller does so."""
        if now < self._ask_at:
            return False
        self._ask_at, self._asked_at = math.inf, now
        return True

    def asked(self, now: float, probe_timeout: float) -> None:
        """Note that the question has been sent: the time to answer it begins.

        Not when it was asked for, because our own link may hold it up.
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
