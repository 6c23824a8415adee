"""The mesh's messages as values: bytes to typed, checked objects and back (protocol sections 2-6).

Everything a peer sent is checked here, once: behind this module a number is a number and within
its bounds, a name is a name. What does not fit raises :exc:`ProtocolError`; see ``fields.py`` for
whose fault it is. Any bytes give a value or that, and each value can be written again.
"""

import enum
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from meshnode.errors import OutOfBounds, ProtocolError
from meshnode.protocol.fields import (
    CONTROL,
    MAX_ADVERTISEMENT,
    MAX_NOTICE,
    NODE_ID,
    PROBLEM,
    SERVICE,
    SERVICE_LENGTH,
    TAG_NAME,
    TAG_VALUE,
    TIME,
    UNSIGNED_8,
    UNSIGNED_64,
    UPDATE_ID,
    WORK_TYPE,
    Fields,
)
from meshnode.protocol.namehash import NAME_HASH_LENGTH
from meshnode.protocol.times import parse_time

MAX_HOPS = 30
"""Hops that a message may take (protocol section 3)."""

WIRE_HOPS = MAX_HOPS - 1
"""The hops byte of a message on its first link: its origin has counted one down, as forwarders do
(seen in every recorded message)."""

HEADER_LENGTH = 36
"""Bytes before a data message's payload."""

ServiceKey = bytes
"""A service name as the 8 bytes that stand for it in a header. Everything between the header and
people goes by these: a peer may put any bytes there, and not all of them are text."""

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
"""The whole message that says "go away" (protocol section 2)."""


def plain_number(value: float) -> int | float:
    """Return a cost as Go writes it: ``1``, not ``1.0``, and ``1e+300``, not all its digits."""
    return int(value) if abs(value) < GO_EXPONENT_FROM and value == int(value) else value


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
    """Return the service name that 8 bytes of a header stand for; encoded, it is these bytes.

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


# Made once: json.dumps with these arguments would make one for each message.
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


_quote = json.encoder.encode_basestring
"""Text as JSON, what is not ASCII as it is."""


def _dump(value: Mapping[str, Any]) -> bytes:
    return _to_json(value).encode()


UPDATE_FIELDS = 7
"""Keys of an update. One that has more is not passed on as it came, but as what we know of it."""


@dataclass(frozen=True, slots=True)
class RoutingUpdate:
    """What a node floods about its own links (protocol section 4).

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
    key: int | None = field(init=False, default=None, repr=False, compare=False)
    """The same for all copies of an update that nodes pass on, and for no other; if received."""
    size: int = field(init=False, default=0, repr=False, compare=False)
    """Bytes of the message that it came in."""
    body: bytes | None = field(init=False, default=None, repr=False, compare=False)
    """The message up to who passed it on, if it came as nodes write it."""

    @classmethod
    def decode(cls, message: bytes | bytearray | memoryview) -> Self:
        """Read a whole routing message.

        Raises:
            OutOfBounds: a text is too long, too short, or has control characters.
            ProtocolError: it is no update, or a value is not what it must be.
        """
        fields = Fields(message[1:], "routing update")
        update = cls(
            node_id=fields.text("NodeID", NODE_ID),
            update_id=fields.text("UpdateID", UPDATE_ID),
            epoch=fields.unsigned("UpdateEpoch", UNSIGNED_64),
            sequence=fields.unsigned("UpdateSequence", UNSIGNED_64),
            connections=_decode_costs(fields),
            forwarding_node=fields.text("ForwardingNode", NODE_ID),
            suspected_duplicate=fields.unsigned("SuspectedDuplicate", UNSIGNED_64),
        )
        whole = bytes(message)
        end = _update_end(update.forwarding_node, update.suspected_duplicate)
        if whole.endswith(end) and len(fields) == UPDATE_FIELDS:
            object.__setattr__(update, "body", whole[: -len(end)])
        object.__setattr__(update, "key", update._key())
        object.__setattr__(update, "size", len(whole))
        return update

    @property
    def order(self) -> tuple[int, int]:
        """What is greater in a newer update of the same node."""
        return self.epoch, self.sequence

    def _key(self) -> int:
        """Return a number made of the whole message but for the node that passed it on.

        The UpdateID alone would not do: whoever has seen it could send something else under it,
        and where that comes first the update itself would count as another copy.
        """
        if self.body is not None:
            start = hash(self.body)
        else:
            start = hash((self.node_id, self.update_id, self.epoch, self.sequence))
        return hash((start, self.suspected_duplicate)) if self.suspected_duplicate else start

    def encode(self, forwarding_node: str | None = None) -> bytes:
        """Return the whole message, type byte included; by ``forwarding_node`` if given.

        What was received is passed on as it came. Otherwise it is put together by hand, which
        takes a third of what a JSON encoder does.
        """
        forwarding_node = self.forwarding_node if forwarding_node is None else forwarding_node
        if self.body is not None:
            return self.body + _update_end(forwarding_node, self.suspected_duplicate)
        connections = ",".join(
            [f"{_quote(p)}:{plain_number(c)!r}" for p, c in self.connections.items()]
        )
        return (
            f'\x01{{"NodeID":{_quote(self.node_id)},"UpdateID":{_quote(self.update_id)},'
            f'"UpdateEpoch":{self.epoch},"UpdateSequence":{self.sequence},'
            f'"Connections":{{{connections}}},"ForwardingNode":{_quote(forwarding_node)},'
            f'"SuspectedDuplicate":{self.suspected_duplicate}}}'
        ).encode()


