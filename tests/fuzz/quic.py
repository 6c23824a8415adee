"""The target ``quic``: any frames inside a connection whose handshake was in order."""

import random
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio
import trio.testing
from hostile.dialer import Dialer, frame, stream_frame, varint

from fuzz import mutate
from fuzz.engine import Target
from fuzz.meshworld import GONE, EvilLink, MeshWorld
from fuzz.services import ServicesWorld

ROUNDS = 30
"""Exchanges within which a handshake must be done; it takes four."""

ROUND_PAUSE = 0.05
"""Simulated seconds between them."""

STREAM_IDS = (0, 4, 8, 12, 16, 20, 40, 400, 508, 512, 1, 2, 3, 5, 6, 7, 10, 14, 4000, (1 << 62) - 4)
"""Streams that a dialer opens, one after another; and of the other kinds, which it may not."""

OFFSETS = (0, 0, 0, 1, 2, 10, 1000, 1 << 20, (1 << 21) - 1, 1 << 21, (1 << 23) + 1, (1 << 62) - 1)
NUMBERS = (
    0,
    1,
    2,
    3,
    63,
    64,
    127,
    128,
    129,
    16383,
    16384,
    1 << 21,
    1 << 30,
    1 << 60,
    (1 << 62) - 1,
)
CODES = (0, 1, 7, 10, 499, 0x100, 0x1FF, 1 << 30)


@dataclass(frozen=True, slots=True)
class Frames:
    """What is sent on a connection with a service: packets of frames; ``anew`` on another one."""

    service: str
    anew: bool
    packets: tuple[bytes, ...]


class QuicWorld(ServicesWorld):
    """Keeps a connection with each service for as long as the victim does."""

    def __init__(self, nursery: trio.Nursery, nodes: dict[str, object]) -> None:
        super().__init__(nursery, nodes)  # type: ignore[arg-type]
        self._dialers: dict[str, tuple[Dialer, EvilLink]] = {}
        self._dialed = 0

    async def feed(self, item: object) -> None:
        """Send packets on a connection, and let the engines answer each other."""
        assert isinstance(item, Frames)
        dialer, link = await self._connection(item.service, anew=item.anew)
        for frames in item.packets:
            if dialer.is_up and not dialer.is_over:
                await self._send(link, [dialer.packet(frames)])
        for _ in range(2):
            await self._send(link, dialer.outgoing(trio.current_time()))
        await self.settle()

    async def _connection(self, service: str, *, anew: bool) -> tuple[Dialer, EvilLink]:
        link = await self.link("victim")
        link.on_message = self._give
        found = self._dialers.get(service)
        if found is not None and found[1] is link and not found[0].is_over and not anew:
            return found
        self._dialed += 1
        self.dialer = b"d%d" % self._dialed
        # One in four as a receptor node, which has one stream on a connection.
        many = self._dialed % 4 > 0
        now = trio.current_time()
        dialer = Dialer(link.name, self.dialer, service, now=now, many_streams=many)
        self._dialers[service] = dialer, link
        for _ in range(ROUNDS):
            await self._send(link, dialer.outgoing(trio.current_time()))
            if dialer.is_over or link.is_over:
                break
            if dialer.is_up:
                # Its last word, without which the victim cannot read what comes next.
                await self._send(link, dialer.outgoing(trio.current_time()))
                break
            await trio.sleep(ROUND_PAUSE)
        return dialer, link

    async def _send(self, link: EvilLink, messages: list[bytes]) -> None:
        if messages:
            try:
                await link.link.send(messages)
            except GONE:
                link.is_over = True
        await trio.testing.wait_all_tasks_blocked()

    def _give(self, message: bytes) -> None:
        for dialer, _ in self._dialers.values():
            if dialer.take(message, trio.current_time()):
                return

    @property
    def is_connected(self) -> bool:
        """Whether any connection is up: what is fed gets behind the handshake."""
        return any(dialer.is_up and not dialer.is_over for dialer, _ in self._dialers.values())


class DialedWorld(QuicWorld):
    """Takes messages, while the enemy has a connection with the victim that they may be about."""

    async def feed(self, item: object) -> None:
        """Connect, if need be, and send messages."""
        await self._connection("control", anew=False)
        await MeshWorld.feed(self, item)
        for dialer, link in self._dialers.values():
            await self._send(link, dialer.outgoing(trio.current_time()))


