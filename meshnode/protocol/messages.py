"""The mesh's messages as values: bytes to typed, checked objects and back (reference sections 2-6).

Everything a peer sent is checked here, once: behind this module a number is a number and within
its bounds, a name is a name. What does not fit raises :exc:`ProtocolError`, which costs the peer
its link and nothing else.
"""

import enum
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from meshnode.errors import ProtocolError
from meshnode.protocol.namehash import NAME_HASH_LENGTH
from meshnode.protocol.times import parse_time

MAX_HOPS = 30
"""Hops that a message may take (reference section 3)."""

WIRE_HOPS = MAX_HOPS - 1
"""The hops byte of a message on its first link: its origin has counted one down, as forwarders do
(seen in every recorded message)."""

HEADER_LENGTH = 36
"""Bytes before a data message's payload."""

SERVICE_LENGTH = 8
"""Bytes of a service name on the wire, right-padded with NUL."""

ServiceKey = bytes
"""A service name as the 8 bytes that stand for it in a header. Everything between the header and
people goes by these: a peer may put any bytes there, and not all of them are text."""

MAX_NODE_ID = 255
"""Bytes of a node ID in UTF-8; it is also a directory name, and no file system allows more."""

UNSIGNED_64 = 1 << 64
"""Epochs and sequences are below this (Go's uint64)."""

PROBLEM_SERVICE_UNKNOWN = "service unknown"
PROBLEM_EXPIRED = "message expired"
PROBLEM_REJECTED = "blocked by firewall"


class MessageType(enum.IntEnum):
    """The first byte of a message."""

    DATA = 0
    ROUTE = 1
    ADVERTISEMENT = 2
    REJECT = 3


class ConnType(enum.IntEnum):
    """How an advertised service is spoken to."""

    DATAGRAM = 0
    STREAM = 1
    STREAM_TLS = 2


GO_EXPONENT_FROM = 1e21
"""Numbers from here on are written with an exponent by Go's JSON."""

REJECT_MESSAGE = bytes([MessageType.REJECT]) + b"[]"
"""The whole message that says "go away" (reference section 2)."""


def plain_number(value: float) -> int | float:
    """Return a cost as Go writes it: ``1``, not ``1.0``, and ``1e+300``, not all its digits."""
    return int(value) if abs(value) < GO_EXPONENT_FROM and value == int(value) else value


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that no name has: they end or forge lines of logs, and match no ``.`` of a rule."""


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
    if _CONTROL.search(service):
        raise ProtocolError(f"service name {service!r} has control characters")
    return data.ljust(SERVICE_LENGTH, b"\0")


def decode_service(key: ServiceKey) -> str:
    """Return the service name that 8 bytes of a header stand for; encoded, it is these bytes.

    Raises:
        ProtocolError: they are not UTF-8, or hold control characters.
    """
    try:
        service = key.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"the service name {show_service(key)} is not text") from None
    if _CONTROL.search(service):
        raise ProtocolError(f"the service name {show_service(key)} has control characters")
    return service


def is_readable(key: ServiceKey) -> bool:
    """Whether 8 bytes of a header are a service name that :func:`decode_service` takes."""
    if key.rstrip(b"\0").isalnum():  # all that dialers use, and most names that people choose
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


def _parse_object(body: bytes | bytearray | memoryview, what: str) -> dict[str, Any]:
    try:
        value = json.loads(bytes(body).decode())
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"{what}: not valid JSON") from exc
    if not isinstance(value, dict):
        raise ProtocolError(f"{what}: not a JSON object")
    return value


# Made once: json.dumps with these arguments would make one for each message.
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


_quote = json.encoder.encode_basestring
"""Text as JSON, what is not ASCII as it is."""


def _dump(value: Mapping[str, Any]) -> bytes:
    return _to_json(value).encode()


class _Fields:
    """Takes typed fields out of a peer's JSON object, with one error text for all that is wrong."""

    def __init__(self, body: bytes | bytearray | memoryview, what: str) -> None:
        self._object = _parse_object(body, what)
        self._what = what

    def fault(self, key: str) -> ProtocolError:
        return ProtocolError(f"{self._what}: bad value of {key}")

    def get(self, key: str) -> Any:
        return self._object.get(key)

    def text(self, key: str) -> str:
        value = self._object.get(key, "")
        if not isinstance(value, str):
            raise self.fault(key)
        return value

    def node(self, key: str) -> str:
        return self.check_node(self._object.get(key), key)

    def check_node(self, value: object, key: str) -> str:
        try:
            if isinstance(value, str):
                size = len(value) if value.isascii() else len(value.encode())
                if 1 <= size <= MAX_NODE_ID:
                    return value
        except UnicodeEncodeError:  # a lone surrogate, written as \ud800 in the JSON
            pass
        raise self.fault(key)

    def unsigned(self, key: str) -> int:
        value = self._object.get(key, 0)
        if type(value) is not int or not 0 <= value < UNSIGNED_64:
            raise self.fault(key)
        return value

    def flag(self, key: str) -> bool:
        value = self._object.get(key, False)
        if not isinstance(value, bool):
            raise self.fault(key)
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self._object.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fault(key)
        return value

    def costs(self, key: str) -> dict[str, float]:
        costs: dict[str, float] = {}
        for peer, cost in self.mapping(key).items():
            if type(cost) is not int and type(cost) is not float:
                raise self.fault(key)
            try:
                number = float(cost)
            except OverflowError:
                number = math.inf
            if not (math.isfinite(number) and number > 0):
                raise self.fault(key)
            costs[self.check_node(peer, key)] = number
        return costs


