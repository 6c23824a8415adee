"""``tcp-server`` and ``tcp-client``: TCP connections as streams of the mesh."""

import os
from collections.abc import Awaitable, Callable

import trio

from meshnode.config import Address
from meshnode.config.service_directives import (
    TcpClient,
    TcpServer,
    UnixSocketClient,
    UnixSocketServer,
)
from meshnode.logs import subject_logger
from meshnode.net.addresses import format_address
from meshnode.net.sockets import CannotListen, keep_alive, open_tcp_listeners
from meshnode.net.unix_listener import UnixListener
from meshnode.services.base import ServiceMesh, listen_on_mesh
from meshnode.services.forwarder import StreamServer, forward_to

CONNECT_TIMEOUT = 15.0
"""Seconds for name lookup and connection; the kernel's own limit is minutes."""


class TcpServerService:
    """Leads connections to a TCP port to a service of a node; ``ports`` are the real ones."""

    def __init__(self, directive: TcpServer, mesh: ServiceMesh) -> None:
        self._directive = directive
        self._mesh = mesh
        self.ports: tuple[int, ...] = ()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        wanted = self._directive
        where = format_address((wanted.bindaddr or "*", wanted.port))
        try:
            listeners = await open_tcp_listeners(wanted.bindaddr, wanted.port)
        except (OSError, ValueError) as exc:  # ValueError: a name that DNS cannot hold
            reason = getattr(exc, "strerror", None) or str(exc)
            raise CannotListen("port", where, reason) from exc
        self.ports = tuple(listener.socket.getsockname()[1] for listener in listeners)
        log = subject_logger("tcp-server", where)
        log.info("listening on port %s for %s of node %s", self.ports[0], *self._remote)
        server = StreamServer(log, forward_to(self._dial))
        await server.run(listeners, task_status=task_status)

    @property
    def _remote(self) -> tuple[str, str]:
        return self._directive.remoteservice, self._directive.remotenode

    async def _dial(self) -> trio.abc.HalfCloseableStream:
        return await self._mesh.dial(self._directive.remotenode, self._directive.remoteservice)


class TcpClientService:
    """A service on the mesh whose streams lead to a TCP address, looked up anew for each."""

    def __init__(self, directive: TcpClient, mesh: ServiceMesh) -> None:
        self._directive = directive
        self._mesh = mesh

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        service, address = self._directive.service, self._directive.address
        tags = {"type": "TCP Proxy", "address": str(address)}
        listener = await listen_on_mesh(self._mesh, service, tags)
        log = subject_logger("tcp-client", service)
        log.info("leads to %s", address)
        server = StreamServer(log, forward_to(_tcp_dialer(address)))
        await server.run([listener], task_status=task_status)


def _tcp_dialer(address: Address) -> Callable[[], Awaitable[trio.SocketStream]]:
    async def dial() -> trio.SocketStream:
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                stream = await trio.open_tcp_stream(address.host, address.port)
        except trio.TooSlowError:
            raise OSError(f"no connection to {address} within {CONNECT_TIMEOUT:g} s") from None
        except UnicodeError as exc:
            raise OSError(f"cannot connect to {address}: that is no host name") from exc
        except OSError as exc:
            raise OSError(f"cannot connect to {address}: {_reason(exc)}") from exc
        keep_alive(stream.socket)
        return stream

    return dial


def _reason(error: OSError) -> str:
    """Return why no address of a host could be connected to, in the words of the first."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    first = cause if isinstance(cause, OSError) else error
    return os.strerror(first.errno) if first.errno and first.errno > 0 else str(first)


# --- ``unix-socket-server`` and ``unix-socket-client``: unix sockets as streams of the mesh


class UnixSocketServerService:
    """Leads connections to a unix socket to a service of a node."""

    def __init__(self, directive: UnixSocketServer, mesh: ServiceMesh) -> None:
        self._directive = directive
        self._mesh = mesh

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        wanted = self._directive
        listener = UnixListener.open(wanted.filename, wanted.permissions)
        log = subject_logger("unix-socket-server", wanted.filename)
        log.info("listening for %s of node %s", wanted.remoteservice, wanted.remotenode)
        await StreamServer(log, forward_to(self._dial)).run([listener], task_status=task_status)

    async def _dial(self) -> trio.abc.HalfCloseableStream:
        return await self._mesh.dial(self._directive.remotenode, self._directive.remoteservice)


class UnixSocketClientService:
    """A service on the mesh whose streams lead to a unix socket."""

    def __init__(self, directive: UnixSocketClient, mesh: ServiceMesh) -> None:
        self._directive = directive
        self._mesh = mesh

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        service, filename = self._directive.service, self._directive.filename
        tags = {"type": "Unix Proxy", "filename": filename}
        listener = await listen_on_mesh(self._mesh, service, tags)
        log = subject_logger("unix-socket-client", service)
        log.info("leads to %s", filename)
        await StreamServer(log, forward_to(self._dial)).run([listener], task_status=task_status)

    async def _dial(self) -> trio.SocketStream:
        filename = self._directive.filename
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                return await trio.open_unix_socket(filename)
        except trio.TooSlowError:
            raise OSError(f"{filename} took no connection for {CONNECT_TIMEOUT:g} s") from None
        except OSError as exc:
            raise OSError(f"cannot connect to {filename}: {exc.strerror or exc}") from exc
