"""Where clients of the control service come from: a unix socket, TCP, the mesh.

All are opened before the node runs, so that what is wrong with them is a ConfigError.
"""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from meshnode.config import split_listen_address
from meshnode.control.mesh_face import FromNode, ListeningMesh
from meshnode.control.registry import SessionKind
from meshnode.control.unix_listener import BACKLOG, CannotListen, UnixListener
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
        raise CannotListen("service", service, str(error)) from error


async def open_tcp(address: str) -> list[trio.SocketListener]:
    """Listen on TCP at ``host:port`` or ``port`` (every interface), a ``tcplisten`` value.

    Raises:
        CannotListen: the address is none, or is not free.
    """
    try:
        host, port = split_listen_address(address)
        listeners = await trio.open_tcp_listeners(port, host=host or None, backlog=BACKLOG)
    except (OSError, ValueError) as error:  # ValueErrors: a wrong form, a name that DNS cannot hold
        reason = getattr(error, "strerror", None) or error
        raise CannotListen("tcplisten", address, str(reason)) from error
    for listener in listeners:
        # Accepted sockets inherit it: a client whose machine is gone frees its session some day.
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return listeners


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
