"""A peer that says as much as it can: what is kept and passed on is bounded, and nobody misses."""

import itertools
import time

import pytest
import trio
from mesh_helpers import all_reach_all, join, line, meshes
from stranger import EPOCH, stranger

from meshnode.mesh.links.memory import MemoryDialer, MemoryListener, memory_link_pair
from meshnode.mesh.peers import linkstate, own_updates, routes
from meshnode.protocol import adverts as adverts_module
from meshnode.protocol import intake, own_links
from meshnode.protocol import topology as topology_module
from meshnode.protocol.messages import UNREACHABLE_SERVICE, DataHeader, Unreachable, encode_service
from meshnode.protocol.namehash import name_hash
from meshnode.protocol.routing import RoutingUpdate, ServiceAdvertisement
from meshnode.protocol.times import format_time

TOPOLOGY_BYTES = 400_000
ADVERTS_BYTES = 200_000
NEWS_BURST = 600_000
NEWS_RATE = 20_000
"""Budgets and rates that these floods fill in a moment, and an honest mesh of four does not."""

SECONDS = 8
"""That a flood lasts."""

PING_WITHIN = 1.0


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch):
    for module, budget in ((topology_module, TOPOLOGY_BYTES), (adverts_module, ADVERTS_BYTES)):
        monkeypatch.setattr(
            module, "TOPOLOGY_BYTES" if module is topology_module else "ADVERTS_BYTES", budget
        )
        monkeypatch.setattr(module, "ROOM_MADE", budget // 16)
        monkeypatch.setattr(module, "UNREACHABLE_BYTES", budget // 8)
    monkeypatch.setattr(adverts_module, "NODE_ADVERTS_BYTES", ADVERTS_BYTES // 10)
    for name, bound in (("NEWS", NEWS_BURST), ("READ", 2 * NEWS_BURST)):
        monkeypatch.setattr(intake, f"{name}_BURST", bound)
        monkeypatch.setattr(intake, f"{name}_RATE", bound / NEWS_BURST * NEWS_RATE)
    monkeypatch.setattr(intake, "KEPT_FOR_KNOWN", NEWS_BURST // 6)


def new_nodes(other):
    for number in itertools.count():
        yield other.update(f"i{number}", {f"x{i}": 1.0 for i in range(20)})


def new_nodes_with_routes(other):
    for number in itertools.count():
        other.claims = dict(itertools.islice(other.claims.items(), 200)) | {f"r{number}": 1.0}
        yield other.update(f"r{number}", {other.name: 1.0})
        if number % 20 == 19:
            claims = {other.victim: 1.0, **other.claims}
            yield other.update(other.name, claims, sequence=10_000 + number)


def new_nodes_of_many_links(other):
    names = [f"m{number}" for number in range(500)]
    for turn in itertools.count(1):
        for name in names:
            yield other.update(name, dict.fromkeys(names[:300], 1.0), sequence=turn)


def new_services(other):
    for number in itertools.count():
        now = format_time(time.time_ns() + number)
        yield ServiceAdvertisement("stranger", f"s{number}"[:8], now, 1, {"type": "x" * 4000})


def services_of_new_nodes(other):
    for number in itertools.count():
        now = format_time(time.time_ns() + number)
        yield ServiceAdvertisement(f"j{number}", "control", now, 1, {"type": "x" * 1000})


def withdrawals(other):
    for number in itertools.count():
        now = format_time(time.time_ns() + number)
        yield ServiceAdvertisement(f"w{number}", "control", now, 1, cancel=True)


def words_about_an_honest_node(other):
    for number in itertools.count():
        yield other.update("far", {f"y{i}": 1.0 for i in range(number % 300)}, epoch=EPOCH + number)


FLOODS = [
    new_nodes,
    new_nodes_with_routes,
    new_nodes_of_many_links,
    new_services,
    services_of_new_nodes,
    withdrawals,
    words_about_an_honest_node,
]


async def pour(other, messages, seconds):
    """Send 100 messages a second: far more than is taken, and little work for a test."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        await other.say_all(itertools.islice(messages, 10))
        await trio.sleep(0.1)


def within_budgets(mesh):
    link_state = mesh._link_state
    assert link_state.topology.bytes <= TOPOLOGY_BYTES
    assert link_state.adverts.bytes <= ADVERTS_BYTES
    known = {mesh.node_id, *link_state.sessions, *link_state.topology.nodes}
    assert set(link_state._names._hashes) <= known
    assert len(link_state._names._hashes) == len(link_state._names._names)


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_takes_nothing_from_honest_nodes_and_is_given_back(flood, autojump_clock):
    async with line("near", "victim", "far") as (near, victim, far), meshes("new") as (new,):
        await far.listen("svc")
        links = [mesh.status().connections for mesh in (near, victim, far)]
        async with stranger(victim) as other:
            messages = flood(other)
            await pour(other, messages, SECONDS / 2)
            within_budgets(victim)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pour, other, messages, SECONDS / 2)
                await trio.sleep(1)
                # A new node is reached from everywhere, also where it comes in with the flood.
                join(new, victim)
                with trio.fail_after(SECONDS / 2):
                    await all_reach_all((near, victim, far, new))
                while nursery.child_tasks:
                    for one, another in itertools.permutations((near, far, new), 2):
                        with trio.fail_after(PING_WITHIN):
                            assert (await one.ping(another.node_id)).from_node == another.node_id
                    for mesh in (near, victim, far, new):
                        within_budgets(mesh)
                    await trio.sleep(1)
            assert "svc" in {a.service for a in near.status().advertisements if a.node_id == "far"}
            # No link was lost: those that there are have been there from the start.
            for mesh, before in zip((near, victim, far), links, strict=True):
                since = {c.peer: c.figures.since for c in mesh.status().connections}
                assert all(since[c.peer] == c.figures.since for c in before)
        await trio.sleep(4 * routes.FORGET_INTERVAL)
        for mesh in (near, victim, far):
            link_state = mesh._link_state
            within_budgets(mesh)
            assert link_state.topology.bytes <= TOPOLOGY_BYTES / 8 + 10_000
            assert link_state.adverts.bytes <= ADVERTS_BYTES / 8 + 10_000
            assert set(link_state._forgetting._absences._since) <= {
                *link_state.topology.nodes,
                *link_state.adverts.nodes,
            }


@pytest.mark.parametrize("flood", FLOODS)
async def test_what_is_passed_on_of_a_flood_is_bounded(flood, autojump_clock):
    async with (
        line("victim", "far") as (victim, _),
        stranger(victim) as other,
        stranger(victim, "witness") as witness,
    ):
        await trio.sleep(1)
        start = trio.current_time()
        heard = len(witness.heard)
        await pour(other, flood(other), SECONDS)
        spent = trio.current_time() - start
        passed_on = sum(map(len, witness.heard[heard:]))
        own = (spent / own_updates.UPDATE_INTERVAL + SECONDS) * 1000
        assert passed_on <= NEWS_BURST + NEWS_RATE * spent + own


async def test_ever_new_nodes_do_not_make_all_others_speak(autojump_clock):
    async with line("victim", "far") as (_, far), stranger(far) as other:
        await trio.sleep(1)
        before = [m._link_state.topology.own.sequence for m in (far,)]
        await pour(other, new_nodes(other), SECONDS)
        after = [m._link_state.topology.own.sequence for m in (far,)]
        most = SECONDS * (linkstate.GREETINGS_RATE + 1 / own_updates.UPDATE_INTERVAL)
        assert after[0] - before[0] <= most + linkstate.GREETINGS_AT_ONCE + 2


async def test_links_with_the_longest_names_leave_places_for_new_nodes_and_for_configured_ones(
    autojump_clock, monkeypatch
):
    for name in ("LINKS_BYTES", "LINKS_FOR_ANYBODY", "LINKS_OF_LONG_NAMES"):
        monkeypatch.setattr(own_links, name, getattr(own_links, name) // 20)
    async with (
        line("near", "victim") as (near, victim),
        meshes("new", "dialed") as (new, dialed),
        trio.open_nursery() as nursery,
    ):
        for number in range(20):
            link, far = memory_link_pair()
            name = f"{number:02}".ljust(255, "n")
            hello = RoutingUpdate(name, "i", EPOCH, 1, {"victim": 1.0}, name)
            nursery.start_soon(victim.run_link, link)
            await far.send([hello.encode()])
        await trio.sleep(1)
        assert 0 < len(victim.status().connections) - 1 < 20
        join(new, victim)
        with trio.fail_after(10):
            await all_reach_all((near, victim, new))
        number = 0
        while victim._link_state.has_place(f"ordinary-{number}", 1.0, expected=False):
            victim._link_state.topology.own.add(f"ordinary-{number}", 1.0)
            number += 1
        place = MemoryListener("place")
        dialed.add_listener(place)
        victim.add_dialer(MemoryDialer(place))
        with trio.fail_after(10):
            await all_reach_all((near, victim, new, dialed))
        nursery.cancel_scope.cancel()


async def test_names_that_only_notices_know_are_not_kept(autojump_clock):
    async with meshes("victim") as (victim,), stranger(victim) as other:
        receivers = [victim.open_datagrams("dgram"), await victim.listen("svc")]
        for service, number in itertools.product(("dgram", "svc"), range(50)):
            notice = Unreachable(
                "victim",
                f"invented-{number}",
                encode_service(service),
                encode_service("x"),
                "service unknown",
            )
            header = DataHeader(
                29,
                name_hash("stranger"),
                name_hash("victim"),
                UNREACHABLE_SERVICE,
                UNREACHABLE_SERVICE,
            )
            await other.say(header.encode() + notice.encode())
            # Also if the router should let it pass one day.
            for receiver in receivers:
                receiver.on_unreachable(notice, "stranger")
        await trio.sleep(1)
        assert victim._link_state._names._hashes.keys() == {"victim", "stranger"}
