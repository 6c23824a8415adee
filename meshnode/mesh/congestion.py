"""How much of a connection may be in flight, over links that are mostly reliable byte streams."""

from collections.abc import Iterable

from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer

from meshnode.mesh.pathsize import BASE_SIZE, LARGE_SIZE, PathSize

FLIGHT_PACKETS = 180
"""Packets in flight at most, of the size that every peer takes: quic-go drops what exceeds 256 that
it has not processed yet."""

LARGE_FLIGHT = 128 * LARGE_SIZE
"""Bytes in flight at most with large datagrams. A burst of it still fits a link's queue that a
local sender found half empty (mesh/sendqueue.py)."""


class CappedReno(RenoCongestionControl):
    """Reno that begins with, and never exceeds, a window of its own.

    Links of a mesh are mostly reliable byte streams: without loss the window would grow without
    bound, and probing for bandwidth in slow start only costs round trips. Real loss halves it.
    What becomes of datagrams that not every path takes is told to ``path``.
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
