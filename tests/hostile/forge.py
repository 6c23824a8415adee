"""Messages of the mesh as anybody can write them, right or wrong."""

import itertools
import json
import string
import time
from collections.abc import Iterator
from typing import Any

from meshnode.protocol.messages import MessageType
from meshnode.protocol.namehash import name_hash

VICTIM = "victim"
"""The node ID of whoever is attacked."""

PRIVATE = "private"
"""A service of the victim that asks for certificates."""

CLAIMED_EPOCH = int(time.time()) << 24
"""The epoch of a node that starts now, as updates bear it."""

LETTERS = string.digits + string.ascii_letters


class Raw(str):
    """A JSON text that stands in a message as it is, be it JSON or not."""

    __slots__ = ()


_to_json = json.JSONEncoder(separators=(",", ":")).encode


def to_json(value: dict[str, Any]) -> bytes:
    """Return an object as JSON. A value that is :class:`Raw` is not encoded; nor are surrogates."""
    pairs = (
        f"{json.dumps(key)}:{item if isinstance(item, Raw) else _to_json(item)}"
        for key, item in value.items()
    )
    return ("{" + ",".join(pairs) + "}").encode(errors="surrogatepass")


def message(kind: int, body: bytes | dict[str, Any]) -> bytes:
    """Return a whole message of that type."""
    return bytes([kind]) + (body if isinstance(body, bytes) else to_json(body))


def update_fields(name: str, **fields: Any) -> dict[str, Any]:
    """Return a good update of a node that is linked to the victim, with some fields replaced."""
    good = {
        "NodeID": name,
        "UpdateID": "0" * 8,
        "UpdateEpoch": CLAIMED_EPOCH,
        "UpdateSequence": 1,
        "Connections": {VICTIM: 1},
        "ForwardingNode": name,
        "SuspectedDuplicate": 0,
    }
    return good | fields


def update(name: str, **fields: Any) -> bytes:
    """Return a routing update; see :func:`update_fields`."""
    return message(MessageType.ROUTE, update_fields(name, **fields))


def now_text(ahead: float = 0.0) -> str:
    """Return the time ``ahead`` seconds from now as advertisements have it."""
    moment = time.time() + ahead
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
    return f"{whole}.{int(moment % 1 * 1e9):09d}Z"


def advert_fields(name: str, service: str, **fields: Any) -> dict[str, Any]:
    """Return a good advertisement of a stream service, with some fields replaced."""
    good = {
        "NodeID": name,
        "Service": service,
        "Time": now_text(),
        "ConnType": 1,
        "Tags": {"type": "Control Service"},
        "WorkCommands": [{"WorkType": "echo", "Secure": False}],
        "Cancel": False,
    }
    return good | fields


def advert(name: str, service: str, **fields: Any) -> bytes:
    """Return a service advertisement; see :func:`advert_fields`."""
    return message(MessageType.ADVERTISEMENT, advert_fields(name, service, **fields))


def service_field(service: str | bytes) -> bytes:
    """Return a service as the 8 bytes of a header; what is longer is cut off."""
    data = service.encode() if isinstance(service, str) else service
    return data[:8].ljust(8, b"\0")


def data(
    source: str | bytes,
    destination: str | bytes,
    source_service: str | bytes,
    destination_service: str | bytes,
    payload: bytes = b"",
    hops: int = 29,
) -> bytes:
    """Return a data message; nodes may be given as names, or as the 8 bytes themselves."""
    nodes = [name_hash(n) if isinstance(n, str) else n for n in (source, destination)]
    services = [service_field(s) for s in (source_service, destination_service)]
    return bytes([MessageType.DATA, hops, 0, 0]) + b"".join(nodes + services) + payload


def notice_fields(from_node: str, to_node: str, **fields: Any) -> dict[str, Any]:
    """Return the body of an unreachable notice, with some fields replaced."""
    good = {
        "FromNode": from_node,
        "ToNode": to_node,
        "FromService": "control",
        "ToService": "x",
        "Problem": "service unknown",
    }
    return good | fields


def notice(source: str | bytes, destination: str | bytes, **fields: Any) -> bytes:
    """Return a notice from one node to another about a message of the latter."""
    body = notice_fields(str(destination), "nobody") | fields
    return data(source, destination, "unreach", "unreach", to_json(body))


def names(prefix: str, length: int = 8) -> Iterator[str]:
    """Yield ever new names of that length, which begin with the prefix."""
    width = length - len(prefix)
    for letters in itertools.product(LETTERS, repeat=min(width, 6)):
        yield prefix + "".join(letters).rjust(width, "0")
