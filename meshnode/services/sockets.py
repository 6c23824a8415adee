"""TCP and unix sockets as streams of the mesh: ``tcp-server``, ``unix-socket-client`` and so on.

A server accepts on a socket of this machine, and dials a service of a node for each connection. A
client accepts streams of a service, and connects each to a socket.
"""

import os
from functools import partial
from typing import TYPE_CHECKING

import trio

from meshnode.config import Address
from meshnode.config.service_directives import (
    TcpClient,
    TcpServer,
    UnixSocketClient,
    UnixSocketServer,
)
from meshnode.logs import subject_logger
from meshnode.mesh.mesh import Mesh
from meshnode.net.addresses import format_address
from meshnode.net.sockets import CannotListen, keep_alive, open_tcp_listeners
from meshnode.net.unix_listener import UnixListener
from meshnode.security.tlsstore import NO_TLS, TlsStore
from meshnode.services.base import listen_on_mesh
from meshnode.services.forwarder import StreamServer, forward_to, secured

if TYPE_CHECKING:
    from meshnode.security.tls import TlsSource

CONNECT_TIMEOUT = 15.0
"""Seconds to connect, with the lookup of a name; the kernel's own limit is minutes."""


class TcpServerProxy:
    """Leads connections to a TCP port to a service of a node; ``ports`` are the real ones."""

    def __init__(self, directive: TcpServer, mesh: Mesh, tls: TlsStore = NO_TLS) -> None:
        self._directive = directive
        self._mesh = mesh
        self._tls_server = tls.find_server(directive.tlsserver)
        self._tls_client = tls.find_client(directive.tlsclient)
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
        node, service = wanted.remotenode, wanted.remoteservice
        log.info("listening on port %s for %s of node %s", self.ports[0], service, node)
        handler = forward_to(partial(self._mesh.dial, node, service, self._tls_client))
        if self._tls_server is not None:
            handler = secured(handler, self._tls_server)
        await StreamServer(log, handler).run(listeners, task_status=task_status)


class TcpClientProxy:
    """A service on the mesh whose streams lead to a TCP address, looked up anew for each."""

    def __init__(self, directive: TcpClient, mesh: Mesh, tls: TlsStore = NO_TLS) -> None:
        self._directive = directive
        self._mesh = mesh
        self._tls_server = tls.find_server(directive.tlsserver)
        self._tls_client = tls.find_client(directive.tlsclient)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        service, address = self._directive.service, self._directive.address
        tags = {"type": "TCP Proxy", "address": str(address)}
        listener = await listen_on_mesh(self._mesh, service, tags, self._tls_server)
        log = subject_logger("tcp-client", service)
        log.info("leads to %s", address)
        server = StreamServer(log, forward_to(partial(_connect, address, self._tls_client)))
        await server.run([listener], task_status=task_status)


async def _connect(
    address: Address, tls: "TlsSource | None" = None
) -> trio.abc.HalfCloseableStream:
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
    if tls is None:
        return stream
    from meshnode.net.tls import dial_tls  # noqa: PLC0415 - only where TLS is asked for

    try:
        return await dial_tls(stream, tls(), address.host)
    except OSError as exc:
        raise OSError(f"cannot connect to {address}: {exc}") from exc


def _reason(error: OSError) -> str:
    """Return why no address of a host could be connected to, in the words of the first."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    first = cause if isinstance(cause, OSError) else error
    return os.strerror(first.errno) if first.errno and first.errno > 0 else str(first)


class UnixServerProxy:
    """Leads connections to a unix socket to a service of a node."""

    def __init__(self, directive: UnixSocketServer, mesh: Mesh, tls: TlsStore = NO_TLS) -> None:
        self._directive = directive
        self._mesh = mesh
        self._tls = tls.find_client(directive.tls)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        wanted = self._directive
        listener = UnixListener.open(wanted.filename, wanted.permissions)
        log = subject_logger("unix-socket-server", wanted.filename)
        node, service = wanted.remotenode, wanted.remoteservice
        log.info("listening for %s of node %s", service, node)
        handler = forward_to(partial(self._mesh.dial, node, service, self._tls))
        await StreamServer(log, handler).run([listener], task_status=task_status)


class UnixClientProxy:
    """A service on the mesh whose streams lead to a unix socket."""

    def __init__(self, directive: UnixSocketClient, mesh: Mesh, tls: TlsStore = NO_TLS) -> None:
        self._directive = directive
        self._mesh = mesh
        self._tls = tls.find_server(directive.tls)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        service, filename = self._directive.service, self._directive.filename
        tags = {"type": "Unix Proxy", "filename": filename}
        listener = await listen_on_mesh(self._mesh, service, tags, self._tls)
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
