"""The QUIC engine as the mesh needs it: aioquic's connection, with what it lacks.

The mesh needs credit by consumption, large datagrams, early notice of an end, and no pacer; aioquic
has no setting for these, so this file and the two that it is made of touch aioquic's private parts,
and no others do. They are three because they answer three questions: what the mesh needs (here),
what a peer may cost (packets.py, whose class is the base of the one here), and how much may be in
flight (congestion.py, which the engine calls). Why each touch is needed: docs/design/quic.md.

aioquic is pinned to one exact version (pyproject.toml); ``tests/unit/mesh/test_quic.py`` fails when
an upgrade moves what is touched here.
"""

import math

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    Limit,
    QuicConnectionState,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.logger import QuicLogger
from aioquic.quic.packet import (
    QuicFrameType,
    QuicPacketType,
)
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import CipherSuite, Direction, Epoch, ExtensionType

from meshnode.mesh.streams.congestion import BASE_SIZE, LARGE_SIZE, CappedReno, NoPacer
from meshnode.mesh.streams.flowcontrol import CREDIT_STEP, MAX_PEER_STREAMS, Credit
from meshnode.mesh.streams.identity import Identity, is_insecure
from meshnode.mesh.streams.packets import FrameBounds, LeanHeaderProtection, PeerJudge
from meshnode.mesh.streams.quicsettings import (
    ACK_DELAY,
    CONNECTION_CREDIT,
    MAX_STREAMS,
    Address,
    configuration,
    own_parameters,
    peer_parameters,
)


