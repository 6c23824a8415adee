"""Links inside one process: for tests, simulations and meshes within a program.

They behave as a reliable link does; a seeded :class:`Loss` makes them lose and reorder messages
as a UDP link may.
"""

import random
from collections.abc import Callable, Sequence

import trio

from meshnode.mesh.links.base import Link, LinkDialer, LinkListener, Message

QUEUE_BATCHES = 64
"""Batches in flight each way before the sender waits, as for a socket's buffer."""

Loss = Callable[[list[bytes]], list[bytes]]
"""Takes a batch of messages; returns those that arrive, in the order in which they do."""


def seeded_loss(seed: int, drop: float = 0.0, reorder: float = 0.0) -> Loss:
    """Return a Loss that drops and swaps messages with these probabilities, the same each run."""
    chance = random.Random(seed)

    def pass_on(messages: list[bytes]) -> list[bytes]:
        arrived = [m for m in messages if chance.random() >= drop]
        for i in range(len(arrived) - 1):
            if chance.random() < reorder:
                arrived[i], arrived[i + 1] = arrived[i + 1], arrived[i]
        return arrived

    return pass_on


class MemoryLink(Link):
    """One end of a link between two meshes of this process."""

    def __init__(
        self,
        name: str,
        outgoing: trio.MemorySendChannel[list[bytes]],
        incoming: trio.MemoryReceiveChannel[list[bytes]],
        loss: Loss | None,
    ) -> None:
        self.name = f"memory {name}"
        self._outgoing = outgoing
        self._incoming = incoming
        self._loss = loss

    async def send(self, messages: Sequence[Message]) -> None:
        """Pass messages to the other end."""
        batch = [bytes(m) for m in messages]
        if self._loss is not None:
            batch = self._loss(batch)
        if batch:
            await self._outgoing.send(batch)
        else:
            await trio.lowlevel.checkpoint()

    async def receive(self) -> list[memoryview]:
        """Return what the other end sent in one go."""
        try:
            return [memoryview(bytearray(m)) for m in await self._incoming.receive()]
        except trio.EndOfChannel:
            return []

    async def aclose(self) -> None:
        """Close both directions."""
        await self._outgoing.aclose()
        await self._incoming.aclose()


def memory_link_pair(name: str = "pair", loss: Loss | None = None) -> tuple[MemoryLink, MemoryLink]:
    """Return the two ends of a new link."""
    a_to_b = trio.open_memory_channel[list[bytes]](QUEUE_BATCHES)
    b_to_a = trio.open_memory_channel[list[bytes]](QUEUE_BATCHES)
    return (
        MemoryLink(f"{name}.a", a_to_b[0], b_to_a[1], loss),
        MemoryLink(f"{name}.b", b_to_a[0], a_to_b[1], loss),
    )


class MemoryListener(LinkListener):
    """What a :class:`MemoryDialer` dials, as a port is for TCP."""

    def __init__(self, name: str, loss: Loss | None = None, *, holder: str = "") -> None:
        """``holder`` is that of the links that are accepted here."""
        self.name = f"memory {name}"
        self._label = name
        self._loss = loss
        self._holder = holder
        self._arrivals, self._accepted = trio.open_memory_channel[MemoryLink](QUEUE_BATCHES)

    def connect(self) -> MemoryLink:
        """Return the dialer's end of a new link; the other end waits to be accepted.

        Raises:
            OSError: nobody listens any more.
        """
        near, far = memory_link_pair(self._label, self._loss)
        far.holder = self._holder
        try:
            self._arrivals.send_nowait(far)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.WouldBlock):
            raise ConnectionRefusedError(f"nobody accepts at {self.name}") from None
        return near

    async def accept(self) -> MemoryLink:
        """Wait for the next link."""
        return await self._accepted.receive()

    async def aclose(self) -> None:
        """Stop listening."""
        await self._accepted.aclose()


class MemoryDialer(LinkDialer):
    """Dials a :class:`MemoryListener`."""

    def __init__(self, listener: MemoryListener) -> None:
        self._listener = listener
        self.name = listener.name

    async def dial(self) -> MemoryLink:
        """Open a link."""
        await trio.lowlevel.checkpoint()
        return self._listener.connect()
