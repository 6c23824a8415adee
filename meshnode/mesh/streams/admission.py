"""Who may begin a connection with the services of this node.

A connection costs memory and work, and the datagram that asks for one can bear any sender. So each
node has its share of the connections and handshakes, and when handshakes are many, a dialer has to
show first that answers reach it. It is sent a Retry (RFC 9000, section 8.1.2) with a token, of
which nothing is remembered here.
"""

import hmac
import secrets
import struct
from dataclasses import dataclass

from aioquic._buffer import Buffer
from aioquic.quic.packet import (
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)

from meshnode.mesh.streams.congestion import BASE_SIZE, LARGE_SIZE
from meshnode.mesh.streams.quicsettings import CID_LENGTH, Address
from meshnode.protocol.messages import ServiceKey
from meshnode.shares import Holder, Limit, Shares

MAX_CONNECTIONS = 2304
"""Connections that others may have with this node, 50 KiB each. One node may have 1024. Receptor
takes one for each stream, and two streams for each unit; meshnodes take one for a hundred."""

KEPT_CONNECTIONS = 256
"""Those of them that are kept for nodes with fewer than FEW_CONNECTIONS."""

FEW_CONNECTIONS = 8
"""What a node needs to look around, and to have some work done."""

MAX_HALF_OPEN = 288
"""Handshakes in progress of dialers that have shown that answers reach them. One node may have 128;
a hundred come at once when much work does."""

MAX_UNPROVEN = 64
"""Handshakes in progress of dialers that have not shown that. One node may have 24, so that
ordinary dials need no extra round trip."""

TOKEN_SECONDS = 15.0
"""Seconds that a token is good for: as long as a dialer tries (protocol section 7)."""

_TAG_LENGTH = 16
"""Bytes of the code that shows that a token is ours."""

_UNTIL = struct.Struct("!Q")
"""When a token ends, in milliseconds."""

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


class RetryTokens:
    """Makes tokens that only the address they were sent to can have, and knows them again."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def make(
        self, address: Address, service: ServiceKey, initial: Initial, retry_cid: bytes, now: float
    ) -> bytes:
        """Return a token for a dialer, who is to use it with ``retry_cid``."""
        content = _UNTIL.pack(int((now + TOKEN_SECONDS) * 1000)) + initial.destination_cid
        return self._tag(address, service, retry_cid, content) + content

    def read(
        self, address: Address, service: ServiceKey, initial: Initial, now: float
    ) -> bytes | None:
        """Return the connection ID that a dialer began with; None if its token is not for it."""
        tag, content = initial.token[:_TAG_LENGTH], initial.token[_TAG_LENGTH:]
        # It was sent to exactly the connection ID that it must come back with.
        expected = self._tag(address, service, initial.destination_cid, content)
        if not hmac.compare_digest(tag, expected):
            return None
        (until,) = _UNTIL.unpack_from(content)
        return content[_UNTIL.size :] if now * 1000 <= until else None

    def _tag(self, address: Address, service: ServiceKey, cid: bytes, content: bytes) -> bytes:
        node, dialer = address  # 8 bytes each, as a service is
        told = b"".join((node, dialer, service, bytes([len(cid)]), cid, content))
        return hmac.digest(self._key, told, "sha256")[:_TAG_LENGTH]


class Admitted:
    """What one connection takes of the places, from its first packet to its end."""

    __slots__ = ("_connections", "_handshakes", "_holder", "original_cid", "retry_cid")

    def __init__(
        self,
        holder: Holder,
        connections: Shares,
        handshakes: Shares,
        original_cid: bytes,
        retry_cid: bytes | None,
    ) -> None:
        self.original_cid = original_cid
        self.retry_cid = retry_cid
        self._holder = holder
        self._connections: Shares | None = connections
        self._handshakes: Shares | None = handshakes

    def ready(self) -> None:
        """Note that the handshake is done."""
        if self._handshakes is not None:
            self._handshakes.give_back(self._holder)
            self._handshakes = None

    def leave(self) -> None:
        """Note that the connection is over."""
        self.ready()
        if self._connections is not None:
            self._connections.give_back(self._holder)
            self._connections = None


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no place."""

    why: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The dialer is to show that answers reach it, by doing as this one says."""

    answer: bytes


class Admission:
    """Judges who may begin a connection; one for all services of a node."""

    def __init__(self) -> None:
        # Whoever is linked to us can invent nodes behind itself, each with a few connections.
        self.connections = Shares(
            MAX_CONNECTIONS, KEPT_CONNECTIONS // 2, kept=KEPT_CONNECTIONS, few=FEW_CONNECTIONS
        )
        self._proven = Shares(MAX_HALF_OPEN, MAX_HALF_OPEN // 8, kept=MAX_HALF_OPEN // 9, few=4)
        self._unproven = Shares(MAX_UNPROVEN, MAX_UNPROVEN // 8, kept=MAX_UNPROVEN // 4, few=2)
        self._tokens = RetryTokens()

    def judge(
        self,
        address: Address,
        service: ServiceKey,
        initial: Initial,
        now: float,
        holder: Holder,
    ) -> Admitted | Retry | Refused:
        """Judge a first packet of a dialer, the ``holder``, to one of our services."""
        limit = self.connections.limit(holder)
        if limit is Limit.BRANCH:
            return Refused(f"the nodes reached over {holder.branch} have too many connections")
        if limit is not None:
            held, used = self.connections.held(holder), self.connections.used
            return Refused(f"it has {held} connections, of {used}")
        if initial.token:
            original_cid = self._tokens.read(address, service, initial, now)
            if original_cid is None:
                return Refused("its token is not for it, or is too old")
            return self._begin(holder, self._proven, original_cid, initial.destination_cid)
        if not self._unproven.left(holder):
            retry_cid = secrets.token_bytes(CID_LENGTH)
            token = self._tokens.make(address, service, initial, retry_cid, now)
            return Retry(initial.retry(retry_cid, token))
        return self._begin(holder, self._unproven, initial.destination_cid, None)

    def _begin(
        self,
        holder: Holder,
        handshakes: Shares,
        original_cid: bytes,
        retry_cid: bytes | None,
    ) -> Admitted | Refused:
        if not handshakes.take(holder):
            return Refused(f"{handshakes.held(holder)} of its handshakes are in progress")
        self.connections.add(holder)
        return Admitted(holder, self.connections, handshakes, original_cid, retry_cid)
