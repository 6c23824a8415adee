"""Sockets of this machine by which clients come: what their listeners have in common."""

import socket
import struct
from typing import Protocol, runtime_checkable

import trio

from meshnode.errors import ConfigError

BACKLOG = 1024
"""Clients that may wait to be accepted: a burst of scripts starting at once. The kernel lowers it
to its own bound."""


class CannotListen(ConfigError):
    """A listener that a directive asks for cannot be opened.

    ``parameter`` is the directive's, ``problem`` the value and what is wrong.
    """

    def __init__(self, parameter: str, value: str, reason: str) -> None:
        super().__init__(f"{parameter} {value}: {reason}")
        self.parameter = parameter
        self.problem = f"{value}: {reason}"


@runtime_checkable
class FromNode(Protocol):
    """A stream that came over the mesh."""

    @property
    def peer_node(self) -> str:
        """ID of the node at the other end."""
        ...


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
    """Let the kernel find out some day that the machine at the other end is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def peer_name(stream: trio.abc.HalfCloseableStream) -> str:
    """Return who a client is, for logs: node ID, ``host:port``, or process and user."""
    if isinstance(stream, FromNode):
        return stream.peer_node
    if not isinstance(stream, trio.SocketStream):
        return "unknown"
    try:
        if stream.socket.family == socket.AF_UNIX:
            size = struct.calcsize("3i")
            data = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            pid, uid, _ = struct.unpack("3i", data)
            return f"pid {pid} uid {uid}"
        host, port = stream.socket.getpeername()[:2]
    except OSError as error:  # it may be gone already
        return error.strerror or "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
