"""QUIC as an enemy speaks it: an ordinary handshake through data messages, then any frames at all.

Nothing is sent or awaited here: messages for the victim come out of :meth:`Dialer.outgoing`, and
what the victim says goes into :meth:`Dialer.take`.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from aioquic.buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import PACKET_FIXED_BIT, QuicProtocolVersion, pull_quic_header
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from hostile import forge
from meshnode.mesh.streams.identity import Identity
from meshnode.protocol.messages import HEADER_LENGTH
from meshnode.protocol.namehash import name_hash

STREAM_PREFIX = b"\0"
"""What a dialer's stream begins with."""

ADDRESS = ("victim", 0)
"""Where the engine believes the other end to be."""

MANY_STREAMS_PARAMETER = 0x6D65_7368
"""Number of the transport parameter of meshnodes that says so (docs/design/quic.md)."""

CREDIT = 1 << 21
"""Bytes that pass on a stream that the engine has not opened itself."""

PACKET_NUMBER_BYTES = 2
"""Bytes of a packet number as the engine writes it."""


class PeerLike(Protocol):
    """What carries messages to the victim and back: ``peer.Peer``."""

    def send(self, *messages: bytes) -> list[bytes]:
        """Send messages; return what the victim has said meanwhile."""
        ...

    def drain(self) -> list[bytes]:
        """Return what the victim has said meanwhile."""
        ...


Clock = Callable[[], float]
"""Seconds that only grow."""


def configuration(*, is_client: bool) -> QuicConfiguration:
    """Return what streams of the mesh are made with."""
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=["netceptor"],
        idle_timeout=600.0,
        max_datagram_size=1200,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        verify_mode=0,
    )


class _Tolerant(QuicConnection):
    """Takes the victim's word on streams that were opened behind this engine's back, too."""

    many_streams = False
    """Whether it says that it is a meshnode: those are granted many streams on a connection."""

    def _serialize_transport_parameters(self) -> bytes:
        more = varint(MANY_STREAMS_PARAMETER) + varint(0) if self.many_streams else b""
        return bytes(super()._serialize_transport_parameters()) + more

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        if stream_id not in self._streams and not self._stream_is_discarded(stream_id):
            self._streams[stream_id] = QuicStream(
                stream_id=stream_id, max_stream_data_local=CREDIT, max_stream_data_remote=CREDIT
            )
        return super()._get_or_create_stream(frame_type, stream_id)


class Talk:
    """One connection between a service of the enemy's node and one of the victim, at either end."""

    def __init__(
        self,
        quic: QuicConnection,
        source: str,
        own_service: str | bytes,
        service: str | bytes,
        victim: str,
    ) -> None:
        self.quic = quic
        self._head = forge.data(source, victim, own_service, service)
        self.address = b"".join(
            [
                *map(name_hash, (victim, source)),
                forge.service_field(service),
                forge.service_field(own_service),
            ]
        )
        """How the victim's messages for this connection are addressed: nodes and services."""
        self.is_up = False
        """Whether the handshake is done."""
        self.is_over = False
        """Whether the victim has ended the connection."""
        self.heard: dict[int, bytearray] = {}
        """What the victim has sent on each stream."""

    def outgoing(self, now: float) -> list[bytes]:
        """Return the messages that the engine wants to send."""
        if not self.quic._network_paths:
            return []  # nothing of what the victim said could be read
        return [self._head + bytes(data) for data, _ in self.quic.datagrams_to_send(now)]

    def take(self, message: bytes, now: float) -> bool:
        """Give a message to the engine if it belongs to this connection; say whether it did."""
        if message[0] != 0 or bytes(message[4:HEADER_LENGTH]) != self.address:
            return False
        self.quic.receive_datagram(bytes(message[HEADER_LENGTH:]), ADDRESS, now)
        while (event := self.quic.next_event()) is not None:
            match event:
                case events.HandshakeCompleted():
                    self.is_up = True
                case events.ConnectionTerminated():
                    self.is_over = True
                case events.StreamDataReceived(data=data, stream_id=stream_id):
                    self.heard.setdefault(stream_id, bytearray()).extend(data)
                case _:
                    pass
        # Its own event comes three probe time-outs after a close was read.
        self.is_over = self.is_over or self.quic._close_event is not None
        return True

    def open_stream(self, data: bytes = b"", *, end: bool = False) -> int:
        """Open a stream as a dialer does, and send data on it; return its ID."""
        stream_id = self.quic.get_next_available_stream_id()
        self.quic.send_stream_data(stream_id, STREAM_PREFIX + data, end_stream=end)
        return stream_id

    def packet(self, frames: bytes) -> bytes:
        """Return a message with one packet of these frames, which the engine knows nothing of."""
        connection = self.quic
        pair = connection._cryptos[Epoch.ONE_RTT]
        number = connection._packet_number
        connection._packet_number += 1
        head = bytes([PACKET_FIXED_BIT | pair.key_phase << 2 | PACKET_NUMBER_BYTES - 1])
        head += connection._peer_cid.cid + (number & 0xFFFF).to_bytes(PACKET_NUMBER_BYTES, "big")
        # Header protection samples 16 bytes from four behind the packet number's place.
        padded = frames + bytes(max(0, 4 - len(frames)))
        return self._head + bytes(pair.encrypt_packet(head, padded, number))