class Quic(Target):
    """See the module."""

    name = "quic"
    about = "QUIC frames inside an established connection with each kind of stream service"
    episode = 100

    def make(self, chance: random.Random) -> Frames:
        """Return one to three packets."""
        service = chance.choices(["control", "web", "sock", "shell"], [10, 10, 10, 1])[0]
        packets = tuple(self._packet(chance) for _ in range(chance.choice([1, 1, 2, 3])))
        return Frames(service, chance.random() < 0.02, packets)

    def _packet(self, chance: random.Random) -> bytes:
        frames = b"".join(one_frame(chance) for _ in range(chance.choice([1, 1, 1, 2, 3, 6])))
        if chance.random() < 0.05:
            frames = mutate.damaged(frames, chance, 2)
        return frames[:1100] or b"\1"

    def world(self) -> AbstractAsyncContextManager[MeshWorld]:
        """Open a mesh with services."""
        return QuicWorld.open()


def one_frame(chance: random.Random) -> bytes:
    """Return a frame; most are such as the victim takes in without ending the connection."""
    stream, number = chance.choice(STREAM_IDS), chance.choice(NUMBERS)
    if chance.random() < 0.85:
        stream = 4 * chance.randrange(30)
    code = chance.choice(CODES)
    kind = chance.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    return KINDS[kind][1](chance, stream, number, code)


def _stream(chance: random.Random, stream: int, number: int, code: int) -> bytes:
    data = chance.choice([b"", b"\0", b"\0hello", b"\0\0", b"x", b"\0" + chance.randbytes(200)])
    offset = 0 if chance.random() < 0.7 else chance.choice(OFFSETS)
    return stream_frame(stream, data, offset, end=chance.random() < 0.3)


def _ack(chance: random.Random, stream: int, number: int, code: int) -> bytes:
    ranges = chance.choice([0, 0, 1, 2, 60])
    numbers = [chance.choice(NUMBERS) for _ in range(2 * ranges)]
    ecn = [chance.choice(NUMBERS) for _ in range(3)] if chance.random() < 0.2 else []
    largest = chance.choice([0, 1, 2, 3, 5, 10, number])
    return frame(3 if ecn else 2, largest, chance.choice(NUMBERS), ranges, 0, *numbers, *ecn)


def _close(chance: random.Random, stream: int, number: int, code: int) -> bytes:
    reason = chance.choice([b"", b"normal close", b"\xff" * 20, b"x\ny", b"%s" * 100])
    if chance.random() < 0.5:
        return frame(0x1C, code, chance.choice([0, 6, 1 << 30]), len(reason), rest=reason)
    return frame(0x1D, code, len(reason), rest=reason)


def _new_id(chance: random.Random, stream: int, number: int, code: int) -> bytes:
    size = chance.choice([0, 1, 4, 8, 20, 21, 255])
    return (
        frame(0x18, number, chance.choice([0, 0, 1, number]))
        + bytes([size])
        + chance.randbytes(min(size, 30) + 16)
    )


KINDS = {
    "stream": (30, _stream),
    "reset": (6, lambda c, s, n, e: frame(4, s, e, c.choice(OFFSETS))),
    "stop": (6, lambda c, s, n, e: frame(5, s, e)),
    "ack": (4, _ack),
    "crypto": (2, lambda c, s, n, e: frame(6, c.choice(OFFSETS), 4, rest=c.randbytes(4))),
    "token": (1, lambda c, s, n, e: frame(7, 3, rest=b"abc")),
    "max data": (3, lambda c, s, n, e: frame(0x10, n)),
    "max stream data": (3, lambda c, s, n, e: frame(0x11, s, n)),
    "max streams": (3, lambda c, s, n, e: frame(c.choice([0x12, 0x13]), n)),
    "blocked": (3, lambda c, s, n, e: frame(c.choice([0x14, 0x16, 0x17]), n)),
    "stream blocked": (2, lambda c, s, n, e: frame(0x15, s, n)),
    "new id": (2, _new_id),
    "retire id": (1, lambda c, s, n, e: frame(0x19, c.choice([0, 1, 2, n]))),
    "challenge": (2, lambda c, s, n, e: frame(c.choice([0x1A, 0x1B]), rest=c.randbytes(8))),
    "close": (0.5, _close),
    "done": (0.5, lambda c, s, n, e: frame(0x1E)),
    "datagram": (1, lambda c, s, n, e: frame(0x31, 4, rest=b"data")),
    "unknown": (0.5, lambda c, s, n, e: varint(c.choice([0x20, 0x40, 0x7FFF, n])) + b"x"),
    "padding": (1, lambda c, s, n, e: bytes(c.choice([1, 50]))),
    "ping": (2, lambda c, s, n, e: b"\1"),
}
"""Kinds of frames: how often each is sent, and what makes one."""
