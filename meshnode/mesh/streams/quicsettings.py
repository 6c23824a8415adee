"""How QUIC is used here: its numbers, its configuration, and what the ends say in the handshake."""

from aioquic._buffer import Buffer
from aioquic.buffer import encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.logger import QuicLogger
from aioquic.quic.packet import QuicProtocolVersion, pull_quic_transport_parameters
from aioquic.tls import CipherSuite

from meshnode.mesh.streams.congestion import BASE_SIZE, LARGE_SIZE
from meshnode.mesh.streams.timers import IDLE_TIMEOUT
from meshnode.protocol.messages import ServiceKey

ALPN = "netceptor"
"""The application protocol (protocol section 7)."""

CID_LENGTH = 8
"""Bytes of a connection ID of ours."""

ACK_DELAY = 0.004
"""Seconds for which data may wait for its acknowledgement; peers are told that it may take 25 ms.
At the engine's own millisecond a MiB costs 7 % more processor time, and a request with its answer
28 % (0.61 and 0.78 ms, two nodes in one process)."""

CONNECTION_CREDIT = 8 * 1024 * 1024
"""Bytes that a peer may send on a connection ahead of what has arrived. Readers are bounded stream
by stream: a bound on all of them together would let one that stalls stop the others."""

MAX_STREAMS = 100
"""Streams at a time that we open on one connection; more take another one."""

NORMAL_CLOSE = "normal close"
"""Reason of the application error 0 with which a dialer ends a connection (protocol section 7)."""

CANCELLED_READ = 499
"""Error code of a stream whose reader gave up (protocol section 7)."""

Address = tuple[bytes, ServiceKey]
"""Where a QUIC peer is: node hash and service name."""

_MAX_UDP_PAYLOAD_SIZE = 0x03
"""Number of the transport parameter max_udp_payload_size (RFC 9000, section 18.2)."""


_MANY_STREAMS_PARAMETER = 0x6D65_7368
"""Number of our own transport parameter, which says that this end takes many streams on one
connection. Ends that do not know it ignore it (RFC 9000, section 7.4.2)."""


def configuration(is_client: bool, qlog: QuicLogger | None = None) -> QuicConfiguration:
    """Return the engine's configuration of one end; ``qlog``, if given, logs it."""
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        connection_id_length=CID_LENGTH,
        congestion_control_algorithm="capped-reno",
        idle_timeout=IDLE_TIMEOUT,
        max_data=CONNECTION_CREDIT,
        max_datagram_size=BASE_SIZE,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        quic_logger=qlog,
        # The cheapest on any processor with AES instructions, and what receptor picks.
        cipher_suites=[CipherSuite.AES_128_GCM_SHA256, CipherSuite.CHACHA20_POLY1305_SHA256],
    )


def own_parameters() -> bytes:
    """Return the transport parameters that the engine cannot say itself."""
    return _parameter(_MAX_UDP_PAYLOAD_SIZE, encode_uint_var(LARGE_SIZE)) + _parameter(
        _MANY_STREAMS_PARAMETER, b""
    )


def peer_parameters(data: bytes) -> tuple[int, bool]:
    """Return what the engine does not keep of a peer's parameters, which it has parsed before.

    They are the bytes of the largest datagram that the peer takes, and whether it takes many
    streams on a connection.
    """
    limit = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size
    return limit or BASE_SIZE, _MANY_STREAMS_PARAMETER in _parameter_numbers(data)


def _parameter(number: int, value: bytes) -> bytes:
    return encode_uint_var(number) + encode_uint_var(len(value)) + value


def _parameter_numbers(data: bytes) -> set[int]:
    """Return which transport parameters there are in what the engine has parsed before."""
    found: set[int] = set()
    buffer = Buffer(data=data)
    while not buffer.eof():
        found.add(buffer.pull_uint_var())
        buffer.pull_bytes(buffer.pull_uint_var())
    return found
