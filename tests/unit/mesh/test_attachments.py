"""Listeners and dialers can be taken away from a mesh, with their links and no others."""

import trio
from mesh_helpers import join, meshes

from meshnode.mesh.links.memory import MemoryDialer, MemoryListener
from meshnode.mesh.mesh import Mesh
from meshnode.protocol.peering import LinkPolicy


def peers(mesh: Mesh) -> set[str]:
    return {connection.peer for connection in mesh.status().connections}


async def test_closing_a_listener_ends_its_links_and_no_others(autojump_clock):
    async with meshes("foo", "one", "two", "other") as (foo, one, two, other):
        place = MemoryListener("place")
        listening = foo.add_listener(place)
        one.add_dialer(MemoryDialer(place))
        two.add_dialer(MemoryDialer(place))
        join(foo, other)
        for node in (one, two, other):
            await foo.wait_reachable(node.node_id)
        await listening.aclose()
        assert peers(foo) == {"other"}
        await trio.sleep(60)
        assert peers(foo) == {"other"}
        assert peers(one) == peers(two) == set()


async def test_closing_a_dialer_ends_its_link_for_good(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        bar.add_listener(place)
        dialing = foo.add_dialer(MemoryDialer(place))
        await foo.wait_reachable("bar")
        await dialing.aclose()
        assert peers(foo) == set()
        await trio.sleep(60)
        assert peers(foo) == peers(bar) == set()


async def test_a_dialer_that_waits_to_dial_again_can_be_closed(autojump_clock):
    async with meshes("foo") as (foo,):
        nowhere = MemoryListener("nowhere")
        await nowhere.aclose()
        dialing = foo.add_dialer(MemoryDialer(nowhere))
        await trio.sleep(1)
        before = trio.current_time()
        await dialing.aclose()
        assert trio.current_time() == before


async def test_a_dialer_can_be_closed_before_it_has_begun(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        bar.add_listener(place)
        await foo.add_dialer(MemoryDialer(place)).aclose()
        await trio.sleep(60)
        assert peers(bar) == set()


async def test_another_policy_ends_the_links_of_the_old_one_and_keeps_the_listener(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        listening = foo.add_listener(place)
        bar.add_dialer(MemoryDialer(place), LinkPolicy(7.0))
        await trio.sleep(5)
        assert peers(foo) == set()  # the two ends disagree about the cost
        await listening.set_policy(LinkPolicy(7.0), "the cost changed")
        await foo.wait_reachable("bar")
        assert foo.status().known_costs["foo"] == {"bar": 7.0}
        await listening.set_policy(LinkPolicy(7.0, allowed_peers=frozenset({"baz"})), "bar may not")
        assert peers(foo) == set()
        await trio.sleep(60)
        assert peers(foo) == set()


async def test_a_link_that_is_still_opening_ends_with_its_listener(autojump_clock):
    async with meshes("foo") as (foo,):
        place = MemoryListener("place")
        listening = foo.add_listener(place)
        link = place.connect()
        await trio.testing.wait_all_tasks_blocked()
        assert len(list(foo.sessions)) == 1
        await listening.aclose()
        assert list(foo.sessions) == []
        while await link.receive():
            pass
