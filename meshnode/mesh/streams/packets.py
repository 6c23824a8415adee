"""What the packets of one peer may cost, and whom its handshake must be from.

The engine keeps to the limits of QUIC, some of which bound nothing that costs: a window says how
far ahead bytes may be, but not in how many pieces they come, and the engine walks over all pieces
for each new one. A peer that exceeds what stands here ends its connection, as one that breaks
QUIC's own rules does.

The engine verifies certificates by rules of its own, and only a listener's; a client's it asks for
by a switch for tests, and takes none for one. Here each end's certificate is given to a judge,
before the handshake is done.

This is one of three files that touch aioquic's private parts: see quic.py.
"""

import bisect
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from aioquic._buffer import Buffer
from aioquic._crypto import (
    PACKET_NUMBER_LENGTH_MAX,
    SAMPLE_LENGTH,
    CryptoError,
    HeaderProtection,
)
from aioquic.quic.connection import EPOCHS, QuicConnection, QuicConnectionError, QuicReceiveContext
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import FinalSizeError, QuicStream
from aioquic.tls import (
    Alert,
    AlertBadCertificate,
    AlertDescription,
    Certificate,
    CertificateVerify,
    Context,
    Epoch,
    Group,
    SignatureAlgorithm,
)
from cryptography.hazmat.primitives.asymmetric import ec

from meshnode.errors import TlsProblem, TlsRefused
from meshnode.mesh.streams.identity import Identity

if TYPE_CHECKING:
    from meshnode.security.certificates import Certificate as Certified

MAX_GAPS = 1024
"""Pieces of a stream with gaps between them. A window is less than 1,750 of the smallest packets,
of which every second one would have to be lost."""

MAX_CRYPTO = 16 * 1024
"""Bytes of each flight of a handshake: more than a single certificate has. The engine has no bound
on the length of a message."""

MAX_CERTIFIED_CRYPTO = 64 * 1024
"""The same with TLS settings: chains, and in a listener's flight the names of all CAs it trusts.
What this node sends is bounded by what quic-go takes (security/tls.py)."""

MAX_CRYPTO_GAPS = 64
"""Pieces in which they may come; quic-go sends a dozen, on purpose out of order."""

ASK_AFTER = 256
"""Packets without an acknowledgement after which the peer is asked for one. Acknowledgements ask
for none themselves, so a node that only receives would remember every packet that it sent."""

MAX_UNACKNOWLEDGED = 2048
"""Packets without an acknowledgement after which the connection ends. At most 180 are in flight,
and ours acknowledge every 4 ms at most, so a peer that answers within seconds never comes near."""

MAX_FRAMES = 1024
"""Frames of one packet: ordinary ones have a dozen, the largest would hold sixteen thousand pings,
and nothing else runs while a packet is read."""

MAX_PEER_CIDS = 16_384
"""Connection IDs that a peer makes in the life of a connection. Quic-go makes one for 10,000
packets, and the engine remembers all their numbers."""


class Pieces(RangeSet):
    """What has arrived of a stream, in no more than MAX_GAPS pieces, found by bisection.

    The engine's own class loops over all pieces for each new one.
    """

    def add(self, start: int, stop: int | None = None) -> None:
        """Add a piece.

        Raises:
            FinalSizeError: there are too many. The engine knows of no such error, and this is one
                that it ends the connection for.
        """
        assert stop is not None
        ranges: list[range] = self._RangeSet__ranges  # type: ignore[attr-defined]
        first = bisect.bisect_left(ranges, start, key=_STOP)
        last = first
        while last < len(ranges) and ranges[last].start <= stop:
            last += 1  # it touches this one
        if first < last:
            start, stop = min(start, ranges[first].start), max(stop, ranges[last - 1].stop)
        elif len(ranges) >= MAX_GAPS:
            raise FinalSizeError("too many gaps in a stream")
        ranges[first:last] = [range(start, stop)]


_STOP = attrgetter("stop")

_EPOCHS = {epochs: epochs for epochs in map(EPOCHS, ("IH01", "IH1", "01", "1"))}
"""The sets of epochs in which frames are allowed: once, where the engine makes 32 a connection."""


class _Handlers(dict[int, tuple[Any, Any]]):
    """What to do with each type of frame; asked once for each frame of a packet."""

    __slots__ = ("left",)

    def __init__(self, handlers: dict[int, tuple[Any, Any]]) -> None:
        super().__init__(handlers)
        self.left = MAX_FRAMES

    def __getitem__(self, frame_type: int) -> tuple[Any, Any]:
        self.left -= 1
        if self.left < 0:
            raise _exceeded(frame_type, "too many frames in a packet")
        return super().__getitem__(frame_type)


