"""How configured peers and listeners fare, and whom a node has rejected."""

import logging

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_helpers import meshes

from meshnode.mesh.links.base import Link, LinkDialer
from meshnode.mesh.links.memory import MemoryDialer, MemoryListener, memory_link_pair
from meshnode.mesh.peers.conditions import (
    REJECTED_BYTES,
    REJECTED_FOR,
    Changes,
    ListenerState,
    Moment,
    PeerState,
    Rejections,
)
from meshnode.mesh.peers.configured import ConfiguredLinks
from meshnode.mesh.peers.endpoints import REDIAL_MOST
from meshnode.mesh.peers.session import FLUSH_TIMEOUT, LASTING
from meshnode.net import accept
from meshnode.policies import LinkPolicy
from meshnode.protocol.messages import REJECT_MESSAGE, MessageType
from meshnode.protocol.rejection import Ground, Rejection
from meshnode.protocol.routing import RoutingUpdate


class FailingDialer(LinkDialer):
    """Fails as it is told to, until it is given another dialer."""

    name = "tcp 192.0.2.1:2222"

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.instead: LinkDialer | None = None

    async def dial(self) -> Link:
        if self.instead is not None:
            return await self.instead.dial()
        raise self.error


REFUSED = ConnectionRefusedError(111, "Connection refused")


async def test_a_peer_that_cannot_be_dialed_says_why_how_often_and_when_next(autojump_clock):
    async with meshes("foo") as (foo,):
        began = Moment.now()
        dialing = foo.add_dialer(FailingDialer(REFUSED))
        assert dialing.condition().state is PeerState.DIALING
        assert dialing.condition().trouble is None
        await trio.sleep(100)
        condition = dialing.condition()
        assert condition.state is PeerState.WAITING
        assert condition.node == ""
        assert condition.since.monotonic == pytest.approx(began.monotonic)
        assert condition.attempts >= 100 / REDIAL_MOST
        assert condition.trouble is not None
        assert condition.trouble.text.startswith("refused: ")
        assert condition.next_try is not None
        assert -REDIAL_MOST <= condition.next_try.age <= 0


async def test_a_fault_of_this_node_is_told_as_one(autojump_clock):
    async with meshes("foo") as (foo,):
        dialing = foo.add_dialer(FailingDialer(RuntimeError("odd")))
        await trio.sleep(1)
        trouble = dialing.condition().trouble
        assert trouble is not None
        assert "a fault of this node" in trouble.text


