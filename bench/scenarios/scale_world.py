"""One simulated mesh, measured: ``python -m bench.scenarios.scale_world NODES LINKS``."""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio
import trio.testing

# The world that the tests of scale use (tests/unit/mesh/simulation.py).
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "unit" / "mesh"))

from simulation import World, node_names, ring_with_chords, world

from meshnode.mesh.mesh import Mesh
from meshnode.mesh.peers.session import PeerSession
from meshnode.protocol.routing import RoutingUpdate

QUIET = 60.0
"""Simulated seconds over which a quiet mesh is watched: the longest time between two updates."""

UNREST = 5.0
"""Simulated seconds after which nothing is said any more of what happened at their start."""

HEAL_STEP = 0.05
"""Simulated seconds between two looks at whether a mesh has healed."""

UPDATES = 20
"""Updates fed to one node to measure what one costs."""

ROUNDS = 20
"""Repetitions of which the quickest counts: what disturbs a measurement only adds to it."""


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def quickest(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes at best."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best


async def measure(nodes: int, links: int) -> dict[str, float]:
    before = resident()
    started = time.process_time()
    async with world(node_names(nodes), ring_with_chords(nodes, links)) as mesh:
        figures = await converge(mesh)
        gc.collect()
        figures["memory_mebibytes"] = (resident() - before) / nodes / 2**20
        figures |= await quiet(mesh)
        figures |= await heal(mesh)
        figures |= computation(mesh.nodes[node_names(nodes)[0]])
        figures["simulation_seconds"] = time.process_time() - started
        # Taking leave of a thousand nodes one by one would cost more than all the rest.
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()
        os._exit(0)


async def converge(mesh: World) -> dict[str, float]:
    start = trio.current_time()
    end = await mesh.settle()
    await trio.sleep(UNREST)
    return {
        "converge_seconds": end - start,
        "converge_messages": mesh.tally.messages / len(mesh.nodes),
        "converge_kilobytes": mesh.tally.bytes / 1000 / len(mesh.nodes),
    }


async def quiet(mesh: World) -> dict[str, float]:
    before = mesh.tally.copy()
    await trio.sleep(QUIET)
    sent = mesh.tally.since(before)
    return {
        "quiet_messages": sent.messages / len(mesh.nodes) / QUIET,
        "quiet_kilobytes": sent.bytes / 1000 / len(mesh.nodes) / QUIET,
    }


async def heal(mesh: World) -> dict[str, float]:
    """Cut the link that carries most of a node's routes; wait until all is well again."""
    name = next(iter(mesh.nodes))
    routes = list(mesh.nodes[name].status().routes.values())
    busiest = max(set(routes), key=routes.count)
    before = mesh.tally.copy()
    start = trio.current_time()
    await mesh.cut(name, busiest)
    while True:
        await trio.sleep(HEAL_STEP)
        if not mesh.faults():
            break
    healed = trio.current_time() - start
    await trio.sleep(UNREST)
    sent = mesh.tally.since(before).messages
    return {"heal_seconds": healed, "heal_messages": sent / len(mesh.nodes)}


def computation(mesh: Mesh) -> dict[str, float]:
    """Measure what one node computes, with the mesh standing still."""
    link_state = mesh._link_state
    topology = link_state.topology
    first, second, *_ = link_state.sessions.values()
    nodes = [n for n in topology.nodes if n not in (first.peer, second.peer)][:UPDATES]
    news = copies = float("inf")
    for number in range(ROUNDS):
        # Each round is news to the first link and another copy to the second.
        news = min(news, timed(first, updates(mesh, nodes, first.peer, number)))
        copies = min(copies, timed(second, updates(mesh, nodes, second.peer, number, again=True)))
    messages = updates(mesh, nodes, first.peer, ROUNDS)
    costs = list(topology.known_costs().values())
    return {
        "news_microseconds": 1e6 * news / len(nodes),
        "floor_news_microseconds": 1e6
        * quickest(lambda: [json.loads(bytes(m[1:])) for m in messages])
        / len(nodes),
        "copy_microseconds": 1e6 * copies / len(nodes),
        "routes_milliseconds": 1e3 * quickest(lambda: topology.routes(link_state.routes)),
        "floor_routes_milliseconds": 1e3
        * quickest(lambda: sum(cost for peers in costs for cost in peers.values())),
        "edges": float(sum(map(len, costs))),
    }


def updates(
    mesh: Mesh, nodes: list[str], via: str, number: int, again: bool = False
) -> list[memoryview]:
    """Return the next update of each node as a peer forwards it; ``again`` if it is known now."""
    messages = []
    for index, node in enumerate(nodes):
        message = mesh._link_state.topology.message_about(node)
        assert message is not None
        last = RoutingUpdate.decode(message)
        sequence = last.sequence if again else last.sequence + 1
        name = f"b{number:03}x{index:03}"
        update = RoutingUpdate(node, name, last.epoch, sequence, last.connections, via)
        messages.append(memoryview(bytearray(update.encode())))
    return messages


def timed(session: PeerSession, messages: list[memoryview]) -> float:
    """Return the seconds that a node takes for messages that a link brings."""
    start = time.perf_counter()
    for message in messages:
        session._handle(message)
    return time.perf_counter() - start


if __name__ == "__main__":
    trio.run(
        measure,
        int(sys.argv[1]),
        int(sys.argv[2]),
        clock=trio.testing.MockClock(autojump_threshold=0),
    )