class MeshQuicConnection(FrameBounds):
    """aioquic's connection with what the mesh needs; see the head of this module."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        credit: Credit,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        judge: PeerJudge | None = None,
    ) -> None:
        super().__init__(
            judge=judge,
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._ack_delay = ACK_DELAY
        self._loss._pacer = NoPacer(max_datagram_size=BASE_SIZE)
        control = self._loss._cc
        assert isinstance(control, CappedReno)
        self._control = control
        self._path = self._control.path
        self._credit = credit
        # Dialers open bidirectional streams. What is not allowed, the engine takes for a fault of
        # the peer, which ends the connection.
        _set_limit(self._local_max_streams_uni, 0)
        _set_limit(self._local_max_streams_bidi, 0)
        self._peer_limit = BASE_SIZE
        self.takes_many_streams = False
        """Whether the peer said, in the handshake, that a connection may carry many streams."""

    def receive_datagram(self, data: bytes, addr: Address, now: float) -> None:
        """Take a datagram; one that is larger than we say we take is none."""
        if len(data) <= LARGE_SIZE:
            super().receive_datagram(data, addr, now)

    def _update_traffic_key(
        self, direction: Direction, epoch: Epoch, cipher_suite: CipherSuite, secret: bytes
    ) -> None:
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)
        keys = self._cryptos[epoch]
        context = keys.send if direction is Direction.ENCRYPT else keys.recv
        assert context.hp is not None
        context.hp = LeanHeaderProtection(context.hp)

    # --- making one --------------------------------------------------------------------------

    @classmethod
    def client(
        cls,
        own_id: str,
        peer: Address,
        now: float,
        credit: Credit,
        streams: int = MAX_STREAMS,
        qlog: QuicLogger | None = None,
        judge: PeerJudge | None = None,
    ) -> "MeshQuicConnection":
        """Begin a connection to a service of another node, for up to ``streams`` of ours.

        The dialer's own node ID goes into the server name, as receptor's does (reference
        section 7); who answers is checked by ``judge``, or :meth:`has_insecure_certificate`.
        """
        settings = configuration(is_client=True, qlog=qlog)
        # A server name is ASCII without a final dot (RFC 6066), a node ID need not be.
        if own_id.isascii() and not own_id.endswith("."):
            settings.server_name = own_id
        settings.verify_mode = 0  # ssl.CERT_NONE: see has_insecure_certificate
        if judge is not None and judge.shows is not None:
            _show(settings, judge.shows)
        connection = cls(settings, credit, judge=judge)
        credit.promise(streams)
        connection._local_max_stream_data_bidi_local = credit.window
        connection.connect(peer, now)
        return connection

    @classmethod
    def server(
        cls,
        identity: Identity,
        credit: Credit,
        original_cid: bytes,
        retry_cid: bytes | None = None,
        qlog: QuicLogger | None = None,
        judge: PeerJudge | None = None,
    ) -> "MeshQuicConnection":
        """Answer a new connection; ``judge`` is that of a service with TLS settings.

        ``original_cid`` is the connection ID that the dialer first sent to; ``retry_cid`` the one
        that it was told to send to, if it was.
        """
        settings = configuration(is_client=False, qlog=qlog)
        _show(settings, identity)
        return cls(settings, credit, original_cid, retry_cid, judge)

    def _alpn_handler(self, alpn_protocol: str) -> None:
        # The earliest moment at which a listener has read what the dialer says of itself, and its
        # own promises are still to be sent.
        super()._alpn_handler(alpn_protocol)
        if not self._is_client:
            self._credit.promise(MAX_PEER_STREAMS if self.takes_many_streams else 1)
            self._local_max_stream_data_bidi_remote = self._credit.window
            _set_limit(self._local_max_streams_bidi, self._credit.streams)
            self.tls.handshake_extensions = [
                (ExtensionType.QUIC_TRANSPORT_PARAMETERS, self._serialize_transport_parameters())
            ]

    @property
    def may_open(self) -> bool:
        """Whether the listener lets us open another stream."""
        return bool(self._local_next_stream_id_bidi // 4 < self._remote_max_streams_bidi)

    @property
    def has_begun(self) -> bool:
        """Whether a packet of the peer was one."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    def has_insecure_certificate(self) -> bool:
        """Whether the listener presented the identity of a service without TLS settings."""
        certificate = self.tls._peer_certificate
        return certificate is not None and is_insecure(certificate)

    # --- its end -----------------------------------------------------------------------------

    @property
    def ended(self) -> ConnectionTerminated | None:
        """Why the connection ended, as soon as that is known; aioquic's own event comes three
        probe time-outs later."""
        return self._close_event

    @property
    def has_last_words(self) -> bool:
        """Whether the peer is still to be told of the end."""
        return self._close_pending

    @property
    def heard_at(self) -> float:
        """When something came that only the peer could have sent, after the handshake."""
        space = self._spaces.get(Epoch.ONE_RTT)
        at: float | None = None if space is None else space.largest_received_time
        return -math.inf if at is None else at

    @property
    def probe_timeout(self) -> float:
        """Seconds within which the peer's answer is to be expected."""
        return float(self._loss.get_probe_timeout())

    # --- acknowledgements --------------------------------------------------------------------

    @property
    def bytes_in_flight(self) -> int:
        """Bytes that were sent and neither acknowledged nor given up."""
        return self._control.bytes_in_flight

    @property
    def ack_due(self) -> float:
        """When what has arrived is to be acknowledged."""
        at: float | None = self._spaces[Epoch.ONE_RTT].ack_at
        return math.inf if at is None else at

    # --- flow control ------------------------------------------------------------------------

    def write(self, stream_id: int, data: bytes | memoryview, end: bool) -> None:
        """Append bytes (and the FIN) to a stream."""
        # All that becomes of them is that they are appended to a bytearray.
        self.send_stream_data(stream_id, data, end_stream=end)  # type: ignore[arg-type]

    def unsent(self, stream_id: int) -> int:
        """Return how many bytes of a stream were written and not yet sent once."""
        stream: QuicStream | None = self._streams.get(stream_id)
        if stream is None:
            return 0
        unsent: int = stream.sender._buffer_stop - stream.sender.highest_offset
        return unsent

    def undelivered(self, stream_id: int) -> int:
        """Return how many bytes of a stream were written and not yet acknowledged."""
        stream: QuicStream | None = self._streams.get(stream_id)
        if stream is None:
            return 0
        undelivered: int = stream.sender._buffer_stop - stream.sender._buffer_start
        return undelivered

    def is_known(self, stream_id: int) -> bool:
        """Whether the engine still keeps a stream; it drops those that are done both ways."""
        return stream_id in self._streams

    def is_receiving(self, stream_id: int) -> bool:
        """Whether the peer may still send on a stream."""
        stream: QuicStream | None = self._streams.get(stream_id)
        return stream is not None and not stream.receiver.is_finished

    def may_write(self, stream_id: int) -> bool:
        """Whether the engine would take bytes for a stream: it does not when it was ended, or reset
        because the peer asked for no more."""
        stream: QuicStream | None = self._streams.get(stream_id)
        if stream is None:
            return False
        sender = stream.sender
        return sender._buffer_fin is None and sender._reset_error_code is None

    def is_flushed(self, stream_id: int) -> bool:
        """Whether all that was written, FIN included, has been acknowledged."""
        stream: QuicStream | None = self._streams.get(stream_id)
        return stream is None or bool(stream.sender.is_finished)

    def consume(self, stream_id: int, count: int) -> bool:
        """Note that a reader took ``count`` bytes; True means that new credit is to be sent.

        What is to be acknowledged goes with it.
        """
        stream: QuicStream | None = self._streams.get(stream_id)
        if stream is None or stream.receiver.is_finished:
            return False
        limit = self._credit.consumed(stream_id, count, stream.max_stream_data_local)
        if limit is None:
            return False
        stream.max_stream_data_local = limit
        space = self._spaces[Epoch.ONE_RTT]
        if space.ack_at is not None:
            space.ack_at = 0.0
        return True

    def forget_stream(self, stream_id: int) -> None:
        """Drop what was kept of a stream whose both ends are done."""
        self._credit.forget(stream_id)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        # The engine doubles a limit when half of it has arrived, read or not, so a stalled reader
        # costs the sender's whole stream in memory. Shown that nothing arrived, it only announces
        # the limits that are set here and in consume().
        limit = self._local_max_data
        used, limit.used = limit.used, 0
        if limit.value - used < CONNECTION_CREDIT - CONNECTION_CREDIT // CREDIT_STEP:
            limit.value = used + CONNECTION_CREDIT
        try:
            super()._write_connection_limits(builder=builder, space=space)
        finally:
            limit.used = used

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        # Asked for each stream before each packet, and as good as always there is nothing to say.
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        receiver = stream.receiver
        highest, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder=builder, space=space, stream=stream)
        finally:
            receiver.highest_offset = highest

    # --- transport parameters ----------------------------------------------------------------

    def _serialize_transport_parameters(self) -> bytes:
        return bytes(super()._serialize_transport_parameters()) + own_parameters()

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket=from_session_ticket)
        self._peer_limit, self.takes_many_streams = peer_parameters(data)

    # --- datagram size -----------------------------------------------------------------------

    def find_size(self, now: float) -> None:
        """Begin to look for the largest datagram that gets through to the peer."""
        self._path.peer_takes(self._peer_limit, now)

    @property
    def datagram_size(self) -> int:
        """Bytes of the largest datagram that is sent now."""
        return self._max_datagram_size

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """Return what is due, a probe for a larger size included."""
        if self._max_datagram_size != self._path.size:
            self._max_datagram_size = self._path.size
            self._control.resize()
        self.ask_for_acknowledgement()
        datagrams = super().datagrams_to_send(now)
        if self._state is QuicConnectionState.CONNECTED:
            size = self._path.probe_due(now)
            if size is not None:
                datagrams += self._size_probe(size, now)
        return datagrams

    def get_timer(self) -> float | None:
        """Return when the engine, or the search for the datagram size, wants to go on."""
        timer = super().get_timer()
        return None if timer is None else min(timer, self._path.next_deadline())

    def handle_timer(self, now: float) -> None:
        """Let what is due happen, and see whether the path has stopped taking large datagrams."""
        super().handle_timer(now)
        self._path.timed_out(self._loss._pto_count, now)

    def _size_probe(self, size: int, now: float) -> list[tuple[bytes, Address]]:
        path = self._network_paths[0]
        assert self._version is not None
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            version=self._version,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[Epoch.ONE_RTT])
        builder.start_frame(
            QuicFrameType.PING, handler=self._on_size_probe_delivery, handler_args=(now,)
        )
        padding = builder.remaining_buffer_space
        buffer = builder.start_frame(QuicFrameType.PADDING, capacity=padding)
        buffer.push_bytes(bytes(padding - 1))
        return self._flush_builder(
            builder=builder, network_path=path, peer_cid=self._peer_cid.cid, now=now
        )

    def _on_size_probe_delivery(self, delivery: QuicDeliveryState, sent: float) -> None:
        if delivery is QuicDeliveryState.ACKED:
            self._path.probe_acked()
        elif delivery is QuicDeliveryState.LOST:
            self._path.probe_lost(sent)


def _set_limit(limit: Limit, value: int) -> None:
    limit.value = limit.sent = value


def _show(settings: QuicConfiguration, identity: Identity) -> None:
    settings.certificate = identity.certificate
    settings.certificate_chain = list(identity.chain)
    settings.private_key = identity.key
