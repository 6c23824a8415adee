"""How long a connection waits: for its handshake, a stream, a sign of life, the last bytes.

``now`` arguments are seconds of one clock.
"""

import math

from meshnode.mesh.quic import HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, KEEP_ALIVE

POOL_IDLE = 60.0
"""Seconds that a dialer keeps a connection without a stream, for the next one to cost nothing."""

LINGER = POOL_IDLE + 30.0
"""Seconds that a listener's side waits, all streams done, for the dialer's close. Dialers close;
this ends the connections of those that forget, and never before a meshnode would use it again."""

FIRST_STREAM = 15.0
"""Seconds after the handshake for a dialer to open its first stream. Dialers shake hands because
they have a stream to open, so what stays without one is of no use to anybody."""

UNUSED = 5.0
"""Seconds that a dialer keeps a connection on which it opened no stream: all dials that waited for
the handshake were given up. Well before the listener's patience ends, which would be told to the
next dial in the middle of its stream."""

DELIVERY = 600.0
"""Seconds in which the other end must take some of what was written on streams that are closed
here, as long as a client may pause the output of a unit. Then they are reset: nobody here could
tell any more that it is waited for in vain."""


class Patience:
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
        """Whether the other end takes nothing of what it has not taken yet.

        ``undelivered`` are the bytes of ``streams`` that are closed here.
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
