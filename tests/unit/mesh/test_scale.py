"""Large meshes in one process: they find together, stay quiet, heal, and forget who is gone."""

import random
from contextlib import asynccontextmanager

import pytest
import trio
from simulation import full_mesh, node_names, ring_with_chords, tree, world

from meshnode.mesh.peers.own_updates import UPDATE_INTERVAL
from meshnode.mesh.peers.probes import PROBE_INTERVAL
from meshnode.mesh.peers.routes import FORGET_INTERVAL
from meshnode.protocol.peering import IDLE_TIMEOUT
from meshnode.protocol.reachability import FORGET_AFTER

SHAPES = {
    "ring with chords": (200, ring_with_chords(200, 300)),
    "tree": (200, tree(200)),
    "full mesh": (30, full_mesh(30)),
}

SOON = 0.5
"""Simulated seconds within which news that every node is told of at once is everywhere: on links
that take no time, only the pauses between computations of routes add up."""


@asynccontextmanager
async def settled(count, links):
    async with world(node_names(count), links) as simulated:
        await simulated.settle()
        yield simulated


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_mesh_finds_together_at_once_and_then_is_quiet(shape, autojump_clock):
    count, links = SHAPES[shape]
    async with world(node_names(count), links) as simulated:
        start = trio.current_time()
        assert await simulated.settle() - start < SOON
        await trio.sleep(SOON)
        assert simulated.faults() == []
        before = simulated.tally.copy()
        await trio.sleep(UPDATE_INTERVAL)
        sent = simulated.tally.since(before).messages
        # Of each node one update, which no link carries twice in one direction and which does not
        # go back to whom it came from; and the pings that measure the links, with their answers.
        updates = count * (2 * len(links) - count + 1)
        pings = 2 * 2 * len(links) * UPDATE_INTERVAL / PROBE_INTERVAL
        assert count <= sent <= 1.1 * updates + pings


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_mesh_heals_after_cuts_at_random_and_after_their_repair(seed, autojump_clock):
    chance = random.Random(seed)
    links = ring_with_chords(100, 150, seed)
    async with settled(100, links) as simulated:
        cuts = chance.sample(sorted(links), 50)
        for one, other in cuts:
            await simulated.cut(one, other)
        start = trio.current_time()
        await simulated.settle()
        assert trio.current_time() - start < SOON
        await trio.sleep(SOON)
        assert simulated.faults() == []
        for one, other in cuts:
            simulated.link(one, other, links[one, other])
        await simulated.settle()
        await trio.sleep(SOON)
        assert simulated.faults() == []


async def test_links_that_fall_silent_are_noticed_by_the_idle_time_out(autojump_clock):
    links = ring_with_chords(60, 100)
    async with settled(60, links) as simulated:
        for one, other in random.Random(4).sample(sorted(links), 30):
            simulated.silence(one, other)
        await trio.sleep(IDLE_TIMEOUT + SOON)
        await simulated.settle()
        await trio.sleep(SOON)
        assert simulated.faults() == []


async def test_two_halves_that_were_apart_know_each_others_news_when_one_link_joins_them(
    autojump_clock,
):
    halves = full_mesh(8)
    left = set(node_names(4))
    across = [p for p in halves if (p[0] in left) != (p[1] in left)]
    async with settled(8, halves) as simulated:
        for one, other in across:
            await simulated.cut(one, other)
        await simulated.settle()
        await simulated.cut("n0000", "n0001")
        await simulated.cut("n0006", "n0007")
        await trio.sleep(1)
        simulated.link("n0003", "n0004")
        await trio.sleep(SOON)
        assert simulated.faults() == []
        known = [mesh.status().known_costs for mesh in simulated.nodes.values()]
        assert all(costs == known[0] for costs in known)
        assert known[0]["n0000"] == {"n0002": 1.0, "n0003": 1.0}
        assert known[0]["n0007"] == {"n0004": 1.0, "n0005": 1.0}


