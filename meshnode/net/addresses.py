"""Socket addresses as people write them, whose account they are on, and look-ups of host names."""

import socket
from typing import Literal, NamedTuple
from weakref import WeakValueDictionary

import trio

from meshnode.resources import in_thread

MAX_OF_ONE = 4
"""Threads that look up one name at a time. A name server that does not answer holds each up for
half a minute; units, links and other names must not wait for that. How many names there are says
the configuration, how often one is asked for whoever opens streams to a service."""

_Found = list[
    tuple[Literal[socket.AddressFamily.AF_INET], socket.SocketKind, int, str, tuple[str, int]]
    | tuple[
        Literal[socket.AddressFamily.AF_INET6],
        socket.SocketKind,
        int,
        str,
        tuple[str, int, int, int] | tuple[int, bytes],
    ]
]


def format_address(address: object) -> str:
    """Return a socket address as ``host:port``, IPv6 in brackets."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address)


def network_of(host: str) -> str:
    """Return an IPv4 address as it is, and of an IPv6 address the network."""
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"


_MAPPED = bytes(10) + b"\xff\xff"
"""What an IPv4 address begins with where it is written as one of IPv6 (RFC 4291, 2.5.5.2)."""


class PeerAddress(NamedTuple):
    """The other end of a connection: as people write it, and on whose account it is."""

    text: str
    holder: str


def peer_address(stream: trio.SocketStream) -> PeerAddress:
    """Return the address of the other end, or what to say when it is gone already."""
    try:
        address = stream.socket.getpeername()
    except OSError:  # the peer reset it between accept and now; the first read will say so
        return PeerAddress("(already gone)", "")
    return PeerAddress(format_address(address), network_of(str(address[0])))


class Lookups(trio.abc.HostnameResolver):
    """Looks names up as trio does, but in a bounded number of threads for each name.

    It is for ``trio.socket.set_custom_hostname_resolver``. Numeric addresses never come here.
    """

    def __init__(self) -> None:
        self._limiters: WeakValueDictionary[object, trio.CapacityLimiter] = WeakValueDictionary()

    def _limiter(self, of: object) -> trio.CapacityLimiter:
        """Return what bounds the threads for one name; a thread keeps its place until it ends."""
        return self._limiters.setdefault(of, trio.CapacityLimiter(MAX_OF_ONE))

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> _Found:
        """Return the addresses of a name.

        Raises:
            OSError: it has none, or no thread can be started.
        """
        return await in_thread(
            socket.getaddrinfo,
            host,
            port,
            family,
            type,
            proto,
            flags,
            abandon=True,
            limiter=self._limiter(host),
        )

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        """Return the name of an address. Raises OSError."""
        return await in_thread(
            socket.getnameinfo, sockaddr, flags, abandon=True, limiter=self._limiter(sockaddr)
        )
