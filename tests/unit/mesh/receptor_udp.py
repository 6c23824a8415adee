"""A node that dials over UDP as receptor does, as far as the opening of a link goes.

It knows no cookies. Its first word repeats each second; once ours has come it is linked to us, and
100 ms later it says so and has a route to us: before that it cannot answer a ping.
"""

import socket
from collections.abc import Callable

import trio

from meshnode.mesh.links.udp import DialedUdpLink, UdpDialer
from meshnode.protocol.messages import PING_SERVICE, WIRE_HOPS, DataHeader, MessageType
from meshnode.protocol.namehash import name_hash
from meshnode.protocol.routing import RoutingUpdate

TICK = 0.1
"""Seconds from a change of links to the update and to the new routes (receptor's tick runner)."""


class PlainUdpDialer(UdpDialer):
    """Dials as meshnodes did before there were cookies, and as receptor does."""

    async def _open(self, family, address) -> DialedUdpLink:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.connect(address)
        await trio.lowlevel.checkpoint()
        return DialedUdpLink(sock)


class ReceptorPeer:
    """One such node, with its only link."""

    def __init__(self, name: str, port: int, *, answers: bool = True) -> None:
        self.name = name
        self._answers = answers
        self._sequence = 0
        self._has_route = False
        self.linked = trio.Event()
        self.heard: list[bytes] = []
        self.sent = 0
        self._socket = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._port = port

    async def run(self) -> None:
        """Talk until cancelled."""
        with self._socket:
            await self._socket.connect(("127.0.0.1", self._port))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._say_hello)
                while True:
                    message = await self._socket.recv(65_536)
                    self.heard.append(message)
                    if message[0] == MessageType.ROUTE and not self.linked.is_set():
                        self.linked.set()
                        peer = RoutingUpdate.decode(message).forwarding_node
                        nursery.start_soon(self._say_alive, peer)
                    elif message[28:36] == PING_SERVICE and self._has_route and self._answers:
                        await self._answer(message)

    async def _say_hello(self) -> None:
        for _ in range(10):
            if not self.linked.is_set():
                await self._say({})
            await trio.sleep(1)

    async def _say_alive(self, peer: str) -> None:
        while True:
            await trio.sleep(TICK)
            self._has_route = True
            await self._say({peer: 1.0})
            await trio.sleep(10)

    async def _say(self, connections: dict[str, float]) -> None:
        self._sequence += 1
        update = RoutingUpdate(
            self.name, f"id{self._sequence:06}", 1 << 54, self._sequence, connections, self.name
        )
        await self._send(update.encode())

    async def _answer(self, ping: bytes) -> None:
        header = DataHeader.decode(ping)
        await self._send(
            DataHeader(
                WIRE_HOPS,
                name_hash(self.name),
                header.source,
                PING_SERVICE,
                header.source_service,
            ).encode()
        )

    async def _send(self, message: bytes) -> None:
        self.sent += len(message)
        await self._socket.send(message)

    async def wait_heard(self, what: Callable[[bytes], bool]) -> None:
        """Wait until such a message has come."""
        while not any(what(message) for message in self.heard):
            await trio.testing.wait_all_tasks_blocked(cushion=0.005)
