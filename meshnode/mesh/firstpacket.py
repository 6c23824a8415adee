"""What to do with a QUIC datagram that belongs to no known connection."""

from dataclasses import dataclass

from aioquic._buffer import Buffer
from aioquic.quic.packet import (
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_version_negotiation,
    pull_quic_header,
)

from meshnode.mesh.pathsize import BASE_SIZE


@dataclass(frozen=True, slots=True)
class FirstPacket:
    """What to do with a datagram from an address without a connection.

    ``accept`` it as a new connection, or ``answer`` it (a version negotiation), or neither: then it
    belongs to a connection that is no more.
    """

    accept: bool
    answer: bytes | None = None


def first_packet(datagram: bytes) -> FirstPacket:
    """Judge a datagram from an address that no connection is known of."""
    try:
        header = pull_quic_header(Buffer(data=datagram), host_cid_length=8)
    except ValueError:
        return FirstPacket(accept=False)
    if header.version is None:
        return FirstPacket(accept=False)
    if header.version != QuicProtocolVersion.VERSION_1:
        if len(datagram) < BASE_SIZE or header.version == QuicProtocolVersion.NEGOTIATION:
            return FirstPacket(accept=False)
        answer = encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=[QuicProtocolVersion.VERSION_1],
        )
        return FirstPacket(accept=False, answer=answer)
    return FirstPacket(
        accept=header.packet_type == QuicPacketType.INITIAL and len(datagram) >= BASE_SIZE
    )
