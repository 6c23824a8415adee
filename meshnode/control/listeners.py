"""Where clients of the control service come from: a unix socket, TCP, the mesh.

All are opened before the node runs, so that what is wrong with them is a ConfigError.
"""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from meshnode.control.mesh_face import FromNode, ListeningMesh
from meshnode.control.registry import SessionKind
from meshnode.control.unix_listener import BACKLOG, UnixListener
from meshnode.errors import ConfigError, MeshnodeError
from meshnode.protocol.messages import WorkType

SERVICE_TAGS = {"type": "Control Service"}
"""Tags that the service is advertised with (reference section 6)."""


@dataclass(frozen=True, slots=True)
class ControlListener:
    """An open listener and what its clients are to the service."""

    kind: SessionKind
    address: str
    listener: trio.abc.Listener[trio.abc.HalfCloseableStream]

    def __str__(self) -> str:
        return f"{self.kind} {self.address}"


async def open_listeners(
    *,
    service: str,
    filename: str,
    permissions: int,
    tcplisten: str,
    mesh: ListeningMesh,
    work_types: Sequence[WorkType],
) -> list[ControlListener]:
    """Open what a ``control-service`` directive names; empty texts name nothing.

    The mesh comes last: nobody hears of a service that then fails to start.

    Raises:
        ConfigError: something cannot be opened, or nothing is named. Nothing stays open.
    """
    opened: list[ControlListener] = []
    try:
        if filename:
            opened.append(
                ControlListener("unix", filename, UnixListener.open(filename, permissions))
            )
        if tcplisten:
            opened += [ControlListener("tcp", tcplisten, tcp) for tcp in await open_tcp(tcplisten)]
        if service:
            opened.append(
                ControlListener("mesh", service, await _listen(mesh, service, work_types))
            )
    except BaseException:
        with trio.CancelScope(shield=True):
            for source in opened:
                await trio.aclose_forcefully(source.listener)
        raise
    if not opened:
        raise ConfigError(
            "control-service: nobody could reach it; give a service, filename or tcplisten"
        )
    return opened


async def _listen(
    mesh: ListeningMesh, service: str, work_types: Sequence[WorkType]
) -> trio.abc.Listener[trio.abc.HalfCloseableStream]:
    try:
        return await mesh.listen(service, tags=SERVICE_TAGS, work_types=work_types or None)
    except MeshnodeError as error:
        raise ConfigError(f"control-service: service {service}: {error}") from error


async def open_tcp(address: str) -> list[trio.SocketListener]:
    """Open ``host:port``, ``[v6]:port``, ``:port`` (every interface) or ``port`` (every IPv4 one).

    Raises:
        ConfigError: the address is none, or is not free.
    """
    host, port = parse_tcp_address(address)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host or None, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # the latter from a name that no DNS could hold
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"control-service: tcplisten {address}: {reason}") from error
    for listener in listeners:
        # Accepted sockets inherit it: a client whose machine is gone frees its session some day.
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return listeners


def parse_tcp_address(address: str) -> tuple[str, int]:
    """Return host and port of a ``tcplisten`` value; see :func:`open_tcp`.

    Raises:
        ConfigError: it is none of these forms.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        host = "0.0.0.0"  # noqa: S104 - what a bare port means to receptor
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(
            f"control-service: tcplisten {address}: write an IPv6 address as [address]:port"
        )
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        raise ConfigError(
            f"control-service: tcplisten {address}: not host:port with a port of 0 to 65535"
        )
    return host, int(port)


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
