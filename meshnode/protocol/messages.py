"""Data messages as values: their header, service names, and notices (protocol sections 2 and 3).

Decoding is total: any bytes give a value or :exc:`ProtocolError`, and every value can be encoded
again.
"""

import enum
from dataclasses import dataclass
from typing import Self

from meshnode.errors import OutOfBounds, ProtocolError
from meshnode.protocol.fields import (
    CONTROL,
    MAX_NOTICE,
    NODE_ID,
    PROBLEM,
    SERVICE,
    SERVICE_LENGTH,
    Fields,
    to_json,
)
from meshnode.protocol.namehash import NAME_HASH_LENGTH

MAX_HOPS = 30
"""Hops that a message may take (protocol section 3)."""

WIRE_HOPS = MAX_HOPS - 1
"""The hops byte on a message's first link: the origin counts one down, as forwarders do (in all
recorded messages)."""

HEADER_LENGTH = 36
"""Bytes before a data message's payload."""

ServiceKey = bytes
"""A service name as its 8 bytes in a header. All code compares these, and not text: a peer may send
any bytes."""

PROBLEM_SERVICE_UNKNOWN = "service unknown"
PROBLEM_EXPIRED = "message expired"
PROBLEM_REJECTED = "blocked by firewall"


class MessageType(enum.IntEnum):
    """The first byte of a message."""

    DATA = 0
    ROUTE = 1
    ADVERTISEMENT = 2
    REJECT = 3


REJECT_MESSAGE = bytes([MessageType.REJECT]) + b"[]"
"""The whole reject message (protocol section 2)."""


def encode_service(service: str) -> ServiceKey:
    """Return a service name as its 8 bytes on the wire.

    Raises:
        ProtocolError: it is longer, or cannot be written in UTF-8, or holds control characters.
    """
    try:
        data = service.encode()
    except UnicodeEncodeError:
        raise ProtocolError(f"service name {service!r} is not text") from None
    if len(data) > SERVICE_LENGTH:
        raise ProtocolError(f"service name {service!r} does not fit {SERVICE_LENGTH} bytes")
    if CONTROL.search(service):
        raise ProtocolError(f"service name {service!r} has control characters")
    return data.ljust(SERVICE_LENGTH, b"\0")


def decode_service(key: ServiceKey) -> str:
    """Return the service name that 8 bytes of a header stand for.

    Raises:
        ProtocolError: they are not UTF-8, or hold control characters.
    """
    try:
        service = key.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"the service name {show_service(key)} is not text") from None
    if CONTROL.search(service):
        raise ProtocolError(f"the service name {show_service(key)} has control characters")
    return service


def is_readable(key: ServiceKey) -> bool:
    """Whether 8 bytes of a header are a service name that :func:`decode_service` takes."""
    if key.rstrip(b"\0").isalnum():  # the fast path: dialers' names, and most that people choose
        return True
    try:
        decode_service(key)
    except ProtocolError:
        return False
    return True


def show_service(key: ServiceKey) -> str:
    """Return 8 bytes of a header as one line for people, whatever they are."""
    text = key.rstrip(b"\0").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


PING_SERVICE = encode_service("ping")
UNREACHABLE_SERVICE = encode_service("unreach")


@dataclass(frozen=True, slots=True)
class DataHeader:
    """The header of a data message, with nodes as their 8-byte hashes."""

    hops: int
    source: bytes
    destination: bytes
    source_service: ServiceKey
    destination_service: ServiceKey

    @classmethod
    def decode(cls, message: bytes | bytearray | memoryview) -> Self:
        """Read the header of a whole data message.

        Raises:
            ProtocolError: the message is shorter than a header.
        """
        if len(message) < HEADER_LENGTH:
            raise ProtocolError(
                f"a data message of {len(message)} bytes has no room for its header"
            )
        head = bytes(message[:HEADER_LENGTH])
        return cls(
            hops=head[1],
            source=head[4:12],
            destination=head[12:20],
            source_service=head[20:28],
            destination_service=head[28:36],
        )

    def encode(self) -> bytes:
        """Return the 36 bytes that go before the payload."""
        for node in (self.source, self.destination):
            if len(node) != NAME_HASH_LENGTH:
                raise ProtocolError("a node hash has 8 bytes")
        for service in (self.source_service, self.destination_service):
            if len(service) != SERVICE_LENGTH:
                raise ProtocolError("a service name in a header has 8 bytes")
        return (
            bytes([MessageType.DATA, self.hops, 0, 0])
            + self.source
            + self.destination
            + self.source_service
            + self.destination_service
        )


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Why a message did not arrive, with the fields of that message (protocol section 3)."""

    from_node: str
    to_node: str
    from_service: ServiceKey
    to_service: ServiceKey
    problem: str

    @classmethod
    def decode(cls, payload: bytes | bytearray | memoryview) -> Self:
        """Read the payload of a message to service ``unreach``.

        Raises:
            ProtocolError: it is not the JSON object that it must be.
        """
        if len(payload) > MAX_NOTICE:
            raise OutOfBounds(f"an unreachable notice of {len(payload)} bytes is too long")
        fields = Fields(payload, "unreachable notice")
        return cls(
            from_node=fields.text("FromNode", NODE_ID),
            to_node=fields.text("ToNode", NODE_ID),
            from_service=encode_service(fields.text("FromService", SERVICE)),
            to_service=encode_service(fields.text("ToService", SERVICE)),
            problem=fields.text("Problem", PROBLEM),
        )

    def encode(self) -> bytes:
        """Return the payload.

        Raises:
            ProtocolError: a service name is not text.
        """
        return to_json(
            {
                "FromNode": self.from_node,
                "ToNode": self.to_node,
                "FromService": decode_service(self.from_service),
                "ToService": decode_service(self.to_service),
                "Problem": self.problem,
            }
        )
