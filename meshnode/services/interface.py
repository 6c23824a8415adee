"""A TUN device, and what an interface of our own needs of the kernel (rtnetlink(7)).

A TUN device is a network interface whose packets are read from and written to a descriptor. The
kernel answers its few questions at once: nothing here waits for another machine.
"""

import fcntl
import ipaddress
import os
import socket
import struct
from contextlib import ExitStack
from typing import Self

import trio

from meshnode.config.service_directives import Network

DEVICE = "/dev/net/tun"

_TUNSETIFF = 0x400454CA
"""ioctl number of linux/if_tun.h: make an interface of this descriptor."""

_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
"""IFF_TUN | IFF_NO_PI: IP packets, and nothing before them."""

PACKET_SIZE = 65536
"""Bytes asked for at a time: no IP packet is larger."""


class Tun:
    """An open TUN interface. It is gone, addresses and routes and all, once it is closed."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self.name = name
        self.index = socket.if_nametoindex(name)

    @classmethod
    def open(cls, name: str = "") -> Self:
        """Make an interface; without a name the kernel chooses one (tun0, …).

        Raises:
            OSError: this process may not, or the name is taken.
        """
        with ExitStack() as undo:
            descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, descriptor)
            request = struct.pack("16sH22x", name.encode(), _TUN_WITHOUT_HEADER)
            answer = fcntl.ioctl(descriptor, _TUNSETIFF, request)
            tun = cls(descriptor, answer[:16].rstrip(b"\0").decode())
            undo.pop_all()
        return tun

    async def receive(self) -> bytes:
        """Wait for a packet that the kernel sends out by this interface.

        Raises:
            OSError: the interface is gone.
        """
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                return os.read(self._descriptor, PACKET_SIZE)
            except BlockingIOError:
                continue

    def send(self, packet: bytes) -> None:
        """Give the kernel a packet that comes in by this interface.

        Raises:
            OSError: it takes no such packet, or none now.
        """
        os.write(self._descriptor, packet)

    def close(self) -> None:
        """Close it, if it is not closed yet."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)


# --- rtnetlink -----------------------------------------------------------------------------------

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
