"""Nodes that find, lose and find each other again."""

import logging

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from mesh_helpers import all_reach_all, join, line, meshes

from meshnode.errors import DuplicateNode, MeshTimeout, NoRoute, ServiceInUse, Unreachable
from meshnode.mesh.dataplane import ReachableNodes
from meshnode.mesh.links.memory import (
    MemoryDialer,
    MemoryListener,
    memory_link_pair,
)
from meshnode.mesh.mesh import open_mesh
from meshnode.mesh.streams.layer import MANY_STREAMS
from meshnode.policies import LinkPolicy
from meshnode.protocol.messages import PROBLEM_SERVICE_UNKNOWN
from meshnode.protocol.namehash import NameTable
from meshnode.protocol.peering import HELLO_TRIES
from meshnode.protocol.routing import RoutingUpdate, WorkType


async def test_three_nodes_in_a_line_know_all(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, mid, bar):
        assert foo.status().routes == {"mid": "mid", "bar": "mid"}
        assert mid.status().routes == {"foo": "foo", "bar": "bar"}
        assert bar.status().routes == {"mid": "mid", "foo": "mid"}
        assert foo.status().known_costs == {
            "foo": {"mid": 1.0},
            "mid": {"foo": 1.0, "bar": 1.0},
            "bar": {"mid": 1.0},
        }


async def test_nodes_are_reachable_without_any_time_passing(autojump_clock):
    start = trio.current_time()
    async with line("a", "b", "c"):
        # Only the pause between two computations of routes may lie between.
        assert trio.current_time() - start < 0.5


async def test_a_ping_names_who_answered(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, _, _):
        assert (await foo.ping("bar")).from_node == "bar"
        assert (await foo.ping("foo")).from_node == "foo"
        assert (await foo.ping("LocalHost")).from_node == "foo"


async def test_a_ping_whose_hops_run_out_is_reported_by_who_saw_it(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, _, _):
        with pytest.raises(Unreachable, match="message expired") as caught:
            await foo.ping("bar", hops=1)
        assert caught.value.reporter == "mid"


async def test_a_traceroute_names_every_hop(autojump_clock):
    async with line("foo", "mid", "far", "bar") as (foo, *_):
        hops = [hop async for hop in foo.traceroute("bar")]
        assert [h.from_node for h in hops] == ["foo", "mid", "far", "bar"]
        assert [h.error for h in hops] == [None] * 4
        hops = [hop async for hop in foo.traceroute("foo")]
        assert [h.from_node for h in hops] == ["foo"]
        hops = [hop async for hop in foo.traceroute("nosuch")]
        assert [(h.from_node, h.error) for h in hops] == [
            ("foo", None),
            ("foo", "no route to node"),
        ]


async def test_who_mistypes_a_node_is_told_the_nearest_and_some_of_all(autojump_clock):
    names = [f"worker{number:02}" for number in range(12)]
    async with line("foo", *names) as (foo, *_):
        with pytest.raises(NoRoute) as caught:
            await foo.ping("wroker03")
        shown = ", ".join(names[:8])
        assert str(caught.value) == (
            f"no route to node wroker03; did you mean worker03? known nodes: {shown} and 4 more"
        )


@given(known=st.lists(st.text(max_size=255), max_size=400, unique=True), node=st.text())
def test_what_is_said_of_known_nodes_is_bounded_whatever_they_are_called(known, node):
    names = NameTable()
    text = ReachableNodes(names, [names.learn(name) for name in known]).advise(node)
    assert len(text) < 12 * 300


@pytest.mark.parametrize(
    ("node", "meant"),
    [
        ("wroker03", "worker03"),
        ("worker12", ""),  # one of a row, which is not here yet
        ("worker01", ""),  # known, and away
        ("another", ""),
    ],
)
def test_a_name_is_taken_for_mistyped_only_if_it_was_never_heard_and_is_none_of_a_row(node, meant):
    names = NameTable()
    names.learn("worker01")
    known = ReachableNodes(names, [names.learn(name) for name in ("worker02", "worker03")])
    assert known.meant(node) == meant


@given(known=st.lists(st.text(max_size=255), max_size=40, unique=True), node=st.text())
def test_what_was_meant_is_a_node_that_can_be_reached_or_nothing(known, node):
    names = NameTable()
    reachable = ReachableNodes(names, [names.learn(name) for name in known])
    assert reachable.meant(node) in {*known, ""} - {node} | {""}


async def test_there_is_no_route_to_a_stranger(autojump_clock):
    async with meshes("foo") as (foo,):
        with pytest.raises(NoRoute):
            await foo.ping("bar")
        with pytest.raises(NoRoute):
            await foo.dial("bar", "control")


