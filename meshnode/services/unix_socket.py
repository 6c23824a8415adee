"""``unix-socket-server`` and ``unix-socket-client``: unix sockets as streams of the mesh."""

import trio

from meshnode.config.service_directives import UnixSocketClient, UnixSocketServer
from meshnode.logs import subject_logger
from meshnode.mesh.unix_listener import UnixListener
from meshnode.services.base import ServiceMesh, listen_on_mesh
from meshnode.services.forwarder import StreamServer, forward_to

CONNECT_TIMEOUT = 15.0
"""Seconds for a local program to accept a connection when its queue is full."""


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
        server = StreamServer(log, forward_to(self._dial))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.keep, log)
            await server.run([listener], task_status=task_status)
            nursery.cancel_scope.cancel()

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
