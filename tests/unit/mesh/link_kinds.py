"""Every kind of link as the conformance suite and the fuzz tests take it.

A new kind joins both by one line in KINDS.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from tls_makers import nameless_ends

from meshnode.config import parse_ws_url
from meshnode.mesh.links.base import Link, LinkDialer, LinkListener
from meshnode.mesh.links.memory import MemoryDialer, MemoryListener
from meshnode.mesh.links.tcp import TcpDialer, TcpListener
from meshnode.mesh.links.tls import TlsDialer, TlsListener
from meshnode.mesh.links.udp import UdpDialer
from meshnode.mesh.links.udp_listener import UdpListener
from meshnode.mesh.links.websocket import WebsocketDialer, WebsocketListener
from meshnode.protocol.framing import MAX_MESSAGE

GREETING = b"\x01 the first message: over UDP it is what makes the other end listen"

UDP_MOST = 65_507
"""Bytes of the largest UDP datagram over IPv4."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of link: how one is had on this machine, and what may be asked of it.

    Attributes:
        name: as the names of its links begin.
        listen: returns a listener and what dials it.
        reliable: whether nothing is lost and ends are noticed.
        largest: bytes of the largest message.
    """

    name: str
    listen: Callable[[], Awaitable[tuple[LinkListener, LinkDialer]]]
    reliable: bool = True
    largest: int = MAX_MESSAGE


async def listen_tcp():
    (listener,) = await TcpListener.open(0, "127.0.0.1")
    return listener, TcpDialer("127.0.0.1", listener.port)


async def listen_ws():
    (listener,) = await WebsocketListener.open(0, "127.0.0.1", "/mesh")
    return listener, WebsocketDialer(parse_ws_url(f"ws://127.0.0.1:{listener.port}/mesh"))


async def listen_tls():
    ends = nameless_ends()
    (listener,) = await TlsListener.open_tls(0, "127.0.0.1", lambda: ends.server)
    return listener, TlsDialer("127.0.0.1", listener.port, lambda: ends.client)


async def listen_wss():
    ends = nameless_ends()
    (listener,) = await WebsocketListener.open(0, "127.0.0.1", "/mesh", lambda: ends.server)
    url = parse_ws_url(f"wss://127.0.0.1:{listener.port}/mesh")
    return listener, WebsocketDialer(url, tls=lambda: ends.client)


async def listen_udp():
    (listener,) = await UdpListener.open(0, "127.0.0.1")
    return listener, UdpDialer("127.0.0.1", listener.port)


async def listen_memory():
    listener = MemoryListener("place")
    return listener, MemoryDialer(listener)


TCP = Kind("tcp", listen_tcp)
WS = Kind("ws", listen_ws)
TLS = Kind("tls", listen_tls)
WSS = Kind("wss", listen_wss)
UDP = Kind("udp", listen_udp, reliable=False, largest=UDP_MOST)
MEMORY = Kind("memory", listen_memory)

KINDS = (TCP, WS, TLS, WSS, UDP, MEMORY)

PLAIN = (TCP, WS, UDP, MEMORY)
"""Those without TLS. With it the same frames come out of TLS, which has tests of its own."""

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
every_plain_kind = pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.name)
reliable_kinds = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.reliable], ids=lambda kind: kind.name
)

reliable_plain_kinds = pytest.mark.parametrize(
    "kind", [kind for kind in PLAIN if kind.reliable], ids=lambda kind: kind.name
)


async def receive(link: Link, count: int) -> list[bytes]:
    """Return the next ``count`` messages."""
    messages: list[bytes] = []
    while len(messages) < count:
        batch = await link.receive()
        assert batch, "the link ended early"
        messages += [bytes(message) for message in batch]
    assert len(messages) == count
    return messages


async def connect(listener: LinkListener, dialer: LinkDialer) -> tuple[Link, Link]:
    """Return both ends of a new link: the dialer's and the listener's."""
    near: list[Link] = []

    async def greet() -> None:
        near.append(await dialer.dial())
        await near[0].send([GREETING])

    # At the same time, as opening may take a word from the other end.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet)
        far = await listener.accept()
        assert await receive(far, 1) == [GREETING]
    return near[0], far


@asynccontextmanager
async def listening(kind: Kind) -> AsyncIterator[tuple[LinkListener, LinkDialer]]:
    """Open a listener, and yield it with what dials it."""
    listener, dialer = await kind.listen()
    try:
        yield listener, dialer
    finally:
        await listener.aclose()


@asynccontextmanager
async def linked(kind: Kind, count: int = 1) -> AsyncIterator[list[tuple[Link, Link]]]:
    """Open links to one listener; yields both ends of each."""
    async with listening(kind) as (listener, dialer):
        pairs = [await connect(listener, dialer) for _ in range(count)]
        try:
            yield pairs
        finally:
            for end in itertools.chain.from_iterable(pairs):
                await end.aclose()
