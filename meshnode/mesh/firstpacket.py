"""What to do with a QUIC datagram that belongs to no known connection."""

from dataclasses import dataclass

from aioquic._buffer import Buffer
from aioquic.quic.packet import (
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)

from meshnode.mesh.pathsize import BASE_SIZE, LARGE_SIZE

LEAST_CID = 8
"""Bytes of the connection ID that a dialer makes up for its listener, at least: who would answer in
the listener's place must guess it (RFC 9000, section 7.2)."""


@dataclass(frozen=True, slots=True)
class Initial:
    """The first packet of a dialer, as far as it can be read without a key."""

    destination_cid: bytes
    source_cid: bytes
    token: bytes

    def retry(self, retry_cid: bytes, token: bytes) -> bytes:
        """Return the answer that asks the dialer to begin again with a token."""
        return bytes(
            encode_quic_retry(
                version=QuicProtocolVersion.VERSION_1,
                source_cid=retry_cid,
                destination_cid=self.source_cid,
                original_destination_cid=self.destination_cid,
                retry_token=token,
            )
        )


@dataclass(frozen=True, slots=True)
class FirstPacket:
    """What to do with a datagram from an address without a connection.

    It may begin a connection (``initial``), or is to be answered (a version negotiation), or
    neither: then it belongs to a connection that is no more.
    """

    initial: Initial | None = None
    answer: bytes | None = None


def first_packet(datagram: bytes) -> FirstPacket:
    """Judge a datagram from an address that no connection is known of."""
    try:
        header = pull_quic_header(Buffer(data=datagram), host_cid_length=8)
    except ValueError:
        return FirstPacket()
    if header.version is None or not BASE_SIZE <= len(datagram) <= LARGE_SIZE:
        return FirstPacket()
    if header.version == QuicProtocolVersion.NEGOTIATION:
        return FirstPacket()
    if header.version != QuicProtocolVersion.VERSION_1:
        answer = encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=[QuicProtocolVersion.VERSION_1],
        )
        return FirstPacket(answer=answer)
    if header.packet_type != QuicPacketType.INITIAL or len(header.destination_cid) < LEAST_CID:
        return FirstPacket()
    return FirstPacket(Initial(header.destination_cid, header.source_cid, header.token))
