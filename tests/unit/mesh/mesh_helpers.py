"""Meshes within one process, for tests."""

import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from meshnode.mesh.links.memory import Loss, memory_link_pair
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.policies import LinkPolicy


@asynccontextmanager
async def meshes(*names: str) -> AsyncIterator[list[Mesh]]:
    """Open nodes that are not linked yet."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_mesh(name)) for name in names]


def join(a: Mesh, b: Mesh, cost: float = 1.0, loss: Loss | None = None) -> None:
    """Link two nodes for as long as both live."""
    near, far = memory_link_pair(f"{a.node_id}-{b.node_id}", loss)
    policy = LinkPolicy(cost)
    a._nursery.start_soon(a.run_link, near, policy)
    b._nursery.start_soon(b.run_link, far, policy)


@asynccontextmanager
async def line(*names: str, loss: Loss | None = None) -> AsyncIterator[list[Mesh]]:
    """Open nodes in a line, and wait until its ends know each other."""
    async with meshes(*names) as nodes:
        for a, b in itertools.pairwise(nodes):
            join(a, b, loss=loss)
        await all_reach_all(nodes)
        yield nodes


async def all_reach_all(nodes: Iterable[Mesh]) -> None:
    """Wait until every node has a route to every other."""
    nodes = list(nodes)
    for a in nodes:
        for b in nodes:
            await a.wait_reachable(b.node_id)
