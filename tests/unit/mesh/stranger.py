"""A peer that opens a link as any node does and then says whatever a test has it say."""

import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import trio

from meshnode.mesh.links.base import Link
from meshnode.mesh.links.memory import memory_link_pair
from meshnode.mesh.mesh import Mesh
from meshnode.protocol.routing import RoutingUpdate, ServiceAdvertisement

EPOCH = 1_800_000_000 << 24
"""The start of the life of a stranger, if it does not say another."""

KEEP_ALIVE = 5.0
"""Seconds between its own updates."""


class Stranger:
    """One end of a link, in the hands of a test."""

    def __init__(self, name: str, victim: str, link: Link) -> None:
        self.name = name
        self.victim = victim
        self.link = link
        self.heard: list[bytes] = []
        """What the victim said, routing and advertisements."""
        self.data: list[bytes] = []
        """Data messages that the victim sent or passed on."""
        self.claims: Mapping[str, float] = {}
        """Further links that it says it has."""
        self._numbers = itertools.count(1)

    @property
    def updates(self) -> list[RoutingUpdate]:
        return [RoutingUpdate.decode(m) for m in self.heard if m[0] == 1]

    @property
    def adverts(self) -> list[ServiceAdvertisement]:
        return [ServiceAdvertisement.decode(m) for m in self.heard if m[0] == 2]

    async def hello(self) -> None:
        """Say that the link exists, and the links that it claims besides."""
        claims = {self.victim: 1.0, **self.claims}
        await self.say(self.update(self.name, claims, sequence=next(self._numbers)))

    def update(
        self,
        node: str,
        links: Mapping[str, float],
        *,
        epoch: int = EPOCH,
        sequence: int = 1,
        suspected: int = 0,
    ) -> RoutingUpdate:
        """Return an update in anybody's name, as this peer passes it on."""
        number = f"id{next(self._numbers):06}"
        return RoutingUpdate(node, number, epoch, sequence, links, self.name, suspected)

    async def say(self, *messages: RoutingUpdate | ServiceAdvertisement | bytes) -> None:
        await self.say_all(messages)

    async def say_all(
        self, messages: Iterable[RoutingUpdate | ServiceAdvertisement | bytes]
    ) -> None:
        whole = [m if isinstance(m, bytes) else m.encode() for m in messages]
        await self.link.send(whole)

    async def _listen(self) -> None:
        while batch := await self.link.receive():
            self.heard += [bytes(m) for m in batch if m[0] in (1, 2)]
            self.data += [bytes(m) for m in batch if m[0] == 0]

    async def _keep_alive(self) -> None:
        while True:
            await self.hello()
            await trio.sleep(KEEP_ALIVE)


@asynccontextmanager
async def stranger(victim: Mesh, name: str = "stranger") -> AsyncIterator[Stranger]:
    """Link a stranger to a node, and keep the link alive."""
    near, far = memory_link_pair(f"{victim.node_id}-{name}")
    found = Stranger(name, victim.node_id, far)
    async with trio.open_nursery() as nursery:
        victim._nursery.start_soon(victim.run_link, near)
        nursery.start_soon(found._listen)
        nursery.start_soon(found._keep_alive)
        await victim.wait_reachable(name)
        yield found
        nursery.cancel_scope.cancel()
    await far.aclose()
