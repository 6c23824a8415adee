"""``udp-server`` and ``udp-client``: UDP datagrams as datagrams of the mesh.

Datagrams may be lost, doubled or overtaken, as UDP's may. One of up to ``MAX_PAYLOAD`` bytes fits a
message of the mesh; larger ones are dropped and counted.
"""

import socket
from functools import partial

import trio

from meshnode.config.service_directives import UdpClient, UdpServer
from meshnode.logs import subject_logger
from meshnode.mesh.datagrams import DatagramSocket
from meshnode.mesh.dataplane import LOCALHOST
from meshnode.mesh.mesh import Mesh
from meshnode.net.addresses import format_address, network_of
from meshnode.net.sockets import CannotListen
from meshnode.net.udp import bound_sockets
from meshnode.services.base import open_datagrams
from meshnode.services.relay import FarSocket, Relay
from meshnode.shares import Holder

RECEIVE_SIZE = 65536
"""Bytes asked for at a time: more than a UDP datagram can have."""

LOOKUP_TIMEOUT = 15.0
"""Seconds for the lookup of a name; the resolver's own limit may be minutes."""

UdpAddress = tuple[str, int] | tuple[str, int, int, int]
"""A UDP client as the socket module names it, IPv4 or IPv6."""


class UdpServerProxy:
    """Passes what comes to a UDP port to a service of a node; ``ports`` are the real ones.

    Each local client sends from a service name of its own, so that answers find it.
    """

    def __init__(self, directive: UdpServer, mesh: Mesh) -> None:
        self._directive = directive
        self._mesh = mesh
        self.relays: tuple[Relay[UdpAddress], ...] = ()
        self.ports: tuple[int, ...] = ()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        wanted = self._directive
        where = format_address((wanted.bindaddr or "*", wanted.port))
        try:
            bound = await bound_sockets(wanted.bindaddr, wanted.port)
        except (OSError, UnicodeError) as exc:  # UnicodeError: a name that DNS cannot hold
            reason = getattr(exc, "strerror", None) or str(exc)
            raise CannotListen("port", where, reason) from exc
        sockets = [trio.socket.from_stdlib_socket(sock) for sock in bound]
        self.ports = tuple(near.getsockname()[1] for near in sockets)
        log = subject_logger("udp-server", where)
        log.info(
            "listening on port %d for %s of node %s",
            self.ports[0],
            wanted.remoteservice,
            wanted.remotenode,
        )
        self.relays = tuple(
            Relay(log, self._open_far, partial(_send, near), _holder_of_client) for near in sockets
        )
        try:
            async with trio.open_nursery() as nursery:
                for near, relay in zip(sockets, self.relays, strict=True):
                    await nursery.start(relay.run, partial(_receive, near))
                task_status.started()
        finally:
            for near in sockets:
                near.close()

    async def _open_far(self, address: UdpAddress) -> FarSocket:
        await trio.lowlevel.checkpoint()
        directive = self._directive
        own = self._mesh.open_datagrams()
        return _MeshFar(own, directive.remotenode, directive.remoteservice)


class UdpClientProxy:
    """A datagram service on the mesh that speaks to a UDP address.

    Each correspondent on the mesh is given a UDP socket of its own, so that answers find it.
    """

    def __init__(self, directive: UdpClient, mesh: Mesh) -> None:
        self._directive = directive
        self._mesh = mesh
        self.relay: Relay[tuple[str, str]] | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        service, address = self._directive.service, self._directive.address
        tags = {"type": "UDP Proxy", "address": str(address)}
        log = subject_logger("udp-client", service)
        with open_datagrams(self._mesh, service, tags) as near:
            log.info("leads to %s", address)

            async def receive() -> tuple[tuple[str, str], bytes]:
                datagram = await near.receive()
                return (datagram.node, datagram.service), datagram.payload

            async def answer(correspondent: tuple[str, str], payload: bytes) -> None:
                await near.send_to(*correspondent, payload)

            self.relay = Relay(
                log,
                self._open_far,
                answer,
                holder_of=lambda correspondent: near.holder_of(correspondent[0]),
            )
            await self.relay.run(receive, task_status=task_status)

    async def _open_far(self, correspondent: tuple[str, str]) -> FarSocket:
        host, port = self._directive.address.host, self._directive.address.port
        try:
            with trio.fail_after(LOOKUP_TIMEOUT):
                found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except trio.TooSlowError:
            raise OSError(f"{host} was not found within {LOOKUP_TIMEOUT:g} s") from None
        except UnicodeError as exc:
            raise OSError(f"{host} is no host name") from exc
        family, kind, protocol, _, address = found[0]
        far = trio.socket.socket(family, kind, protocol)
        try:
            await far.connect(address)
        except BaseException:
            far.close()
            raise
        return _UdpFar(far)


class _MeshFar:
    """A local client's own service name, tied to one service of a node."""

    def __init__(self, own: DatagramSocket, node: str, service: str) -> None:
        self._own = own
        self._node = node
        self._service = service

    async def send(self, payload: bytes) -> None:
        await self._own.send_to(self._node, self._service, payload)

    async def receive(self) -> bytes:
        while True:
            datagram = await self._own.receive()
            # No answer comes from a node of the name localhost, which means this one.
            if datagram.service == self._service and self._node in {datagram.node, LOCALHOST}:
                return datagram.payload

    def close(self) -> None:
        self._own.close()


class _UdpFar:
    """A mesh correspondent's own UDP socket, connected to the address."""

    def __init__(self, connected: trio.socket.SocketType) -> None:
        self._socket = connected

    async def send(self, payload: bytes) -> None:
        await self._socket.send(payload)

    async def receive(self) -> bytes:
        return await self._socket.recv(RECEIVE_SIZE)

    def close(self) -> None:
        self._socket.close()


def _holder_of_client(client: UdpAddress) -> Holder:
    return Holder(network_of(client[0]))


async def _receive(near: trio.socket.SocketType) -> tuple[UdpAddress, bytes]:
    payload, address = await near.recvfrom(RECEIVE_SIZE)
    return address, payload


async def _send(near: trio.socket.SocketType, address: UdpAddress, payload: bytes) -> None:
    await near.sendto(payload, address)
