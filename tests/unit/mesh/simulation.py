"""Whole meshes in one process, on memory links: for the tests of scale, and for bench/."""

import functools
import gc
import heapq
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import trio

from meshnode.mesh.links.base import Link, Message
from meshnode.mesh.links.memory import memory_link_pair
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.policies import LinkPolicy
from meshnode.protocol import namehash

Pair = tuple[str, str]
"""Two nodes, the alphabetically first one first."""


def pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


@dataclass
class Tally:
    """What went over all links of a world."""

    messages: int = 0
    bytes: int = 0

    def since(self, before: "Tally") -> "Tally":
        return Tally(self.messages - before.messages, self.bytes - before.bytes)

    def copy(self) -> "Tally":
        return Tally(self.messages, self.bytes)


class TalliedLink(Link):
    """One end of a link of a world; ``deaf`` loses what the other end sends: a cut cable."""

    def __init__(self, link: Link, tally: Tally) -> None:
        self.name = link.name
        self.deaf = False
        self._link = link
        self._tally = tally

    async def send(self, messages: Sequence[Message]) -> None:
        self._tally.messages += len(messages)
        self._tally.bytes += sum(map(len, messages))
        await self._link.send(messages)

    async def receive(self) -> list[memoryview]:
        while True:
            messages = await self._link.receive()
            if not self.deaf:
                return messages
            if not messages:
                await trio.sleep_forever()  # not even the end of the other end is heard

    async def aclose(self) -> None:
        await self._link.aclose()


class World:
    """Nodes and the links between them. ``links`` maps each pair that is linked to its cost."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nodes: dict[str, Mesh] = {}
        self.links: dict[Pair, float] = {}
        self.tally = Tally()
        self._nursery = nursery
        self._ends: dict[Pair, tuple[TalliedLink, TalliedLink]] = {}
        self._lives: dict[str, trio.CancelScope] = {}

    # --- building and breaking ---------------------------------------------------------------

    async def start(self, names: Iterable[str]) -> None:
        for name in names:
            self.nodes[name] = await self._nursery.start(self._live, name)

    async def _live(self, name: str, task_status: trio.TaskStatus[Mesh]) -> None:
        with trio.CancelScope() as self._lives[name]:
            async with open_mesh(name) as mesh:
                task_status.started(mesh)
                await trio.sleep_forever()

    def link(self, one: str, other: str, cost: float = 1.0) -> None:
        key = pair(one, other)
        near, far = memory_link_pair(f"{one}-{other}")
        ends = self._ends[key] = (TalliedLink(near, self.tally), TalliedLink(far, self.tally))
        self.links[key] = cost
        for name, end in zip(key, ends, strict=True):
            mesh = self.nodes[name]
            mesh._nursery.start_soon(mesh.run_link, end, LinkPolicy(cost))

    async def cut(self, one: str, other: str) -> None:
        """End a link as a closed socket does: both ends see it at once."""
        key = pair(one, other)
        del self.links[key]
        for end in self._ends.pop(key):
            await end.aclose()

    def silence(self, one: str, other: str) -> None:
        """Cut a link as a lost cable does: nobody is told."""
        key = pair(one, other)
        del self.links[key]
        for end in self._ends.pop(key):
            end.deaf = True

    def stop(self, name: str) -> None:
        """End a node."""
        del self.nodes[name]
        self._lives.pop(name).cancel()
        for key in [k for k in self.links if name in k]:
            del self.links[key], self._ends[key]

    # --- what must come of it ----------------------------------------------------------------

    def distances(self, source: str) -> dict[str, float]:
        """Return what the cheapest way to each node that can be reached costs."""
        peers: dict[str, dict[str, float]] = {name: {} for name in self.nodes}
        for (one, other), cost in self.links.items():
            peers[one][other] = peers[other][one] = cost
        found: dict[str, float] = {}
        queue = [(0.0, source)]
        while queue:
            distance, node = heapq.heappop(queue)
            if node not in found:
                found[node] = distance
                for peer, cost in peers[node].items():
                    heapq.heappush(queue, (distance + cost, peer))
        return found

    async def settle(self) -> float:
        """Wait until each node has routes to just those it can reach; return when, by the clock."""
        component: dict[str, set[str]] = {}
        for name in self.nodes:
            if name not in component:
                members = set(self.distances(name))
                component.update(dict.fromkeys(members, members))
        async with trio.open_nursery() as nursery:
            for name, mesh in self.nodes.items():
                nursery.start_soon(wait_for_routes, mesh, component[name] - {name})
        return trio.current_time()

    def faults(self) -> list[str]:
        """Return every pair whose route is missing, superfluous or not on a cheapest way.

        That each hop is one shorter of a cheapest way also means that no message can circle.
        """
        distances = {name: self.distances(name) for name in self.nodes}
        faults = []
        for name, mesh in self.nodes.items():
            routes = mesh._link_state.routes
            if routes.keys() != distances[name].keys() - {name}:
                faults.append(f"{name} reaches {sorted(routes)}")
                continue
            for target, hop in routes.items():
                step = self.links.get(pair(name, hop))
                if step is None or step + distances[hop][target] != distances[name][target]:
                    faults.append(f"{name} sends what is for {target} to {hop}")
        return faults


async def wait_for_routes(mesh: Mesh, targets: set[str]) -> None:
    while mesh._link_state.routes.keys() != targets:
        await mesh.wait_routes_changed()


@contextmanager
def cheap_nodes() -> Iterator[None]:
    """Leave out of a simulation what only many nodes in one process make dear.

    A node hashes each name once; here all share the results. And the collector of cycles would
    walk through the whole mesh time and again.
    """
    hashed = functools.cache(namehash.name_hash)
    with patch.object(namehash, "name_hash", hashed):
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


@asynccontextmanager
async def world(names: Iterable[str], links: dict[Pair, float]) -> AsyncIterator[World]:
    """Start these nodes, and then all links between them at the same moment."""
    with cheap_nodes():
        async with trio.open_nursery() as nursery:
            simulated = World(nursery)
            await simulated.start(names)
            for (one, other), cost in links.items():
                simulated.link(one, other, cost)
            yield simulated
            nursery.cancel_scope.cancel()


# --- shapes ----------------------------------------------------------------------------------


def node_names(count: int) -> list[str]:
    return [f"n{number:04}" for number in range(count)]


def ring_with_chords(count: int, links: int, seed: int = 1) -> dict[Pair, float]:
    """Return a ring and random chords, ``links`` in all, with costs of 1 to 4."""
    chance = random.Random(seed)
    names = node_names(count)
    pairs = {pair(names[i], names[i - 1]): float(chance.randint(1, 4)) for i in range(count)}
    while len(pairs) < links:
        pairs.setdefault(pair(*chance.sample(names, 2)), float(chance.randint(1, 4)))
    return pairs


def tree(count: int, branches: int = 3) -> dict[Pair, float]:
    names = node_names(count)
    return {pair(names[i], names[(i - 1) // branches]): 1.0 for i in range(1, count)}


def full_mesh(count: int) -> dict[Pair, float]:
    names = node_names(count)
    return {(a, b): 1.0 for i, a in enumerate(names) for b in names[i + 1 :]}