async def test_a_peer_that_is_up_says_to_whom_since_when_and_what_it_took(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        bar.add_listener(place)
        dialer = FailingDialer(REFUSED)
        dialing = foo.add_dialer(dialer)
        await trio.sleep(10)
        tries = dialing.condition().attempts
        dialer.instead = MemoryDialer(place)
        await foo.wait_reachable("bar")
        await trio.sleep(1)  # until bar has confirmed the link; sums of moments are not exact
        condition = dialing.condition()
        assert (condition.state, condition.node) == (PeerState.UP, "bar")
        assert condition.attempts == tries + 1
        assert condition.since.age < 1.001
        assert condition.next_try is None
        # When it is lost, its time and its dials are counted anew.
        await trio.sleep(LASTING)
        dialer.instead = None
        for session in list(bar.sessions):
            session.close("bar has enough")
        await trio.sleep(1)
        condition = dialing.condition()
        assert condition.state is PeerState.WAITING
        assert condition.since.age < 1.001
        assert condition.attempts <= 2
        assert condition.trouble is not None


async def test_a_peer_that_is_dialed_once_is_given_up(autojump_clock):
    async with meshes("foo") as (foo,):
        dialing = foo.add_dialer(FailingDialer(REFUSED), redial=False)
        await trio.sleep(1)
        condition = dialing.condition()
        assert (condition.state, condition.attempts) == (PeerState.GIVEN_UP, 1)
        assert condition.next_try is None


async def test_a_listener_counts_its_links_and_tells_how_the_last_one_failed(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        listening = foo.add_listener(place)
        bar.add_dialer(MemoryDialer(place))
        await foo.wait_reachable("bar")
        await trio.sleep(1)  # until bar has confirmed the link
        silent = place.connect()
        await trio.testing.wait_all_tasks_blocked()
        condition = listening.condition()
        assert condition.state is ListenerState.LISTENING
        assert (condition.links, condition.opening) == (1, 1)
        assert condition.trouble is None
        await trio.sleep(12)
        condition = listening.condition()
        assert (condition.links, condition.opening) == (1, 0)
        assert condition.trouble is not None
        assert condition.trouble.text.endswith("no routing update after 10 of ours")
        await silent.aclose()


@pytest.mark.parametrize(
    ("policy", "here", "there"),
    [
        (LinkPolicy(5.0), "cost 5 here, 1 there", "cost 1 here, 5 there"),
        (
            LinkPolicy(allowed_peers=frozenset({"baz"})),
            "foo is not in allowedpeers",
            "we are not in its allowedpeers",
        ),
    ],
    ids=["cost", "allowedpeers"],
)
async def test_both_ends_of_a_rejected_link_tell_why(policy, here, there, autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        bar.add_listener(place, policy)
        dialing = foo.add_dialer(MemoryDialer(place))
        await trio.sleep(60)
        trouble = dialing.condition().trouble
        assert trouble is not None
        assert there in trouble.text
        assert dialing.condition().node == ""
        rejected = [r for r in bar.rejections.listed() if here in r.reason]
        if not rejected:  # the other end was faster
            rejected = [r for r in foo.rejections.listed() if there in r.reason]
        (entry,) = rejected
        assert entry.count > 1
        assert entry.node in ("foo", "bar")
        assert "and it rejects us" not in trouble.text + entry.reason


@pytest.mark.parametrize(
    ("lists_us", "told"),
    [(True, "it lists a link to our node ID already"), (False, "may not be in its allowedpeers")],
)
async def test_of_a_receptor_node_that_rejects_without_a_word_it_is_told_why_that_may_be(
    lists_us, told, autojump_clock
):
    async with meshes("foo") as (foo,):
        place = MemoryListener("place")
        dialing = foo.add_dialer(MemoryDialer(place))
        far = await place.accept()
        connections = {"foo": 1.0} if lists_us else {}
        await far.send([RoutingUpdate("bar", "id", 1, 1, connections, "bar").encode("bar")])
        await far.send([REJECT_MESSAGE])
        await trio.sleep(0.2)
        trouble = dialing.condition().trouble
        assert trouble is not None
        assert trouble.text.startswith("the peer rejected us: it does not say why")
        assert told in trouble.text
        await far.aclose()


async def test_a_listener_that_cannot_accept_says_so(autojump_clock, monkeypatch):
    async with meshes("foo") as (foo,):
        place = MemoryListener("place")
        monkeypatch.setattr(accept, "to_spare", lambda kept_back: 0)
        listening = foo.add_listener(place)
        await trio.sleep(1)
        trouble = listening.condition().trouble
        assert trouble is not None
        assert trouble.text == "cannot accept for now: few file descriptors are left"


@pytest.mark.parametrize("by", ["each other", "two addresses"])
async def test_a_node_that_is_linked_by_another_dial_is_told_as_linked_and_nobody_is_warned(
    by, autojump_clock, caplog
):
    caplog.set_level("INFO", "meshnode")
    async with meshes("foo", "bar") as (foo, bar):
        at_foo, at_bar = MemoryListener("foo's"), MemoryListener("bar's")
        foo.add_listener(at_foo)
        bar.add_listener(at_bar)
        if by == "each other":
            dialed = [foo.add_dialer(MemoryDialer(at_bar)), bar.add_dialer(MemoryDialer(at_foo))]
        else:
            dialed = [foo.add_dialer(MemoryDialer(at_bar)) for _ in range(2)]
        await trio.sleep(600)
        conditions = [d.condition() for d in dialed]
        assert {c.state for c in conditions} == {PeerState.UP, PeerState.LINKED}
        assert all(c.node in ("foo", "bar") for c in conditions)
        assert all(c.since.age >= 500 for c in conditions)
        assert all(c.attempts < 10 for c in conditions)
        assert foo.rejections.listed() == bar.rejections.listed() == ()
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
        assert sum("one is enough" in r.getMessage() for r in caplog.records) < 10


async def test_a_node_whose_other_link_is_lost_is_dialed_again(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        bar.add_listener(place)
        first, second = (foo.add_dialer(MemoryDialer(place)) for _ in range(2))
        await trio.sleep(60)
        up, linked = sorted((first, second), key=lambda d: d.condition().state is PeerState.LINKED)
        assert linked.condition().state is PeerState.LINKED
        await up.aclose()
        assert linked.condition().state is PeerState.WAITING
        await trio.sleep(REDIAL_MOST + 2)
        assert linked.condition().state is PeerState.UP


async def test_a_used_id_is_told_at_both_ends(autojump_clock):
    async with meshes("foo", "bar", "bar") as (foo, first, _):
        place = MemoryListener("place")
        foo.add_listener(place)
        first.add_dialer(MemoryDialer(place))
        await foo.wait_reachable("bar")
        # Seen by foo only: what two nodes with one ID do about each other is another test's.
        near, far = memory_link_pair("stranger")
        foo._nursery.start_soon(foo.run_link, near, LinkPolicy(1.0))
        await far.send([RoutingUpdate("bar", "id", 1, 1, {}, "bar").encode("bar")])
        said = b""
        while not said or said[0] != MessageType.REJECT:
            said = bytes((await far.receive())[-1])
        heard = Rejection.decode(said)
        assert heard == Rejection(Ground.LINKED)
        await far.aclose()


async def test_a_rejection_is_not_reported_once_the_node_has_linked_and_anew_if_it_is_rejected(
    autojump_clock,
):
    async with meshes("foo", "bar") as (foo, bar):
        links = ConfiguredLinks(bar), ConfiguredLinks(foo)
        place = MemoryListener("place")
        listening = bar.add_listener(place, LinkPolicy(5.0))
        foo.add_dialer(MemoryDialer(place))
        await trio.sleep(60)
        assert any(each.report().rejected for each in links)
        await listening.set_policy(LinkPolicy(), "another cost")
        await trio.sleep(60)
        assert [each.report().rejected for each in links] == [(), ()]
        await trio.sleep(1)
        await listening.set_policy(LinkPolicy(5.0), "another cost")
        await trio.sleep(60)
        assert any(each.report().rejected for each in links)


async def test_each_end_of_a_link_that_both_reject_tells_what_both_find_wrong(autojump_clock):
    nobody = LinkPolicy(allowed_peers=frozenset({"nobody"}))
    async with meshes("foo", "bar") as (foo, bar):
        place = MemoryListener("place")
        bar.add_listener(place, nobody)
        dialing = foo.add_dialer(MemoryDialer(place), nobody)
        await trio.sleep(60)
        trouble = dialing.condition().trouble
        assert trouble is not None
        assert trouble.text == (
            "we rejected it: bar is not in allowedpeers; "
            "and it rejects us: we are not in its allowedpeers"
        )
        (told,) = bar.rejections.listed()
        assert told.reason == (
            "foo is not in allowedpeers; and it rejects us: we are not in its allowedpeers"
        )


async def test_a_rejected_peer_that_says_nothing_is_not_waited_for(autojump_clock):
    nobody = LinkPolicy(allowed_peers=frozenset({"nobody"}))
    async with meshes("foo") as (foo,):
        near, far = memory_link_pair("stranger")
        began = trio.current_time()
        foo._nursery.start_soon(foo.run_link, near, nobody)
        await far.send([RoutingUpdate("bar", "id", 1, 1, {}, "bar").encode("bar")])
        while await far.receive():
            pass
        assert trio.current_time() - began < FLUSH_TIMEOUT + 0.001


# --- whom a node rejected ------------------------------------------------------------------------

NAMES = st.text(max_size=255)


@settings(max_examples=30)
@given(st.lists(st.tuples(NAMES, st.sampled_from("abc"), NAMES, NAMES), max_size=400))
def test_what_is_remembered_of_rejections_keeps_to_its_budget(adds):
    async def main() -> None:
        rejections = Rejections()
        for each in adds:
            rejections.add(*each)
            assert rejections.size <= REJECTED_BYTES
        listed = rejections.listed()
        assert rejections.size == sum(entry.size for entry in listed)
        assert len({(e.node, e.address, e.via, e.reason) for e in listed}) == len(listed)

    trio.run(main)


async def test_a_flood_of_names_from_one_address_hides_no_other_rejection(autojump_clock):
    rejections = Rejections()
    rejections.add("honest", "10.0.0.1", "tcp *:2222", "cost 5 here, 1 there")
    for number in range(5000):
        rejections.add(f"invented-{number}", "10.0.0.66", "tcp *:2222", "not in allowedpeers")
    listed = rejections.listed()
    assert listed[0].node == "honest"
    assert listed[-1].node == "invented-4999"
    assert rejections.size <= REJECTED_BYTES


async def test_a_rejection_is_counted_while_it_lasts_and_forgotten_after_a_time(autojump_clock):
    rejections = Rejections()
    rejections.add("old", "a", "v", "r")
    await trio.sleep(REJECTED_FOR / 2)
    rejections.add("kept", "a", "v", "r")
    rejections.add("kept", "a", "v", "r")
    (old, kept) = rejections.listed()
    assert (old.count, kept.count) == (1, 2)
    await trio.sleep(REJECTED_FOR / 2)
    assert [entry.node for entry in rejections.listed()] == ["kept"]
    await trio.sleep(REJECTED_FOR / 2)
    assert rejections.listed() == ()
    assert rejections.size == 0


@pytest.mark.parametrize("waiters", [1, 2, 5])
async def test_all_who_wait_for_a_change_hear_of_it(waiters, autojump_clock):
    changes, heard = Changes(), []

    async def wait() -> None:
        await changes.wait(0)
        heard.append(changes.count)

    async with trio.open_nursery() as nursery:
        for _ in range(waiters):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        changes.note()
    assert heard == [1] * waiters
    with trio.fail_after(1):
        await changes.wait(0)
