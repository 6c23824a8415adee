"""The few questions to the kernel that an interface of our own needs (rtnetlink(7)).

Each is asked and answered at once: nothing here waits for another machine.
"""

import ipaddress
import os
import socket
import struct

from meshnode.config.service_directives import Network

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE, _DELETE_ROUTE = 2, 16, 20, 24, 25
_REQUEST, _ACKNOWLEDGE, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x200, 0x400
_IFF_UP = 0x1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF = 1, 4
_TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_LINK, _UNICAST = 254, 4, 253, 1

ANSWER_SIZE = 64 * 1024
"""Bytes of an answer at most: it repeats the question."""


def set_up(index: int) -> None:
    """Bring an interface up; raises OSError."""
    _ask(_NEW_LINK, 0, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP))


def add_point_to_point(index: int, own: ipaddress.IPv4Address, peer: ipaddress.IPv4Address) -> None:
    """Give an interface its address, and the one at its other end; raises OSError."""
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, index)
    body += _attribute(_IFA_LOCAL, own.packed) + _attribute(_IFA_ADDRESS, peer.packed)
    _ask(_NEW_ADDRESS, _CREATE | _EXCLUSIVE, body)


def add_route(index: int, network: Network) -> None:
    """Lead a network into an interface; raises OSError (EEXIST: it leads elsewhere already)."""
    _ask(_NEW_ROUTE, _CREATE | _EXCLUSIVE, _route(index, network))


def delete_route(index: int, network: Network) -> None:
    """Take such a route away; raises OSError."""
    _ask(_DELETE_ROUTE, 0, _route(index, network))


def _route(index: int, network: Network) -> bytes:
    is_four = network.version == 4
    family = socket.AF_INET if is_four else socket.AF_INET6
    scope = _SCOPE_LINK if is_four else 0
    body = struct.pack(
        "=BBBBBBBBI",
        family,
        network.prefixlen,
        0,
        0,
        _TABLE_MAIN,
        _PROTOCOL_STATIC,
        scope,
        _UNICAST,
        0,
    )
    body += _attribute(_RTA_DST, network.network_address.packed)
    return body + _attribute(_RTA_OIF, struct.pack("=I", index))


def _attribute(kind: int, value: bytes) -> bytes:
    padding = b"\0" * (-len(value) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + padding


def _ask(kind: int, flags: int, body: bytes) -> None:
    """Send one request and take its acknowledgement.

    Raises:
        OSError: the kernel refused.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        length = _HEADER.size + len(body)
        kernel.send(_HEADER.pack(length, kind, flags | _REQUEST | _ACKNOWLEDGE, 1, 0) + body)
        answer = kernel.recv(ANSWER_SIZE)
    _, answered, _, _, _ = _HEADER.unpack_from(answer)
    (code,) = struct.unpack_from("=i", answer, _HEADER.size)
    if answered == _ERROR and code:
        raise OSError(-code, os.strerror(-code))
