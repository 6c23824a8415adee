"""Who comes new over UDP: nodes that know cookies, nodes that do not, and forgers."""

import socket
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
import trio.testing
from mesh_helpers import all_reach_all, join, meshes
from receptor_udp import PlainUdpDialer, ReceptorPeer

from meshnode.mesh.links.udp import UdpDialer
from meshnode.mesh.links.udp_listener import UdpListener
from meshnode.mesh.links.unproven import AMPLIFICATION, GIVEN_UP
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.session import LASTING
from meshnode.policies import LinkPolicy
from meshnode.protocol.messages import MessageType
from meshnode.protocol.peering import IDLE_TIMEOUT
from meshnode.protocol.routing import RoutingUpdate

PATIENCE = 60.0
"""Seconds after which a wait has failed; none takes as long."""


@pytest.fixture
def jumping_clock():
    """A clock that jumps when nothing happens, and gives datagrams time to arrive."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@asynccontextmanager
async def listening(victim: Mesh, policy: LinkPolicy | None = None):
    (listener,) = await UdpListener.open(0, "127.0.0.1")
    victim.add_listener(listener, policy)
    yield listener.port


async def fill(victim: Mesh, nodes: int) -> None:
    """Have a node know many others."""
    topology = victim._link_state.topology
    for number in range(nodes):
        name = f"known{number:04}"
        topology.apply(RoutingUpdate(name, name, 1, 1, {"victim": 1.0}, name), 0.0)
        topology.own.add(name, 1.0)


async def test_a_receptor_node_that_dials_is_linked_once_it_has_answered_a_ping(jumping_clock):
    async with open_mesh("victim") as victim, listening(victim) as port:
        peer = ReceptorPeer("receptor", port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run)
            with trio.fail_after(PATIENCE):
                await victim.wait_reachable("receptor")
            # It is told of our links, which it was not before it had answered.
            with trio.fail_after(PATIENCE):
                await peer.wait_heard(
                    lambda m: (
                        m[0] == MessageType.ROUTE
                        and "receptor" in RoutingUpdate.decode(m).connections
                    )
                )
            nursery.cancel_scope.cancel()


async def test_an_answer_that_comes_by_a_cheaper_way_is_one_too():
    dear = LinkPolicy(10.0)
    async with meshes("victim", "between", "plain") as (victim, between, plain):
        join(victim, between)
        join(between, plain)
        await all_reach_all([victim, between, plain])
        async with listening(victim, dear) as port:
            plain.add_dialer(PlainUdpDialer("127.0.0.1", port), dear)
            with trio.fail_after(PATIENCE):
                while "plain" not in {c.peer for c in victim.status().connections}:
                    await trio.testing.wait_all_tasks_blocked(cushion=0.01)


async def test_a_node_that_answers_no_ping_is_told_no_more_than_who_we_are(jumping_clock):
    async with open_mesh("victim") as victim, listening(victim) as port:
        await fill(victim, 1000)
        peer = ReceptorPeer("deaf", port, answers=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run)
            await trio.sleep(GIVEN_UP + 60)
            nursery.cancel_scope.cancel()
        assert peer.linked.is_set()
        assert sum(map(len, peer.heard)) <= AMPLIFICATION * peer.sent
        assert "deaf" not in {c.peer for c in victim.status().connections}
        assert "deaf" not in victim.status().routes


async def test_a_node_that_knows_a_thousand_others_amplifies_nothing(jumping_clock):
    async with open_mesh("victim") as victim, listening(victim) as port, open_mesh("late") as late:
        await fill(victim, 1000)
        with ExitStack() as stack:
            sockets = []
            sent = 0
            for number in range(20):
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sock.bind((f"127.0.67.{number + 1}", 0))
                sock.connect(("127.0.0.1", port))
                sock.setblocking(False)
                name = f"forged{number}"
                # With the news that the link is up, as if our word had been read.
                claim = RoutingUpdate(name, name, 1, 1, {"victim": 1.0}, name).encode()
                for _ in range(3):
                    sock.send(claim)
                    sent += len(claim)
                sockets.append(sock)
            await trio.sleep(GIVEN_UP + 30)
            received = 0
            for sock in sockets:
                received += sum(map(len, what_came(sock)))
            assert 0 < received <= AMPLIFICATION * sent
        # And whoever reads at its address joins.
        late.add_dialer(UdpDialer("127.0.0.1", port))
        with trio.fail_after(PATIENCE):
            await late.wait_reachable("known0999")


def what_came(sock: socket.socket) -> list[bytes]:
    messages = []
    while True:
        try:
            messages.append(sock.recv(65_536))
        except BlockingIOError:
            return messages


async def test_a_thousand_addresses_that_are_forged_keep_no_honest_one_out():
    async with open_mesh("victim") as victim, listening(victim) as port, open_mesh("late") as late:
        with ExitStack() as stack:
            for number in range(1024):
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sock.bind((f"127.1.{number // 250}.{number % 250 + 1}", 0))
                sock.connect(("127.0.0.1", port))
                name = f"forged{number}"
                sock.send(RoutingUpdate(name, name, 1, 1, {}, name).encode())
                if number % 100 == 0:
                    await trio.testing.wait_all_tasks_blocked(cushion=0.001)
            late.add_dialer(UdpDialer("127.0.0.1", port))
            with trio.fail_after(PATIENCE):
                await late.wait_reachable("victim")
                await victim.wait_reachable("late")
            assert [session.peer for session in victim.sessions] == ["late"]


@pytest.mark.parametrize("dialer", [UdpDialer, PlainUdpDialer], ids=["meshnode", "without cookies"])
async def test_a_listener_that_was_restarted_is_linked_again_before_the_old_link_is_idle(
    dialer, jumping_clock
):
    async with open_mesh("dialer") as near:
        async with open_mesh("victim") as victim, listening(victim) as port:
            near.add_dialer(dialer("127.0.0.1", port))
            await near.wait_reachable("victim")
            await trio.sleep(LASTING)
            # It ends without a word, as a node that is killed does.
            for session in list(victim.sessions):
                await session._link.aclose()
        began = trio.current_time()
        async with open_mesh("victim") as again:
            (listener,) = await UdpListener.open(port, "127.0.0.1")
            again.add_listener(listener)
            with trio.fail_after(PATIENCE):
                await again.wait_reachable("dialer")
                await near.wait_reachable("victim")
            assert trio.current_time() - began < IDLE_TIMEOUT
