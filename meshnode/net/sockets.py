"""Listening on sockets of this machine, and who is at the other end of one that was accepted."""

import os
import socket
import struct
from abc import ABC
from functools import lru_cache
from typing import TYPE_CHECKING

import trio

from meshnode.errors import ConfigError
from meshnode.net.addresses import format_address, network_of
from meshnode.security.identity import (
    MAX_ADDRESS,
    MAX_CERTIFICATE_NODES,
    MAX_SERVICE,
    SHARED,
    CertificateNames,
    Identity,
    MeshClient,
    TcpClient,
    UnixClient,
    UnknownClient,
    shown_text,
)
from meshnode.shares import Holder

if TYPE_CHECKING:
    from meshnode.security.certificates import Certificate

BACKLOG = 1024
"""Clients that may wait to be accepted: a burst of scripts, or a whole site that reconnects. The
kernel lowers it to its own bound."""


class CannotListen(ConfigError):
    """A listener that a directive asks for cannot be opened.

    ``parameter`` is the directive's, ``problem`` the value and what is wrong.
    """

    def __init__(self, parameter: str, value: str, reason: str) -> None:
        super().__init__(f"{parameter} {value}: {reason}")
        self.parameter = parameter
        self.problem = f"{value}: {reason}"


class FromNode(ABC):
    """A stream that came over the mesh."""

    peer_node: str
    """ID of the node at the other end."""

    peer_service: str
    """The service of that node at the other end."""

    holder: Holder
    """On whose account the stream is."""

    @property
    def certificate(self) -> "Certificate | None":
        """What the other end has shown of itself, verified; None without TLS settings."""
        return None


class OverSocket(ABC):
    """A stream over a socket of this machine, with something between them."""

    transport: trio.SocketStream
    """The socket's own stream."""


def bare(stream: trio.abc.AsyncResource) -> trio.abc.AsyncResource:
    """Return the socket's own stream of one that is over a socket; any other is itself."""
    return stream.transport if isinstance(stream, OverSocket) else stream


async def open_tcp_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on a TCP port of every address that ``host`` means ("" is all of them).

    Raises:
        OSError: the address is not ours or the port is taken.
        ValueError: the host is no name that could be looked up.
    """
    listeners = await trio.open_tcp_listeners(port, host=host or None, backlog=BACKLOG)
    for listener in listeners:
        keep_alive(listener.socket)  # accepted sockets inherit it
    return listeners


def keep_alive(connection: trio.socket.SocketType) -> None:
    """Have the kernel find out when the machine at the other end is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def peer_name(stream: trio.abc.AsyncResource) -> str:
    """Return who a client is, for logs: node ID, ``host:port``, or process and user."""
    stream = bare(stream)
    if not isinstance(stream, trio.SocketStream):
        return stream.peer_node if isinstance(stream, FromNode) else "unknown"
    try:
        if stream.socket.family == socket.AF_UNIX:
            pid, uid, _ = _credentials(stream.socket)
            return f"pid {pid} uid {uid}"
        return format_address(stream.socket.getpeername())
    except OSError as error:  # it may be gone already
        return error.strerror or "unknown"


UNKNOWN_HOLDER = Holder("unknown")
"""Of clients that are gone before they could be asked, and of streams of no known kind."""


def holder_of(stream: trio.abc.AsyncResource) -> Holder:
    """Return on whose account a client is.

    Whoever has an IPv6 address has the 2^64 of its network, so these are one.
    """
    stream = bare(stream)
    if not isinstance(stream, trio.SocketStream):
        return stream.holder if isinstance(stream, FromNode) else UNKNOWN_HOLDER
    try:
        if stream.socket.family == socket.AF_UNIX:
            _, uid, _ = _credentials(stream.socket)
            return Holder(f"uid {uid}", is_owner=uid in {0, os.geteuid()})
        return Holder(network_of(stream.socket.getpeername()[0]))
    except OSError:
        return UNKNOWN_HOLDER


def identify(stream: trio.abc.AsyncResource) -> Identity:
    """Return who is at the other end, by what the kernel or the mesh knows of it."""
    stream = bare(stream)
    if isinstance(stream, FromNode):
        service = shown_text(stream.peer_service, MAX_SERVICE)
        names = None if stream.certificate is None else names_in(stream.certificate)
        return MeshClient(stream.peer_node, service, certificate=names)
    if isinstance(stream, trio.SocketStream):
        try:
            if stream.socket.family == socket.AF_UNIX:
                pid, uid, gid = _credentials(stream.socket)
                return UnixClient(uid, gid, pid)
            address = format_address(stream.socket.getpeername())
            return TcpClient(shown_text(address, MAX_ADDRESS))
        except OSError:  # it is gone already
            return UnknownClient()
    return UnknownClient()


def names_in(certificate: "Certificate") -> CertificateNames:
    """Return whom a certificate names, as one value for all who have shown the same."""
    return _shared_names(certificate.subject, certificate.node_ids[:MAX_CERTIFICATE_NODES])


@lru_cache(maxsize=SHARED)
def _shared_names(subject: str, nodes: tuple[str, ...]) -> CertificateNames:
    return CertificateNames(subject, nodes)


def _credentials(connection: trio.socket.SocketType) -> tuple[int, int, int]:
    """Return process, user and group at the other end of a unix socket. Raises OSError."""
    size = struct.calcsize("iII")
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, gid = struct.unpack("iII", data)
    return pid, uid, gid