class PeerJudge(Protocol):
    """Decides whether the other end of a connection is who it must be."""

    shows: Identity | None
    """What this end shows."""
    asks: bool
    """Whether a client is asked for a certificate; servers show theirs anyway."""
    certificate: "Certified | None"
    """The other end's, once it was found to be good."""
    refusal: TlsRefused | None
    """Why it was not."""

    def judge(self, ders: Sequence[bytes]) -> None:
        """Take the chain that the other end showed, maybe none, and proved to be its own.

        Raises:
            TlsRefused: it must not be trusted.
        """

    def told(self, refusal: TlsRefused) -> str:
        """Return what the other end may know of a refusal."""


ALERTS: Final[Mapping[TlsProblem, AlertDescription]] = MappingProxyType(
    {
        TlsProblem.EXPIRED: AlertDescription.certificate_expired,
        TlsProblem.NOT_YET_VALID: AlertDescription.certificate_expired,
        TlsProblem.WRONG_CA: AlertDescription.unknown_ca,
        TlsProblem.WRONG_USAGE: AlertDescription.unsupported_certificate,
        TlsProblem.WRONG_NODE: AlertDescription.access_denied,
        TlsProblem.NOT_PINNED: AlertDescription.access_denied,
        TlsProblem.MISSING: AlertDescription.certificate_required,
    }
)
"""The alert for each refusal; others are a bad certificate's."""


class _Refused(Alert):
    def __init__(self, problem: TlsProblem, told: str) -> None:
        super().__init__(told)
        self.description = ALERTS.get(problem, AlertDescription.bad_certificate)


class CertifiedTls(Context):
    """The engine's side of a handshake, in which certificates are judged."""

    def __init__(self, plain: Context, judge: PeerJudge) -> None:
        """``plain`` is the engine's own, whose place this takes."""
        self.__dict__.update(vars(plain))
        self._judge = judge
        self._request_client_certificate = judge.asks
        self._shown: list[bytes] = []
        self._signature_algorithms.append(SignatureAlgorithm.ECDSA_SECP521R1_SHA512)
        if not self._is_client:
            # Receptor's dialers offer this first, and may offer a share of nothing else. Ours would
            # make one more key for each dial.
            self._supported_groups.append(Group.SECP521R1)

    @property
    def is_asked(self) -> bool:
        """Whether the listener asked for a certificate: it will judge what it got, after this end
        is done."""
        return self._certificate_request is not None

    def forget_shown(self) -> None:
        """Forget the chain that was judged: a peer makes it as long as it likes."""
        self._shown = []
        self._peer_certificate = None
        self._peer_certificate_chain = []

    def _set_peer_certificate(self, certificate: Certificate) -> None:
        self._shown = [der for der, _ in certificate.certificates]
        try:
            super()._set_peer_certificate(certificate)
        except AlertBadCertificate:
            self._check_shown()  # says what is wrong with which
            raise

    def _check_certificate_verify_signature(self, verify: CertificateVerify) -> None:
        super()._check_certificate_verify_signature(verify)
        self._check_shown()

    def _server_expect_finished(self) -> None:
        if self._request_client_certificate and not self._shown:
            self._check_shown()
        super()._server_expect_finished()

    def _check_shown(self) -> None:
        try:
            self._judge.judge(self._shown)
        except TlsRefused as refusal:
            raise _Refused(refusal.problem, self._judge.told(refusal)) from refusal

    def _signature_algorithms_for_private_key(self) -> list[SignatureAlgorithm]:
        key = self.certificate_private_key
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP521R1):
            return [SignatureAlgorithm.ECDSA_SECP521R1_SHA512]
        return list(super()._signature_algorithms_for_private_key())