async def test_a_ping_that_nobody_answers_times_out(autojump_clock):
    async with meshes("foo") as (foo,):
        near, far = memory_link_pair()
        foo._nursery.start_soon(foo.run_link, near)
        hello = RoutingUpdate("mute", "i1", 1, 1, {}, "mute")
        await far.send([hello.encode()])
        await foo.wait_reachable("mute")
        with pytest.raises(MeshTimeout):
            await foo.ping("mute")


async def test_a_ping_that_is_lost_is_sent_again(autojump_clock):
    lost = []

    def lose_first_ping(messages):
        kept = [m for m in messages if lost or m[0] != 0]
        lost.extend(m for m in messages if m not in kept)
        return kept

    async with meshes("foo", "bar") as (foo, bar):
        join(foo, bar, loss=lose_first_ping)
        await all_reach_all((foo, bar))
        reply = await foo.ping("bar")
        assert lost
        assert reply.from_node == "bar"
        assert reply.seconds < 1


async def test_the_cheaper_way_round_a_ring_is_taken(autojump_clock):
    async with meshes("a", "b", "c", "d") as (a, b, c, d):
        for one, other, cost in ((a, b, 1), (b, c, 1), (c, d, 1), (d, a, 10)):
            join(one, other, cost)
        await all_reach_all((a, b, c, d))
        await trio.sleep(1)
        assert [h.from_node async for h in a.traceroute("d")] == ["a", "b", "c", "d"]


async def test_a_ring_heals_when_a_node_goes(autojump_clock):
    async with meshes("a", "c", "d") as (a, c, d), trio.open_nursery() as nursery:
        async with open_mesh("b") as b:
            for one, other in ((a, b), (b, c), (c, d), (d, a)):
                join(one, other)
            await all_reach_all((a, b, c, d))
            await trio.sleep(1)  # until the last link's routes are computed, too
            assert a.status().routes["c"] == "b"
        nursery.start_soon(all_reach_all, (a, c, d))
        await trio.sleep(1)
        assert a.status().routes == {"c": "d", "d": "d"}
        assert (await a.ping("c")).from_node == "c"


