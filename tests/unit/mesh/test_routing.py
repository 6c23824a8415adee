"""What nodes remember of each other, and for how long."""

import logging
import time

import pytest
import trio
from mesh_helpers import all_reach_all, join, line, meshes

from meshnode.errors import DuplicateNode
from meshnode.mesh.links.memory import MemoryDialer, MemoryListener, memory_link_pair
from meshnode.mesh.mesh import open_mesh
from meshnode.mesh.peers import own_services, own_updates, routes
from meshnode.mesh.peers.own_updates import new_epoch
from meshnode.protocol.adverts import ADVERTISEMENT_LIFETIME
from meshnode.protocol.peering import IDLE_TIMEOUT
from meshnode.protocol.routing import RoutingUpdate, ServiceAdvertisement
from meshnode.protocol.times import CLOCK_AHEAD

LATER_START = 1 << 40
"""Added to an epoch: about 18 hours."""


async def drain(link, into):
    """Read a link for ever; keep its routing updates."""
    while batch := await link.receive():
        into += [RoutingUpdate.decode(m) for m in batch if m[0] == 1]


async def test_a_node_that_comes_back_with_its_clock_set_back_is_listened_to(autojump_clock):
    async with line("near", "mid", "far") as (near, mid, far):
        async with open_mesh("x") as x:
            x._link_state.topology.own.epoch += LATER_START
            join(x, near)
            await all_reach_all((near, mid, far, x))
        async with open_mesh("x") as x:
            join(x, near)
            await trio.sleep(1)
            # A link that the former life did not have shows whose word counts.
            join(x, far, cost=0.5)
            await trio.sleep(1)
            assert mid.status().known_costs["x"] == {"near": 1.0, "far": 0.5}
            assert mid._link_state.topology.epoch_of("x") == x._link_state.topology.own.epoch
            assert (await mid.ping("x")).from_node == "x"


async def test_services_of_a_node_whose_clock_was_set_back_are_known_again(
    autojump_clock, monkeypatch
):
    ahead = time.time_ns() + CLOCK_AHEAD // 2
    async with line("foo", "mid") as (foo, mid):
        async with open_mesh("x") as x:
            x._link_state.topology.own.epoch += LATER_START
            monkeypatch.setattr(own_services.time, "time_ns", lambda: ahead)
            join(x, mid)
            await x.listen("old")
            await x.listen("both")
            await foo.wait_reachable("x")
            await trio.sleep(1)
        monkeypatch.undo()
        async with open_mesh("x") as x:
            join(x, mid)
            await x.listen("both")
            await trio.sleep(1)
            assert [a.service for a in foo.status().advertisements] == ["both"]


