"""Listeners and dialers can be taken away from a mesh, with their links and no others."""

import logging
import socket

import pytest
import trio
import trio.testing
from descriptor_limits import descriptors_left
from mesh_helpers import join, meshes

from meshnode.mesh.links.memory import MemoryDialer, MemoryLink, MemoryListener
from meshnode.mesh.links.tcp import TcpDialer
from meshnode.mesh.links.udp import UdpDialer
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers import places
from meshnode.mesh.peers.endpoints import REDIAL_FIRST, REDIAL_JITTER, REDIAL_MOST, redial_delay
from meshnode.mesh.peers.session import LASTING
from meshnode.policies import LinkPolicy
from meshnode.resources import DescriptorReserve


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


# --- dialing again -------------------------------------------------------------------------------


class CountingDialer(MemoryDialer):
    """Notes when it was asked to dial."""

    def __init__(self, listener: MemoryListener) -> None:
        super().__init__(listener)
        self.dialed: list[float] = []

    async def dial(self) -> MemoryLink:
        self.dialed.append(trio.current_time())
        return await super().dial()


def of_level(caplog, level: int) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == level and r.name == "meshnode"]


@pytest.mark.parametrize(
    ("policy", "here", "there"),
    [
        (LinkPolicy(7.0), "rejected it: cost 7 here, 1 there", "cost 1 here, 7 there"),
        (LinkPolicy(allowed_peers=frozenset({"baz"})), "rejected us", "is not in allowedpeers"),
    ],
    ids=["cost", "allowedpeers"],
)
async def test_a_refused_link_is_dialed_ever_less_and_told_once(
    policy, here, there, autojump_clock, caplog
):
    caplog.set_level(logging.INFO, "meshnode")
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        bar.add_listener(place, policy)
        dialer = CountingDialer(place)
        foo.add_dialer(dialer)
        await trio.sleep(600)
        assert 600 / REDIAL_MOST <= len(dialer.dialed) <= 600 / REDIAL_MOST / 0.8 + 10
        told = [text for text in of_level(caplog, logging.WARNING) if "closed" in text]
        assert 1 <= len(told) <= 2
        assert len(set(told)) == len(told)
        assert any(here in text or there in text for text in told)
        # Beside that, that it listens.
        assert len(caplog.messages) == len(told) + 1


async def test_routes_that_change_and_stay_are_logged(autojump_clock, caplog):
    caplog.set_level(logging.INFO, "meshnode")
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        listening = bar.add_listener(place)
        foo.add_dialer(MemoryDialer(place), redial=False)
        await trio.sleep(5)
        await listening.aclose()
        await trio.sleep(5)
        routes = [text for text in caplog.messages if "routes changed" in text]
        assert sorted(routes[:2]) == [
            "mesh: routes changed: bar via bar",
            "mesh: routes changed: foo via foo",
        ]
        assert sorted(routes[2:]) == [
            "mesh: routes changed: bar gone",
            "mesh: routes changed: foo gone",
        ]