@dataclass(frozen=True, slots=True)
class RoutingUpdate:
    """What a node floods about its own links (reference section 4).

    ``connections`` maps each peer to the cost of the link; ``epoch`` and ``sequence`` order the
    updates of one node; ``suspected_duplicate`` is the epoch of another node seen with our ID or 0.
    """

    node_id: str
    update_id: str
    epoch: int
    sequence: int
    connections: Mapping[str, float]
    forwarding_node: str
    suspected_duplicate: int = 0

    @classmethod
    def decode(cls, message: bytes | bytearray | memoryview) -> Self:
        """Read a whole routing message.

        Raises:
            ProtocolError: it is not one, or a value is not what it must be.
        """
        fields = _Fields(message[1:], "routing update")
        return cls(
            node_id=fields.node("NodeID"),
            update_id=fields.text("UpdateID"),
            epoch=fields.unsigned("UpdateEpoch"),
            sequence=fields.unsigned("UpdateSequence"),
            connections=fields.costs("Connections"),
            forwarding_node=fields.node("ForwardingNode"),
            suspected_duplicate=fields.unsigned("SuspectedDuplicate"),
        )

    def encode(self, forwarding_node: str | None = None) -> bytes:
        """Return the whole message, type byte included; by ``forwarding_node`` if given.

        Put together by hand: a node writes one for each update of the whole mesh, and this takes
        a third of what a JSON encoder does.
        """
        forwarding_node = self.forwarding_node if forwarding_node is None else forwarding_node
        connections = ",".join(
            [f"{_quote(p)}:{plain_number(c)!r}" for p, c in self.connections.items()]
        )
        return (
            f'\x01{{"NodeID":{_quote(self.node_id)},"UpdateID":{_quote(self.update_id)},'
            f'"UpdateEpoch":{self.epoch},"UpdateSequence":{self.sequence},'
            f'"Connections":{{{connections}}},"ForwardingNode":{_quote(forwarding_node)},'
            f'"SuspectedDuplicate":{self.suspected_duplicate}}}'
        ).encode()


_UPDATE_START = re.compile(
    rb'\x01\{"NodeID":"([0-9A-Za-z._:@/+ -]{1,255})","UpdateID":"([0-9A-Za-z]{1,64})"'
)