async def test_who_is_gone_for_long_is_forgotten_by_all_and_who_returns_is_known(autojump_clock):
    links = ring_with_chords(12, 24)
    async with settled(12, links) as simulated:
        for mesh in simulated.nodes.values():
            await mesh.listen("svc")
        gone = node_names(12)[5:8]
        stays = simulated.nodes["n0000"]
        for name in gone:
            simulated.stop(name)
        await simulated.settle()
        await trio.sleep(FORGET_AFTER - FORGET_INTERVAL)
        assert set(gone) <= stays.status().known_costs.keys()
        await trio.sleep(3 * FORGET_INTERVAL)
        for mesh in simulated.nodes.values():
            link_state = mesh._link_state
            assert link_state.topology.nodes.isdisjoint(gone)
            assert set(gone).isdisjoint(link_state.adverts.nodes)
            assert not any(name in link_state._names for name in gone)
            assert set(gone).isdisjoint(mesh.status().known_costs)
        await simulated.start(gone[:1])
        simulated.link(gone[0], "n0000")
        await simulated.settle()
        assert (await simulated.nodes["n0010"].ping(gone[0])).from_node == gone[0]


async def test_the_dead_are_not_brought_back_by_who_still_remembers_them(autojump_clock):
    links = {("n0000", "n0001"): 1.0, ("n0001", "n0002"): 1.0}
    async with settled(3, links) as simulated:
        simulated.stop("n0002")
        await trio.sleep(FORGET_AFTER / 2)
        await simulated.start(["n0003"])
        simulated.link("n0003", "n0001")
        await simulated.settle()
        await trio.sleep(1)
        assert "n0002" not in simulated.nodes["n0003"].status().known_costs
        assert "n0002" in simulated.nodes["n0001"].status().known_costs


async def test_a_hub_whose_links_all_come_up_at_once_does_not_say_so_for_each(autojump_clock):
    spokes = {("n0000", name): 1.0 for name in node_names(41)[1:]}
    async with settled(41, spokes) as simulated:
        await trio.sleep(SOON)
        # Each link carries both hellos, the answers to them, and then each node's news a few
        # times: an own update of the hub for each link would make 40 * 40 of that alone.
        assert simulated.faults() == []
        hub = simulated.nodes["n0000"]
        assert hub._link_state.topology.own.sequence < 3 * 40 + 10
        per_node = simulated.tally.messages / (41 * 41)
        assert per_node < 8


CLOCK_SET = 1 << 40
"""Added to an epoch: about 18 hours."""


async def do_anything(simulated, names, chance):
    """Do one thing that may happen to a mesh."""
    alive = sorted(simulated.nodes)
    gone = sorted(set(names) - set(alive))
    what = chance.random()
    if what < 0.35 and simulated.links:
        await simulated.cut(*chance.choice(sorted(simulated.links)))
    elif what < 0.45 and simulated.links:
        simulated.silence(*chance.choice(sorted(simulated.links)))
    elif what < 0.75:
        one, other = sorted(chance.sample(alive, 2))
        if (one, other) not in simulated.links:
            simulated.link(one, other, float(chance.randint(1, 4)))
    elif what < 0.85 and len(alive) > 4:
        simulated.stop(chance.choice(alive))
    elif gone:
        name = chance.choice(gone)
        await simulated.start([name])
        link_state = simulated.nodes[name]._link_state
        link_state.topology.own.epoch += chance.choice([0, 0, CLOCK_SET, -CLOCK_SET])
        for other in chance.sample(alive, 2):
            simulated.link(name, other, float(chance.randint(1, 4)))


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_to_a_mesh_all_is_right_soon_after(seed, autojump_clock):
    chance = random.Random(seed)
    names = node_names(12)
    async with world(names, ring_with_chords(12, 20, seed)) as simulated:
        for _ in range(40):
            await do_anything(simulated, names, chance)
            await trio.sleep(chance.choice([0, 0.01, 0.1, 1, 15]))
        await trio.sleep(2 * IDLE_TIMEOUT)
        for one, other in list(simulated.links):
            # A new link is refused while its silenced forerunner is not yet known to be dead.
            if other not in simulated.nodes[one]._link_state.sessions:
                del simulated.links[one, other]
        assert simulated.faults() == []
