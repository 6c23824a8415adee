"""Where clients of the control service come from: a unix socket, TCP, the mesh.

All are opened before the node runs, so that what is wrong with them is a ConfigError.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from meshnode.config import split_listen_address
from meshnode.control.mesh_face import ListeningMesh
from meshnode.control.registry import SessionKind
from meshnode.errors import ConfigError, MeshnodeError
from meshnode.mesh.sockets import CannotListen, open_tcp_listeners
from meshnode.mesh.unix_listener import UnixListener
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
        return await open_tcp_listeners(host, port)
    except (OSError, ValueError) as error:  # ValueErrors: a wrong form, a name that DNS cannot hold
        reason = getattr(error, "strerror", None) or error
        raise CannotListen("tcplisten", address, str(reason)) from error