def _decode_costs(fields: Fields) -> dict[str, float]:
    """Return an update's connections; those that no link of ours could have are left out.

    Left out, and not a reason to refuse all: an honest receptor node tells of each of its peers,
    and a peer may call itself anything. Costs are Go's floats: each above zero is fine.
    """
    connections: Mapping[str, Any] = fields.mapping("Connections")
    if _are_plain(connections):
        return {peer: float(cost) for peer, cost in connections.items()}
    costs: dict[str, float] = {}
    for peer, value in connections.items():
        cost = _cost(value, fields)
        if cost > 0 and _is_name(peer, fields):
            costs[peer] = cost
    return costs


def _are_plain(connections: Mapping[str, Any]) -> bool:
    """Whether nothing is to be said against any connection, nor looked at twice.

    As good as always that is so, and one look at all of them is a tenth of one at each.
    """
    names, costs = "".join(connections), connections.values()
    return (
        set(map(type, costs)) <= {int, float}
        and (not costs or (min(costs) > 0 and max(costs) <= sys.float_info.max))
        and names.isascii()
        and names.isprintable()
        and all(NODE_ID.least <= size <= NODE_ID.most for size in map(len, connections))
    )


def _cost(value: object, fields: Fields) -> float:
    if type(value) is not float and type(value) is not int:
        raise fields.fault("Connections")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise fields.fault("Connections")
    return number


def _is_name(peer: str, fields: Fields) -> bool:
    try:
        fields.text_of(peer, NODE_ID, "Connections")
    except OutOfBounds:
        return False
    return True


_PLAIN_NAME = re.compile(r"[0-9A-Za-z._:@/+ -]*")


class CopyTeller:
    """Tells the updates that a peer passes on apart without parsing them.

    Every link of a node brings a copy of each update and all but one are of no use: this finds
    them out for a fraction of what parsing costs.
    """

    def __init__(self, peer: str) -> None:
        self._own = f'\x01{{"NodeID":"{peer}"'.encode()
        self._end = _update_end(peer)
        self._is_plain = _PLAIN_NAME.fullmatch(peer) is not None

    def key(self, message: bytes | bytearray | memoryview) -> int | None:
        """Return the :attr:`RoutingUpdate.key` of an update.

        None means that it must be parsed: it is the peer's own, or it is not laid out as receptor
        and meshnode do, or the peer's name could have been written in two ways.
        """
        whole = bytes(message)
        if not self._is_plain or whole.startswith(self._own) or not whole.endswith(self._end):
            return None
        return hash(whole[: -len(self._end)])


def _update_end(forwarding_node: str, suspected_duplicate: int = 0) -> bytes:
    return (
        f',"ForwardingNode":{_quote(forwarding_node)},"SuspectedDuplicate":{suspected_duplicate}}}'
    ).encode()


@dataclass(frozen=True, slots=True)
class WorkType:
    """A work type in an advertisement; ``secure`` means that signatures are verified."""

    name: str
    secure: bool


@dataclass(frozen=True, slots=True)
class ServiceAdvertisement:
    """A service that a node offers (protocol section 6).

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
        if len(message) > MAX_ADVERTISEMENT:
            raise OutOfBounds(f"a service advertisement of {len(message)} bytes is too long")
        fields = Fields(message[1:], "service advertisement")
        return cls(
            node_id=fields.text("NodeID", NODE_ID),
            service=fields.text("Service", SERVICE),
            time=fields.text("Time", TIME),
            conn_type=fields.unsigned("ConnType", UNSIGNED_8),
            tags=_decode_tags(fields),
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


def _decode_tags(fields: Fields) -> dict[str, str] | None:
    if fields.get("Tags") is None:
        return None
    return {
        fields.text_of(name, TAG_NAME, "Tags"): fields.text_of(value, TAG_VALUE, "Tags")
        for name, value in fields.mapping("Tags").items()
    }


def _decode_work_types(fields: Fields) -> tuple[WorkType, ...] | None:
    key = "WorkCommands"
    items = fields.get(key)
    if items is None:
        return None
    if not isinstance(items, list):
        raise fields.fault(key)
    work_types = []
    for item in items:
        work_type = fields.mapping_of(item, key)
        name = fields.text_of(work_type.get("WorkType", ""), WORK_TYPE, key)
        work_types.append(WorkType(name, fields.flag_of(work_type.get("Secure", False), key)))
    return tuple(work_types)


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
        return _dump(
            {
                "FromNode": self.from_node,
                "ToNode": self.to_node,
                "FromService": decode_service(self.from_service),
                "ToService": decode_service(self.to_service),
                "Problem": self.problem,
            }
        )