async def test_a_silent_node_is_given_up_and_a_talking_one_is_not(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        join(foo, bar)
        near, far = memory_link_pair()
        foo._nursery.start_soon(foo.run_link, near)
        await far.send([RoutingUpdate("mute", "i1", 1, 1, {}, "mute").encode()])
        await all_reach_all((foo, bar))
        await foo.wait_reachable("mute")
        await trio.sleep(60)
        assert list(foo.status().routes) == ["bar"]


async def test_a_dialer_comes_back_after_the_listener_did(autojump_clock):
    async with meshes("foo") as (foo,):
        place = MemoryListener("place")
        foo.add_dialer(MemoryDialer(place))
        async with open_mesh("bar") as bar:
            bar.add_listener(place)
            await foo.wait_reachable("bar")
        assert foo.status().routes == {}
        again = MemoryListener("place")
        place.connect = again.connect
        async with open_mesh("bar") as bar:
            bar.add_listener(again)
            await foo.wait_reachable("bar")
            assert (await foo.ping("bar")).from_node == "bar"


async def test_a_newcomer_with_a_used_name_ends(autojump_clock):
    async with line("foo", "mid", "end") as (_, _, end):
        await trio.sleep(1.5)  # the epoch of the newcomer must be a later second
        with pytest.RaisesGroup(
            pytest.RaisesExc(DuplicateNode, match="foo"), flatten_subgroups=True
        ):
            async with open_mesh("foo") as newcomer:
                newcomer._link_state.topology.own.epoch += 1 << 24
                join(end, newcomer)
                await trio.sleep(30)


async def test_a_peer_that_is_not_allowed_is_rejected(autojump_clock, caplog):
    async with meshes("foo", "bar") as (foo, bar):
        near, far = memory_link_pair()
        with caplog.at_level(logging.WARNING, "meshnode"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(foo.run_link, near, LinkPolicy(allowed_peers=frozenset({"baz"})))
                nursery.start_soon(bar.run_link, far)
        assert foo.status().connections == ()
    assert "bar is not in allowedpeers" in caplog.text
    assert "the peer rejected us" in caplog.text


async def test_ends_that_disagree_about_the_cost_are_not_linked(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        near, far = memory_link_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(foo.run_link, near, LinkPolicy(1.0))
            nursery.start_soon(bar.run_link, far, LinkPolicy(2.0))
        assert foo.status().connections == bar.status().connections == ()


async def test_a_second_link_to_the_same_node_is_refused_and_the_first_lives(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        join(foo, bar)
        await all_reach_all((foo, bar))
        near, far = memory_link_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(foo.run_link, near)
            nursery.start_soon(bar.run_link, far)
        assert (await foo.ping("bar")).from_node == "bar"


async def test_a_peer_that_says_nothing_is_given_up(autojump_clock):
    async with meshes("foo") as (foo,):
        near, far = memory_link_pair()
        assert await foo.run_link(near) is False
        messages = await far.receive()
        while batch := await far.receive():
            messages += batch
        assert len(messages) == HELLO_TRIES


MALFORMED = [
    b"\x01",
    b"\x01{",
    b"\x01[]",
    b"\x01" + b"[" * 60_000,
    b'\x01{"NodeID":1}',
    b'\x01{"NodeID":"bar","ForwardingNode":"bar","UpdateEpoch":-1}',
    b"\x02nonsense",
    b"\x02" + bytes(60_000),
    b"\x00",
    b"\x00" * 35,
    b"\x00\xff\xff\xff",
]


@pytest.mark.parametrize("message", MALFORMED, ids=range(len(MALFORMED)))
@pytest.mark.parametrize("opened", [False, True], ids=["opening", "established"])
async def test_a_malformed_message_costs_only_its_link(message, opened, autojump_clock):
    async with line("foo", "good") as (foo, good):
        near, far = memory_link_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(foo.run_link, near)
            if opened:
                await far.send([RoutingUpdate("bad", "i1", 1, 1, {}, "bad").encode()])
                await foo.wait_reachable("bad")
            await far.send([message])
        assert (await good.ping("foo")).from_node == "foo"
        assert "bad" not in foo.status().routes


async def test_a_message_of_unknown_type_is_ignored(autojump_clock):
    async with meshes("foo") as (foo,):
        near, far = memory_link_pair()
        foo._nursery.start_soon(foo.run_link, near)
        await far.send([RoutingUpdate("odd", "i1", 1, 1, {}, "odd").encode()])
        await far.send([b"\x2aanything", b"\xff"])
        await trio.testing.wait_all_tasks_blocked()
        assert "odd" in foo.status().routes


async def test_data_for_nobody_we_know_is_dropped(autojump_clock):
    async with line("foo", "bar") as (_foo, bar):
        bar._link_state.sessions["foo"].sender.send_data(bytes([0, 5, 0, 0]) + b"\x01" * 32)
        assert (await bar.ping("foo")).from_node == "foo"


# --- datagrams and advertisements -------------------------------------------------------------


async def test_datagrams_pass_between_services(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, _, bar):
        with foo.open_datagrams("here") as here, bar.open_datagrams("there") as there:
            await here.send_to("bar", "there", b"hello")
            got = await there.receive()
            assert (got.node, got.service, got.payload) == ("foo", "here", b"hello")
            await there.send_to(got.node, got.service, b"")
            assert (await here.receive()).payload == b""


async def test_a_datagram_for_an_unknown_service_is_reported(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, _, _):
        with foo.open_datagrams() as socket:
            await socket.send_to("bar", "nobody", b"x")
            with pytest.raises(Unreachable, match=PROBLEM_SERVICE_UNKNOWN) as caught:
                await socket.receive()
            assert caught.value.reporter == "bar"


async def test_a_service_name_has_one_owner(autojump_clock):
    async with meshes("foo") as (foo,):
        with foo.open_datagrams("mine"):
            for taken in ("mine", "ping", "unreach"):
                with pytest.raises(ServiceInUse):
                    foo.open_datagrams(taken)
        with foo.open_datagrams("mine"):
            pass


async def test_a_socket_that_nobody_reads_keeps_what_fits_and_counts_the_rest(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        with foo.open_datagrams() as sender, bar.open_datagrams("sink") as sink:
            for number in range(1200):
                await sender.send_to("bar", "sink", b"%d" % number)
            await trio.sleep(1)
            assert sink.dropped == 200
            assert (await sink.receive()).payload == b"0"


async def test_services_are_known_to_who_is_there_and_to_who_comes_later(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen(
            "control", tags={"type": "Control Service"}, work_types=[WorkType("echo", False)]
        )
        await trio.sleep(0.1)
        (advert,) = foo.status().advertisements
        assert (advert.node_id, advert.service, advert.tags) == (
            "bar",
            "control",
            {"type": "Control Service"} | dict([MANY_STREAMS]),
        )
        assert advert.work_types == (WorkType("echo", False),)
        async with open_mesh("late") as late:
            join(late, foo)
            await late.wait_reachable("bar")
            await trio.sleep(0.1)
            assert [a.node_id for a in late.status().advertisements] == ["bar"]
        await listener.aclose()
        await trio.sleep(0.1)
        assert foo.status().advertisements == ()


async def test_the_services_of_a_gone_node_are_not_shown(autojump_clock):
    async with meshes("foo") as (foo,):
        async with open_mesh("bar") as bar:
            join(foo, bar)
            await bar.listen("control")
            await foo.wait_reachable("bar")
            await trio.sleep(0.1)
            assert len(foo.status().advertisements) == 1
        assert foo.status().advertisements == ()