class Dialer(Talk):
    """A connection of ``own_service`` of node ``source`` with a stream service of the victim."""

    def __init__(
        self,
        source: str,
        own_service: str | bytes,
        service: str | bytes,
        *,
        victim: str = forge.VICTIM,
        now: float = 0.0,
        many_streams: bool = True,
    ) -> None:
        quic = _Tolerant(configuration=configuration(is_client=True))
        quic.many_streams = many_streams
        quic.connect(ADDRESS, now)
        super().__init__(quic, source, own_service, service, victim)


class Answerer(Talk):
    """What answers the victim, which has dialed a service of the enemy's node.

    ``first`` is the first message of the victim's connection.
    """

    def __init__(
        self,
        source: str,
        own_service: str | bytes,
        first: bytes,
        identity: Identity,
        *,
        many_streams: bool = False,
    ) -> None:
        header = pull_quic_header(Buffer(data=first[HEADER_LENGTH:]), host_cid_length=8)
        settings = configuration(is_client=False)
        settings.certificate, settings.private_key = identity.certificate, identity.key
        quic = _Tolerant(
            configuration=settings, original_destination_connection_id=header.destination_cid
        )
        quic.many_streams = many_streams
        super().__init__(quic, source, own_service, first[20:28], forge.VICTIM)


def first_datagram() -> bytes:
    """Return a QUIC datagram that begins a connection; it may be sent under any name."""
    message = Dialer("anybody", "x", "control").outgoing(0.0)[0]
    return message[HEADER_LENGTH:]


def varint(value: int) -> bytes:
    """Return a number as QUIC writes it."""
    for width, prefix in ((1, 0), (2, 1), (4, 2), (8, 3)):
        if value < 1 << (8 * width - 2):
            return (value | prefix << (8 * width - 2)).to_bytes(width, "big")
    raise ValueError(value)


def frame(kind: int, *numbers: int, rest: bytes = b"") -> bytes:
    """Return a frame of that type: its numbers, then bytes as they are."""
    return b"".join(map(varint, (kind, *numbers))) + rest


def stream_frame(stream_id: int, data: bytes, offset: int = 0, *, end: bool = False) -> bytes:
    """Return a STREAM frame with offset and length."""
    return frame(0x0E | int(end), stream_id, offset, len(data), rest=data)


def connect(dialers: Iterable[Dialer], peer: PeerLike, clock: Clock, seconds: float) -> None:
    """Shake hands for these connections over a peer's link, until all are up or time is over."""
    waiting = [d for d in dialers if not d.is_up]
    deadline = clock() + seconds
    while waiting and clock() < deadline:
        step(waiting, peer, clock)
        waiting = [d for d in waiting if not (d.is_up or d.is_over)]


def step(dialers: Iterable[Dialer], peer: PeerLike, clock: Clock) -> None:
    """Let every connection send what it has, and take what has come for it."""
    now = clock()
    heard: list[bytes] = []
    by_address = {dialer.address: dialer for dialer in dialers}
    for dialer in by_address.values():
        timer = dialer.quic.get_timer()
        if timer is not None and timer <= now:
            dialer.quic.handle_timer(now)
        if messages := dialer.outgoing(now):
            heard += peer.send(*messages)
    heard += peer.drain()
    for message in heard:
        dialer = by_address.get(message[4:HEADER_LENGTH])
        if dialer is not None:
            dialer.take(message, now)