def peek_update(message: bytes | bytearray | memoryview) -> tuple[str, str] | None:
    """Return a routing message's NodeID and UpdateID without parsing it.

    Every link of a node brings a copy of each update and all but one are of no use: this finds
    them out for a fraction of what parsing costs. None means that the message must be parsed: it
    is not laid out as receptor and meshnode do, or the name could have been written in two ways.
    """
    match = _UPDATE_START.match(message)
    return (match[1].decode(), match[2].decode()) if match is not None else None


@dataclass(frozen=True, slots=True)
class WorkType:
    """A work type in an advertisement; ``secure`` means that signatures are verified."""

    name: str
    secure: bool


@dataclass(frozen=True, slots=True)
class ServiceAdvertisement:
    """A service that a node offers (reference section 6).

    ``time`` is RFC 3339 text; of two advertisements the later time wins.

    Raises:
        ProtocolError: ``time`` is no such text.
    """

    node_id: str
    service: str
    time: str
    conn_type: int
    tags: Mapping[str, str] | None = None
    work_types: tuple[WorkType, ...] | None = None
    cancel: bool = False
    nanoseconds: int = field(init=False, repr=False, compare=False)
    """``time`` as a number, since 1970."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "nanoseconds", parse_time(self.time))
        except ValueError as exc:
            raise ProtocolError("service advertisement: bad value of Time") from exc

    def is_newer_than(self, other: "ServiceAdvertisement") -> bool:
        """Whether this one replaces ``other``."""
        return self.nanoseconds > other.nanoseconds

    @classmethod
    def decode(cls, message: bytes | bytearray | memoryview) -> Self:
        """Read a whole advertisement message.

        Raises:
            ProtocolError: it is not one, or a value is not what it must be.
        """
        fields = _Fields(message[1:], "service advertisement")
        tags = fields.mapping("Tags")
        if not all(isinstance(v, str) for v in tags.values()):
            raise fields.fault("Tags")
        return cls(
            node_id=fields.node("NodeID"),
            service=fields.text("Service"),
            time=fields.text("Time"),
            conn_type=fields.unsigned("ConnType"),
            tags=tags if fields.get("Tags") is not None else None,
            work_types=_decode_work_types(fields),
            cancel=fields.flag("Cancel"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object as it stands in ``status`` replies: receptor's keys, without Cancel."""
        return {
            "NodeID": self.node_id,
            "Service": self.service,
            "Time": self.time,
            "ConnType": self.conn_type,
            "Tags": dict(self.tags) if self.tags is not None else None,
            "WorkCommands": (
                [{"WorkType": w.name, "Secure": w.secure} for w in self.work_types]
                if self.work_types is not None
                else None
            ),
        }

    def encode(self) -> bytes:
        """Return the whole message, type byte included."""
        return bytes([MessageType.ADVERTISEMENT]) + _dump({**self.to_json(), "Cancel": self.cancel})


def _decode_work_types(fields: _Fields) -> tuple[WorkType, ...] | None:
    items = fields.get("WorkCommands")
    if items is None:
        return None
    if not isinstance(items, list):
        raise fields.fault("WorkCommands")
    work_types = []
    for item in items:
        if not isinstance(item, dict):
            raise fields.fault("WorkCommands")
        name, secure = item.get("WorkType", ""), item.get("Secure", False)
        if not isinstance(name, str) or not isinstance(secure, bool):
            raise fields.fault("WorkCommands")
        work_types.append(WorkType(name, secure))
    return tuple(work_types)


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Why a message did not arrive, with the fields of that message (reference section 3)."""

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
        fields = _Fields(payload, "unreachable notice")
        return cls(
            from_node=fields.text("FromNode"),
            to_node=fields.text("ToNode"),
            from_service=encode_service(fields.text("FromService")),
            to_service=encode_service(fields.text("ToService")),
            problem=fields.text("Problem"),
        )

    def encode(self) -> bytes:
        """Return the payload.

        Raises:
            ProtocolError: a service name is not text.
        """
        return _dump(
            {
                "FromNode": self.from_node,
                "ToNode": self.to_node,
                "FromService": decode_service(self.from_service),
                "ToService": decode_service(self.to_service),
                "Problem": self.problem,
            }
        )