async def test_a_peer_that_goes_after_its_link_has_lasted_is_dialed_soon(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        listening = bar.add_listener(place, LinkPolicy(7.0))
        dialer = CountingDialer(place)
        foo.add_dialer(dialer)
        await trio.sleep(100)
        await listening.set_policy(LinkPolicy(), "they agree now")
        await foo.wait_reachable("bar")
        await trio.sleep(LASTING + 1)
        before = trio.current_time()
        await listening.set_policy(LinkPolicy(), "a break")
        await trio.sleep(2 * REDIAL_FIRST)
        assert [at for at in dialer.dialed if at > before]
        assert peers(foo) == {"bar"}


async def test_a_peer_that_comes_and_goes_at_once_is_dialed_ever_less(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        listening = bar.add_listener(place)
        dialer = CountingDialer(place)
        foo.add_dialer(dialer)
        pauses = []
        for _ in range(12):
            await foo.wait_reachable("bar")
            ended = trio.current_time()
            await listening.set_policy(LinkPolicy(), "again")
            count = len(dialer.dialed)
            while len(dialer.dialed) == count:
                await trio.sleep(0.1)
            pauses.append(dialer.dialed[-1] - ended)
        assert pauses[0] <= REDIAL_FIRST
        assert pauses[-1] >= REDIAL_MOST * 0.8


class BrokenDialer(MemoryDialer):
    """Fails as no dialer should, for some attempts."""

    attempts = 0

    async def dial(self) -> MemoryLink:
        self.attempts += 1
        if self.attempts < 4:
            raise IndexError("in some library")
        return await super().dial()


async def test_a_fault_of_a_dialer_costs_an_attempt_and_not_the_node(autojump_clock, caplog):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        bar.add_listener(place)
        foo.add_dialer(BrokenDialer(place))
        await foo.wait_reachable("bar")
        assert sum("a fault of this node" in text for text in caplog.messages) == 1


@pytest.mark.parametrize("kind", ["tcp", "udp"])
async def test_a_peer_is_dialed_although_others_have_all_descriptors(kind):
    listens = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, listens) as far:
        far.bind(("127.0.0.1", 0))
        if kind == "tcp":
            far.listen()
        address = far.getsockname()
        dialer = TcpDialer(*address) if kind == "tcp" else UdpDialer(*address)
        reserve = DescriptorReserve(4)
        async with open_mesh("foo", reserve=reserve) as foo:
            with descriptors_left(0):
                foo.add_dialer(dialer)
                with trio.fail_after(60):
                    while not list(foo.sessions):
                        await trio.testing.wait_all_tasks_blocked(cushion=0.01)
                assert 0 < len(reserve) < 4
        reserve.close()


# --- too many ------------------------------------------------------------------------------------


async def test_silent_connections_give_way_to_who_comes_to_talk(autojump_clock, caplog):
    async with meshes("foo", "honest", "late") as (foo, honest, late):
        place = MemoryListener("place")
        foo.add_listener(place)
        honest.add_dialer(MemoryDialer(place))
        await foo.wait_reachable("honest")
        for turn in range(3):
            for _ in range(540 if turn == 0 else 60):
                place.connect()
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            assert foo.places.opening <= places.MAX_OPENING
            assert foo.places.up == 1
        before = trio.current_time()
        late.add_dialer(MemoryDialer(place))
        await foo.wait_reachable("late")
        await late.wait_reachable("honest")
        assert trio.current_time() < before + 1
        assert peers(foo) == {"honest", "late"}
        rejected = [text for text in caplog.messages if "handshakes already in progress" in text]
        assert rejected[0] == (
            "listener memory place: rejected memory place.b: 512 handshakes already in progress"
        )
        await trio.sleep(30)
        assert foo.places.opening == 0
        assert peers(foo) == {"honest", "late"}


async def test_nodes_that_are_dialed_need_no_place(autojump_clock, monkeypatch):
    monkeypatch.setattr(places, "MAX_OPENING", 4)
    async with meshes("foo", "bar") as (foo, bar):
        place, far = MemoryListener("place"), MemoryListener("far")
        foo.add_listener(place)
        bar.add_listener(far)
        for _ in range(20):
            place.connect()
        await trio.testing.wait_all_tasks_blocked()
        foo.add_dialer(MemoryDialer(far))
        await foo.wait_reachable("bar")
        assert foo.places.up == 0


async def test_links_that_are_up_are_bounded_and_the_first_ones_stay(autojump_clock, monkeypatch):
    monkeypatch.setattr(places, "MAX_LINKS", 16)
    names = [f"n{number}" for number in range(30)]
    async with meshes("foo", *names) as (foo, *others):
        place = MemoryListener("place")
        foo.add_listener(place)
        for other in others:
            other.add_dialer(MemoryDialer(place), redial=False)
            await trio.sleep(1)
        most = 16 - 16 // places.KEPT
        assert peers(foo) == set(names[:most])
        assert foo.places.up == most


async def test_who_has_been_linked_for_long_finds_a_place_again(autojump_clock, monkeypatch):
    monkeypatch.setattr(places, "MAX_LINKS", 8)
    async with meshes("foo", "honest", *[f"n{number}" for number in range(20)]) as nodes:
        foo, honest, *others = nodes
        place, elsewhere = MemoryListener("place"), MemoryListener("elsewhere", holder="10.0.0.7")
        foo.add_listener(place)
        listening = foo.add_listener(elsewhere)
        honest.add_dialer(MemoryDialer(elsewhere))
        await foo.wait_reachable("honest")
        await trio.sleep(LASTING + 1)
        await listening.set_policy(LinkPolicy(), "a cut")
        for other in others:
            other.add_dialer(MemoryDialer(place))
        await trio.sleep(60)
        assert "honest" in peers(foo)
        assert len(peers(foo)) == 8


# --- redialing -----------------------------------------------------------------------------------


def test_pauses_grow_to_their_bound_and_never_vanish():
    for failures in (1, 2, 5, 10, 1000, 10**9):
        for _ in range(20):
            assert REDIAL_FIRST * (1 - REDIAL_JITTER) <= redial_delay(failures) <= REDIAL_MOST
    assert redial_delay(1) <= REDIAL_FIRST
    assert redial_delay(100) >= REDIAL_MOST * (1 - REDIAL_JITTER)