async def test_a_service_whose_withdrawal_was_lost_goes_all_the_same(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        stale = ServiceAdvertisement("foo", "svc", "2026-11-22T00:00:00Z", 1)
        bar._link_state.adverts.apply(stale, trio.current_time())
        await foo.listen("kept")
        await trio.sleep(1)
        assert {a.service for a in bar.status().advertisements} == {"svc", "kept"}
        await trio.sleep(ADVERTISEMENT_LIFETIME + routes.FORGET_INTERVAL)
        assert {a.service for a in bar.status().advertisements} == {"kept"}


async def test_in_a_large_mesh_quiet_nodes_repeat_themselves_to_their_peers_only(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(own_updates, "NODES_REFRESHED", 0.01)  # three nodes are a large mesh
    async with line("a", "b", "c") as (a, b, c):
        await trio.sleep(5)
        before = [n._link_state.topology.own.sequence for n in (a, b, c)]
        received = c._link_state.sessions["b"].figures().received_messages
        await trio.sleep(IDLE_TIMEOUT)
        assert [n._link_state.topology.own.sequence for n in (a, b, c)] == before
        # Only b's own word came, every ten seconds, and a's and b's pings did not.
        more = c._link_state.sessions["b"].figures().received_messages - received
        assert more <= 2 + 2
        await trio.sleep(own_updates.LONGEST_REFRESH)
        assert [n._link_state.topology.own.sequence for n in (a, b, c)] > before
        assert a.status().routes == {"b": "b", "c": "b"}


async def test_every_copy_but_the_first_is_ignored_and_a_peers_own_word_never_is(autojump_clock):
    async with meshes("foo") as (foo,):
        near, far = memory_link_pair()
        heard = []
        foo._nursery.start_soon(foo.run_link, near)
        foo._nursery.start_soon(drain, far, heard)
        await far.send([RoutingUpdate("bar", "i1", 1, 1, {}, "bar").encode()])
        mine = RoutingUpdate("bar", "i2", 1, 2, {"foo": 1.0}, "bar")
        other = RoutingUpdate("baz", "i3", 1, 1, {"bar": 1.0}, "bar")
        await far.send([mine.encode(), other.encode()])
        await trio.sleep(1)
        news = RoutingUpdate("baz", "i3", 1, 2, {"bar": 9.0}, "bar")
        await far.send([news.encode()])
        await trio.sleep(1)
        assert foo._link_state.topology.known_costs()["baz"] == {}
        assert foo.status().known_costs["bar"] == {"foo": 1.0}
        # The same UpdateID again, but now the peer says that there is no link.
        await far.send([RoutingUpdate("bar", "i2", 1, 3, {}, "bar").encode()])
        await trio.sleep(1)
        assert foo.status().connections == ()


async def test_a_node_that_is_known_with_a_later_start_says_so_once_it_is_shown(
    autojump_clock, caplog
):
    async with meshes("foo") as (foo,):
        near, far = memory_link_pair()
        heard = []
        foo._nursery.start_soon(foo.run_link, near)
        foo._nursery.start_soon(drain, far, heard)
        await far.send([RoutingUpdate("bar", "i1", 1, 1, {}, "bar").encode()])
        later = foo._link_state.topology.own.epoch + LATER_START
        with caplog.at_level(logging.ERROR, "meshnode"):
            await far.send([RoutingUpdate("foo", "i2", later, 1, {}, "bar").encode()])
            await trio.sleep(1)
        assert "clock" in caplog.text
        (claim,) = [u for u in heard if u.suspected_duplicate]
        assert claim.suspected_duplicate == later
        assert heard[-1].suspected_duplicate == 0
        assert heard[-1].sequence > claim.sequence


async def test_of_two_nodes_with_one_name_at_one_neighbour_the_newcomer_ends(autojump_clock):
    async with line("foo", "hub") as (foo, hub):
        place = MemoryListener("place")
        hub.add_listener(place)
        with pytest.RaisesGroup(
            pytest.RaisesExc(DuplicateNode, match="foo"), flatten_subgroups=True
        ):
            async with open_mesh("foo") as newcomer:
                newcomer._link_state.topology.own.epoch += LATER_START
                newcomer.add_dialer(MemoryDialer(place))
                await trio.sleep(30)
        assert (await foo.ping("hub")).from_node == "hub"


async def test_a_restarted_node_whose_old_link_is_not_yet_seen_to_be_dead_gets_in_later(
    autojump_clock,
):
    async with meshes("hub") as (hub,):
        near, far = memory_link_pair("left by a crash")
        hub._nursery.start_soon(hub.run_link, near)
        await far.send([RoutingUpdate("foo", "i1", 1, 1, {}, "foo").encode()])
        await far.send([RoutingUpdate("foo", "i2", 1, 2, {"hub": 1.0}, "foo").encode()])
        await hub.wait_reachable("foo")
        place = MemoryListener("place")
        hub.add_listener(place)
        async with open_mesh("foo") as foo:
            foo.add_dialer(MemoryDialer(place))
            await trio.sleep(1)
            assert foo.status().connections == ()
            await trio.sleep(2 * IDLE_TIMEOUT)
            assert (await foo.ping("hub")).from_node == "hub"


def test_of_two_starts_the_later_has_the_later_epoch():
    epochs = [new_epoch() for _ in range(100)]
    assert epochs == sorted(epochs)
    assert abs((epochs[0] >> 24) - time.time()) < 3600


async def test_names_that_are_only_dropped_are_not_kept(autojump_clock):
    async with meshes("foo") as (foo,):
        near, far = memory_link_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(foo.run_link, near)
            await far.send([RoutingUpdate("bar", "i1", 1, 1, {}, "bar").encode()])
            await foo.wait_reachable("bar")
            claim = RoutingUpdate("invented", "i2", 1, 1, {"x": 1.0}, "bar", suspected_duplicate=2)
            await far.send([claim.encode()])
            await trio.sleep(1)
            assert "bar" in foo._names
            assert "invented" not in foo._names
            await far.aclose()
        assert "bar" not in foo._names
