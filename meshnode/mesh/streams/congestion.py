"""How much of a connection may be in flight, and in datagrams of what size.

Links are mostly reliable byte streams, so windows are fixed and nothing is paced. The cost of QUIC
is per packet, so between meshnodes datagrams are as large as both ends and everything between them
take. Nobody says what the links in between take. So the size is found by probing (RFC 8899): a
probe of the wanted size is sent, and only its acknowledgement raises the size. When large datagrams
stop arriving (a new route leads over a link that drops them), the size falls back to what everybody
takes.

This is one of three files that touch aioquic's private parts: see quic.py.
"""

import enum
import math
from collections.abc import Iterable

from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer

BASE_SIZE = 1200
"""Bytes of a datagram that every peer takes. Receptor reads into 1,452-byte buffers and truncates
what is longer."""

LARGE_SIZE = 16_000
"""Bytes of the largest datagram that we send and receive: with its header it stays below receptor's
nominal 16,384, and below the two-byte lengths that the engine writes."""

PROBES = 3
"""Probes of a size that are lost before it is taken for too large: one may be lost by chance."""

STALLED_TIMEOUTS = 3
"""Probe time-outs in a row after which the path counts as one that drops all large datagrams (a
black hole, RFC 8899). Losses cannot show it then, since nothing is acknowledged."""

RETRY = 30.0
"""Seconds after which a size that did not get through is tried again: routes change."""

LOSS_EVENTS = 3
"""Losses of large datagrams, without one arriving in between, after which the path counts as one
that drops them all. A full queue drops some of a burst, but hardly three times running."""


FLIGHT_PACKETS = 180
"""Packets in flight at most, of the size that every peer takes: quic-go drops what exceeds 256 that
it has not processed yet."""

LARGE_FLIGHT = 128 * LARGE_SIZE
"""Bytes in flight at most with large datagrams. A burst of it still fits a link's queue that a
local sender found half empty (mesh/peers/sendqueue.py)."""


class _Phase(enum.Enum):
    IDLE = "idle"
    PROBING = "probing"
    LARGE = "large"


class PathSize:
    """The datagram size of one connection. ``now`` arguments are seconds of one clock."""

    def __init__(self) -> None:
        self.size = BASE_SIZE
        self._wished = BASE_SIZE
        self._phase = _Phase.IDLE
        self._next_probe = math.inf
        self._lost = 0

    def peer_takes(self, limit: int, now: float) -> None:
        """Note how large a datagram the peer says it can receive."""
        self._wished = min(limit, LARGE_SIZE)
        # Anything between would be receptor's 1,452: a gain that is not worth a probe.
        if self._wished >= 2 * BASE_SIZE:
            self._next_probe = now

    def next_deadline(self) -> float:
        """Return when a probe is due."""
        return self._next_probe

    def probe_due(self, now: float) -> int | None:
        """Return the size to probe now, if it is time; the caller sends the probe."""
        if now < self._next_probe:
            return None
        self._phase = _Phase.PROBING
        self._next_probe = math.inf
        return self._wished

    def probe_acked(self) -> None:
        """Use the large size: a datagram of it arrived."""
        if self._phase is _Phase.PROBING:
            self._phase = _Phase.LARGE
            self.size = self._wished
            self._lost = 0

    def probe_lost(self, now: float) -> None:
        """Try again at once, or later when chance can no longer be the reason."""
        if self._phase is _Phase.PROBING:
            self._lost += 1
            self._next_probe = now
            if self._lost >= PROBES:
                self._fall_back(now)

    def large_acked(self) -> None:
        """Note that the path takes large datagrams."""
        self._lost = 0

    def large_lost(self, now: float) -> None:
        """Note that large datagrams were lost, however many at once."""
        if self._phase is _Phase.LARGE:
            self._lost += 1
            if self._lost >= LOSS_EVENTS:
                self._fall_back(now)

    def timed_out(self, count: int, now: float) -> None:
        """Note that nothing was acknowledged for ``count`` probe time-outs in a row."""
        if self._phase is _Phase.LARGE and count >= STALLED_TIMEOUTS:
            self._fall_back(now)

    def _fall_back(self, now: float) -> None:
        self._phase = _Phase.IDLE
        self.size = BASE_SIZE
        self._lost = 0
        self._next_probe = now + RETRY


class CappedReno(RenoCongestionControl):
    """Reno that begins with, and never exceeds, a window of its own.

    Links of a mesh are mostly reliable byte streams: without loss the window would grow without
    bound, and probing for bandwidth in slow start only costs round trips. Real loss halves it.
    ``path`` is told which large datagrams arrived and which were lost.
    """

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.path = PathSize()
        self._cap = FLIGHT_PACKETS * max_datagram_size
        self.congestion_window = self._cap

    def resize(self) -> None:
        """Take over the datagram size that the path is now known to take."""
        self._max_datagram_size = self.path.size
        self._cap = LARGE_FLIGHT if self.path.size > BASE_SIZE else FLIGHT_PACKETS * BASE_SIZE
        self.congestion_window = self._cap

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """Grow as Reno does, to the cap."""
        super().on_packet_acked(now=now, packet=packet)
        self.congestion_window = min(self.congestion_window, self._cap)
        if packet.sent_bytes > BASE_SIZE:
            self.path.large_acked()

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """Halve the window as Reno does, unless only a probe for a larger size was lost."""
        lost = list(packets)
        probes = [p for p in lost if p.sent_bytes > self.path.size]
        if any(BASE_SIZE < p.sent_bytes <= self.path.size for p in lost):
            self.path.large_lost(now)
        self.on_packets_expired(packets=probes)
        rest = [p for p in lost if p not in probes]
        if rest:
            super().on_packets_lost(now=now, packets=rest)

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """Ignore round-trip times: behind a queue of our own they say nothing of congestion."""


register_congestion_control("capped-reno", CappedReno)


class NoPacer(QuicPacketPacer):
    """Sends at once: a reliable link paces by itself, and timers would shrink every batch."""

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override]
        """Return None, at once; aioquic's annotation forgets that its own pacer does so, too."""
        return None

    def update_after_send(self, now: float) -> None:
        """Keep no account."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Have no rate."""
