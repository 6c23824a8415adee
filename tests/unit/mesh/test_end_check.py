"""Who can forge a peer's datagrams does not end a link that is up; the peer itself does."""

import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from malformed import UPDATE, handmade, message, mutated
from mesh_helpers import join, meshes

from meshnode.logs import subject_logger
from meshnode.mesh.links.memory import memory_link_pair
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.peers.ending import ASKED_EVERY, BELIEVED_AFTER, Boundary, EndCheck, Ended
from meshnode.mesh.peers.session import PeerSession
from meshnode.protocol.messages import REJECT_MESSAGE, MessageType


def word(**fields: object) -> bytes:
    """Return what a forger has the peer say of itself."""
    own = {"NodeID": "peer", "ForwardingNode": "peer", "UpdateID": "forged", "Connections": {}}
    return message(MessageType.ROUTE, json.dumps(UPDATE | own | fields).encode())


GOODBYES = [
    REJECT_MESSAGE,
    word(),
    word(UpdateEpoch=(1 << 64) - 1, UpdateSequence=(1 << 64) - 1),
    word(Connections={"victim": 2}),
    word(Connections={"victim": 1}, UpdateSequence=(1 << 64) - 1, UpdateID="other"),
    word(ForwardingNode="somebody"),
    word(NodeID="somebody", ForwardingNode="somebody"),
    b"\x00short",
    b"\x01{",
]
"""What ends a link on which nobody can forge."""


@dataclass
class Forged:
    """A victim, its peer, and a way to put messages on the link between them."""

    victim: Mesh
    peer: Mesh
    session: PeerSession
    forger: trio.MemorySendChannel[list[bytes]]

    def is_up(self) -> bool:
        return list(self.victim.sessions) == [self.session]


@asynccontextmanager
async def forged_link():
    async with meshes("victim", "peer") as (victim, peer):
        near, far = memory_link_pair("link")
        near.forgeable = far.forgeable = True
        victim._nursery.start_soon(victim.run_link, near)
        peer._nursery.start_soon(peer.run_link, far)
        await victim.wait_reachable("peer")
        await trio.sleep(1)
        (session,) = victim.sessions
        yield Forged(victim, peer, session, far._outgoing.clone())


async def test_nothing_that_a_forger_says_once_ends_the_link(autojump_clock):
    async with forged_link() as found:
        for goodbye in GOODBYES:
            await found.forger.send([goodbye])
            await trio.sleep(2 * BELIEVED_AFTER)
            assert found.is_up(), goodbye
        assert (await found.peer.ping("victim")).from_node == "victim"


async def test_nothing_that_a_forger_says_again_and_again_ends_the_link(autojump_clock):
    async with forged_link() as found:
        for _ in range(100):
            for goodbye in GOODBYES:
                await found.forger.send([goodbye])
                await trio.sleep(0.05)
        assert found.is_up()
        assert (await found.victim.ping("peer")).from_node == "peer"


async def test_nothing_malformed_that_is_forged_ends_the_link(autojump_clock):
    async with forged_link() as found:
        for data in (*handmade(), *mutated(seed=3, count=300)):
            await found.forger.send([data.replace(b"ev00", b"peer")])
            await trio.sleep(0.01)
        await trio.sleep(2 * BELIEVED_AFTER)
        assert found.is_up()


@pytest.mark.parametrize("later", [0, 1, 1 << 30, (1 << 64) - 1])
async def test_what_is_forged_in_a_peers_name_does_not_silence_the_peer(later, autojump_clock):
    async with forged_link() as found, meshes("new") as (new,):
        epoch = min(found.peer._link_state.topology.own.epoch + later, (1 << 64) - 1)
        last = (1 << 64) - 1
        await found.forger.send(
            [word(UpdateEpoch=epoch, UpdateSequence=last, Connections={"victim": 1})]
        )
        await trio.sleep(1)
        join(new, found.peer)
        with trio.fail_after(30):
            await found.victim.wait_reachable("new")
        assert found.is_up()


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from(GOODBYES),
                st.binary(min_size=1, max_size=60),
                st.builds(
                    word,
                    UpdateEpoch=st.integers(0, (1 << 64) - 1),
                    UpdateSequence=st.integers(0, (1 << 64) - 1),
                    UpdateID=st.text("abc", min_size=1, max_size=8),
                    Connections=st.dictionaries(
                        st.sampled_from(["victim", "other"]), st.sampled_from([1, 2, 0.5])
                    ),
                ),
            ),
            st.floats(0, 4),
        ),
        max_size=12,
    )
)
def test_no_forgery_that_hypothesis_finds_ends_the_link(forgeries):
    async def main() -> None:
        async with forged_link() as found:
            for data, pause in forgeries:
                await found.forger.send([data])
                await trio.sleep(pause)
            await trio.sleep(30)
            assert found.is_up()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_peer_that_says_goodbye_and_no_more_is_believed_soon(autojump_clock):
    async with meshes("victim") as (victim,):
        near, far = memory_link_pair("link")
        near.forgeable = True
        victim._nursery.start_soon(victim.run_link, near)
        await far.send([word(Connections={"victim": 1})])
        await victim.wait_reachable("peer")
        await trio.sleep(1)
        before = trio.current_time()
        await far.send([REJECT_MESSAGE])
        while list(victim.sessions):
            await trio.sleep(0.1)
        assert trio.current_time() - before <= BELIEVED_AFTER + 1.5


async def test_what_the_network_says_of_a_peer_that_answers_does_not_end_the_link(autojump_clock):
    async with forged_link() as found:
        for pause in (0.0, 0.1, 1.0, BELIEVED_AFTER, 0.3) * 5:
            assert found.session._suspect_broken("connection refused")
            await trio.sleep(pause)
        await trio.sleep(2 * BELIEVED_AFTER)
        assert found.is_up()
        assert (await found.victim.ping("peer")).from_node == "peer"


async def test_what_the_network_says_of_a_peer_that_is_silent_is_believed_soon(
    autojump_clock, caplog
):
    caplog.set_level("INFO")
    async with meshes("victim") as (victim,):
        near, far = memory_link_pair("link")
        near.forgeable = True
        told: list[Callable[[str], bool]] = []
        near.check_errors_by = told.append
        victim._nursery.start_soon(victim.run_link, near)
        await trio.testing.wait_all_tasks_blocked()
        (doubt,) = told
        assert not doubt("connection refused")  # there is no peer yet that could be asked
        await far.send([word(Connections={"victim": 1})])
        await victim.wait_reachable("peer")
        await trio.sleep(1)
        before = trio.current_time()
        assert doubt("connection refused")
        while list(victim.sessions):
            await trio.sleep(0.1)
        assert trio.current_time() - before <= BELIEVED_AFTER + 1.5
    assert any("the link broke: connection refused" in text for text in caplog.messages)


async def test_a_link_that_nobody_can_forge_ends_at_once(autojump_clock):
    async with forged_link() as found:
        found.session._end_check = None
        before = trio.current_time()
        await found.forger.send([REJECT_MESSAGE])
        await trio.testing.wait_all_tasks_blocked()
        assert list(found.victim.sessions) == []
        assert trio.current_time() == before


async def test_a_peer_is_asked_at_a_bounded_rate(autojump_clock):
    asked: list[float] = []
    check = EndCheck(lambda: asked.append(trio.current_time()))
    ends: list[Ended] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check.run, Boundary(ends.append, subject_logger("link", "forged")))
        for _ in range(1000):
            check.suspect(Ended("forged"))
            await trio.sleep(0.005)
            check.refute()
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert len(asked) <= 10 / ASKED_EVERY + 1
    assert ends == []
