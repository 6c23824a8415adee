"""The target ``framing``: bytes below the messages, on links that began as they should."""

import itertools
import random
import struct
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass

import trio
from hostile import forge
from hostile.peer import ws_head

from fuzz import mutate
from fuzz.engine import Target
from fuzz.meshworld import GONE, MeshWorld
from meshnode.mesh.links.base import LinkListener
from meshnode.mesh.links.tcp import TcpListener
from meshnode.mesh.links.udp import UdpDialer
from meshnode.mesh.links.udp_listener import UdpListener
from meshnode.mesh.links.websocket import WebsocketListener
from meshnode.protocol.framing import encode_frames
from meshnode.protocol.messages import REJECT_MESSAGE
from meshnode.protocol.rejection import Ground, Rejection

LOOPBACK = "127.0.0.1"

ANSWER_TIMEOUT = 10.0
"""Seconds for the victim to answer a hello, or to close a link that has ended."""

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: victim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

MESSAGES: tuple[bytes, ...] = (
    forge.data("nobody", "victim", "x", "ping"),
    forge.data("nobody", "right", "x", "control", bytes(1200)),
    forge.update("ghost", ForwardingNode="nobody"),
    forge.advert("ghost", "svc", Time="2026-01-01T00:00:00Z"),
    REJECT_MESSAGE,
    Rejection(Ground.COST, "nobody", 5.0, 1.0).encode(),
    b"\x2a",
    b"\0" * 36,
    bytes(65_535),
)
"""Messages of which links are made; their senders are wrong, as what is below them is at stake."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What comes behind the opening, in the pieces in which it is sent; over UDP, datagrams."""

    kind: str
    pieces: tuple[bytes, ...]


class FramingWorld(MeshWorld):
    """The victim listens on sockets of the loopback interface; time is real."""

    pause = 0.0
    settled = 0.0
    healed = 20.0

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Listen."""
        listeners: dict[str, Sequence[LinkListener]] = {
            "tcp": await TcpListener.open(0, LOOPBACK),
            "ws": await WebsocketListener.open(0, LOOPBACK, "/"),
            "udp": await UdpListener.open(0, LOOPBACK),
        }
        self._ports = {kind: found[0].port for kind, found in listeners.items()}  # type: ignore[attr-defined]
        for found in listeners.values():
            for listener in found:
                self.victim.add_listener(listener)
        self._number = 0

    async def feed(self, item: object) -> None:
        """Open a link, send the pieces, end it, and see it closed."""
        assert isinstance(item, Stream)
        self._number += 1
        name = f"fr{self._number:06}"
        hello = forge.update(name, UpdateID=name)
        with trio.move_on_after(ANSWER_TIMEOUT), suppress(OSError, *GONE):
            if item.kind == "udp":
                await self._send_datagrams(hello, item.pieces)
            else:
                await self._send_stream(item.kind, hello, item.pieces)
        self.see_links()

    async def _send_stream(self, kind: str, hello: bytes, pieces: Sequence[bytes]) -> None:
        async with await trio.open_tcp_stream(LOOPBACK, self._ports[kind]) as stream:
            if kind == "ws":
                await stream.send_all(UPGRADE)
                await stream.receive_some()
                await stream.send_all(ws_head(len(hello)) + hello)
            else:
                await stream.send_all(encode_frames([hello]))
            await stream.receive_some()
            for piece in pieces:
                await stream.send_all(piece)
            await stream.send_eof()
            while await stream.receive_some():
                pass

    async def _send_datagrams(self, hello: bytes, pieces: Sequence[bytes]) -> None:
        # A stranger would be let in at the pace of strangers: this shows that it reads.
        link = await UdpDialer(LOOPBACK, self._ports["udp"]).dial()
        try:
            await link.send([hello])
            await link.receive()
            await link.send([*pieces, REJECT_MESSAGE])
        finally:
            await link.aclose()


class Framing(Target):
    """See the module."""

    name = "framing"
    about = "bytes below the messages, on tcp, ws and udp links that began as they should"
    episode = 500
    check_every = 100
    real_time = True

    def make(self, chance: random.Random) -> Stream:
        """Return what comes behind one opening."""
        kind = chance.choice(["tcp", "tcp", "ws", "ws", "udp"])
        if kind == "udp":
            return Stream(kind, tuple(self._datagram(chance) for _ in range(chance.randint(1, 4))))
        make = tcp_frame if kind == "tcp" else ws_frame
        data = b"".join(make(chance) for _ in range(chance.randint(1, 5)))
        if chance.random() < 0.3:
            data = mutate.damaged(data, chance)
        return Stream(kind, _cut(data, chance))

    def _datagram(self, chance: random.Random) -> bytes:
        datagram = chance.choice(MESSAGES)[:65_000]
        return mutate.damaged(datagram, chance)[:65_000] if chance.random() < 0.6 else datagram

    def world(self) -> AbstractAsyncContextManager[MeshWorld]:
        """Open a mesh whose victim listens."""
        return FramingWorld.open()


def _cut(data: bytes, chance: random.Random) -> tuple[bytes, ...]:
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice([0, 0, 1, 3])))
    bounds = [0, *places, len(data)]
    pieces = (data[a:b] for a, b in itertools.pairwise(bounds))
    return tuple(piece for piece in pieces if piece)


def tcp_frame(chance: random.Random) -> bytes:
    """Return a message behind its length, or behind another one."""
    body = chance.choice(MESSAGES)
    size = chance.choice([len(body)] * 6 + [0, 1, 65_535, chance.randrange(65_536)])
    return struct.pack("<H", size) + body


def ws_frame(chance: random.Random) -> bytes:
    """Return a frame of a websocket, mostly as a client may send it."""
    body = chance.choice(MESSAGES)[: chance.choice([2, 125, 126, 70_000])]
    opcode = chance.choice(
        [0x82] * 8 + [0x02, 0x00, 0x80, 0x81, 0x88, 0x89, 0x8A, 0x83, 0xC2, 0xFF]
    )
    length = chance.choice([len(body)] * 8 + [0, 126, 65_536, 1 << 40, 1 << 63, (1 << 64) - 1])
    short = length if length < 126 else 126 if length < 65_536 else 127
    head = bytes([opcode, short | (0x80 if chance.random() < 0.95 else 0)])
    if short >= 126:
        head += struct.pack("!H" if short == 126 else "!Q", length)
    mask = chance.choice([bytes(4), chance.randbytes(4)])
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(body))