class FrameBounds(QuicConnection):
    """The engine's connection, with bounds on what frames may do, and judged certificates."""

    def __init__(self, judge: PeerJudge | None, **engine: Any) -> None:
        super().__init__(**engine)
        self.judge = judge
        """Whether the other end is who it must be; None if neither end has TLS settings."""
        self._most_crypto = MAX_CRYPTO if judge is None else MAX_CERTIFIED_CRYPTO
        engines: dict[int, tuple[Any, Any]] = self._QuicConnection__frame_handlers  # type: ignore[has-type]
        self._QuicConnection__frame_handlers = self._handlers = _Handlers(engines)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self.judge is not None:
            self.tls = CertifiedTls(self.tls, self.judge)
            self._crypto_buffers[Epoch.HANDSHAKE] = Buffer(capacity=MAX_CERTIFIED_CRYPTO)

    @property
    def is_judged(self) -> bool:
        """Whether the handshake is done for both ends, as far as the dialer can know.

        A listener that asks for a certificate judges it when the dialer is done already.
        """
        tls = self.tls
        return not (isinstance(tls, CertifiedTls) and tls.is_asked) or self._handshake_confirmed

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self._handlers.left = MAX_FRAMES
        return super()._payload_received(context, plain, crypto_frame_required)

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        # Known ones first: the engine asks more of them, to the same end, for each frame.
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = super()._get_or_create_stream(frame_type, stream_id)
            self._bound_new_streams(stream_id)
        return stream

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = super()._get_or_create_stream_for_send(stream_id)
            self._bound_new_streams(stream_id)
        return stream

    def _bound_new_streams(self, stream_id: int) -> None:
        """Bound a stream, and those of lower numbers that it opened."""
        stream = self._streams.get(stream_id)
        while stream is not None and not isinstance(stream.receiver._ranges, Pieces):
            stream.receiver._ranges = Pieces()
            stream_id -= 4
            stream = self._streams.get(stream_id)

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        pieces = len(self._crypto_streams[context.epoch].receiver._ranges)
        # Only listeners have something to say after the handshake.
        most = self._most_crypto
        if context.epoch is Epoch.ONE_RTT and not self._is_client:
            most = 0
        if end > most or pieces > MAX_CRYPTO_GAPS:
            code = QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
            raise QuicConnectionError(code, frame_type, "too much of a handshake")
        super()._handle_crypto_frame(context, frame_type, buf)

    def _handle_new_connection_id_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        super()._handle_new_connection_id_frame(context, frame_type, buf)
        if len(self._peer_cid_sequence_numbers) > MAX_PEER_CIDS:
            raise _exceeded(frame_type, "too many connection IDs")

    def drop_handshake(self) -> None:
        """Drop what only a handshake needs: half of what a connection takes."""
        self._crypto_buffers = {}
        if isinstance(self.tls, CertifiedTls):
            self.tls.forget_shown()
        for epoch in (Epoch.INITIAL, Epoch.HANDSHAKE):
            self._crypto_streams[epoch].receiver._buffer.clear()
        handlers = self._handlers
        for kind, (handler, epochs) in handlers.items():
            handlers[kind] = (handler, _EPOCHS[epochs])

    def dispose(self) -> None:
        """End its log, and break its reference cycles, so that its memory is free at once.

        Its parts hold it by its methods. Python's collector would find that out some day, but an
        idle node that was flooded before does not collect.
        """
        if self._quic_logger is not None and self._configuration.quic_logger is not None:
            self._configuration.quic_logger.end_trace(self._quic_logger)
            self._quic_logger = None
        self._handlers.clear()
        for space in self._spaces.values():
            space.sent_packets.clear()
        self._cryptos.clear()
        self._cryptos_initial.clear()
        self._loss._send_probe = _nothing
        self.__dict__.pop("tls", None)

    def ask_for_acknowledgement(self) -> None:
        """Ask the peer to acknowledge what it got if that is much; give it up if it never does."""
        space = self._spaces.get(Epoch.ONE_RTT)
        if space is None or len(space.sent_packets) <= ASK_AFTER:
            return
        if len(space.sent_packets) > MAX_UNACKNOWLEDGED:
            self.close(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=QuicFrameType.ACK,
                reason_phrase="nothing is acknowledged",
            )
        elif not space.ack_eliciting_in_flight:
            self.send_ping(0)


def _nothing() -> None:
    """Probe nothing."""


def _exceeded(frame_type: int, what: str) -> QuicConnectionError:
    return QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, what)


class LeanHeaderProtection(HeaderProtection):
    """Header protection (RFC 9001, section 5.4) without copies of whole packets.

    What is protected are five bytes of a header. For them aioquic copies each packet three times on
    its way out and once on its way in, which with large datagrams is a tenth of the engine's time.
    """

    def __init__(self, other: HeaderProtection) -> None:
        self._encryptor = other._encryptor
        self._is_chacha20 = other._is_chacha20

    def apply(self, plain_header: bytes, protected_payload: bytes) -> bytes:
        """Return the packet with its header protected."""
        number_length = (plain_header[0] & 0x03) + 1
        sample = PACKET_NUMBER_LENGTH_MAX - number_length
        mask = self._mask(protected_payload[sample : sample + SAMPLE_LENGTH])
        header = bytearray(plain_header)
        _protect(header, mask, len(header) - number_length, number_length)
        return bytes(header) + protected_payload

    def remove(self, packet: bytes, pn_offset: int) -> tuple[bytes, int]:
        """Return a packet's plain header, and the packet number in it."""
        sample = pn_offset + PACKET_NUMBER_LENGTH_MAX
        if sample + SAMPLE_LENGTH > len(packet):
            raise CryptoError("Packet is too short to sample")
        mask = self._mask(packet[sample : sample + SAMPLE_LENGTH])
        header = bytearray(packet[:sample])
        # The length of the packet number is protected, too.
        number_length = ((header[0] ^ mask[0]) & 0x03) + 1
        _protect(header, mask, pn_offset, number_length)
        plain = bytes(header[: pn_offset + number_length])
        return plain, int.from_bytes(plain[pn_offset:], "big")


def _protect(header: bytearray, mask: bytes, offset: int, number_length: int) -> None:
    header[0] ^= mask[0] & (0x0F if header[0] & 0x80 else 0x1F)
    for i in range(number_length):
        header[offset + i] ^= mask[1 + i]
