"""A link that takes nothing for a while: what others say of nodes does not pile up on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from mesh_helpers import meshes
from stranger import EPOCH, Stranger, stranger

from meshnode.mesh.links.memory import QUEUE_BATCHES, memory_link_pair
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.peers.flooding import BEHIND_BYTES
from meshnode.protocol.framing import MAX_MESSAGE

LONG = {f"{number:0250}": 1.0 for number in range(230)}
"""Links that fill an update."""


@asynccontextmanager
async def deaf(victim: Mesh, name: str) -> AsyncIterator[None]:
    """Link a peer to a node that reads nothing from here on."""
    near, far = memory_link_pair(name)
    for _ in range(QUEUE_BATCHES - 1):
        near._outgoing.send_nowait([b"\xff"])
    victim._nursery.start_soon(victim.run_link, near)
    await Stranger(name, victim.node_id, far).hello()
    await victim.wait_reachable(name)
    yield
    await far.aclose()


def waiting(victim: Mesh, peer: str) -> int:
    return victim._link_state.sessions[peer].sender._queue.routing_bytes


async def test_claims_that_a_peer_floods_do_not_pile_up_on_a_link_that_is_behind(autojump_clock):
    async with meshes("victim") as (victim,), stranger(victim) as enemy, deaf(victim, "slow"):
        for number in range(100):
            await enemy.say(enemy.update(f"n{number}", LONG, suspected=1))
        await trio.sleep(1)
        assert waiting(victim, "slow") <= BEHIND_BYTES + 2 * MAX_MESSAGE


async def test_newcomers_with_a_used_name_put_next_to_nothing_on_the_link_of_the_first(
    autojump_clock,
):
    async with meshes("victim") as (victim,), deaf(victim, "slow"):
        for number in range(60):
            near, far = memory_link_pair(f"twin{number}")
            victim._nursery.start_soon(victim.run_link, near)
            twin = Stranger("slow", "victim", far)
            await twin.say(twin.update("slow", LONG, epoch=EPOCH + 1 + number))
            await trio.sleep(0.1)
        assert waiting(victim, "slow") <= 12 * MAX_MESSAGE
