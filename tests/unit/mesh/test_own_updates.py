"""Updates in a node's name that are not its own: it stays where it is, and says so."""

import logging

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from mesh_helpers import line, meshes
from stranger import EPOCH, stranger

from meshnode.errors import DuplicateNode
from meshnode.mesh.peers.own_updates import (
    ANSWER_INTERVAL,
    CONCERN_SECONDS,
    NEWCOMER_SECONDS,
    UPDATE_INTERVAL,
    epoch_at,
    new_epoch,
)
from meshnode.protocol.fields import UNSIGNED_64
from meshnode.protocol.times import CLOCK_AHEAD

LAST = UNSIGNED_64 - 1

PING_WITHIN = 1.0
"""Seconds."""

NUMBERS = st.one_of(
    st.integers(0, LAST),
    st.sampled_from([0, 1, (1 << 63) - 1, 1 << 63, LAST - 1, LAST]),
)
EPOCHS = st.one_of(
    NUMBERS,
    st.sampled_from(["own", "next", "former"]),
    st.integers(-(1 << 40), CLOCK_AHEAD).map(lambda off: new_epoch() + epoch_at(off)),
)
FORGED = st.tuples(
    EPOCHS,
    st.one_of(NUMBERS, st.integers(0, 20)),
    st.one_of(st.just(0), EPOCHS),
    st.dictionaries(st.sampled_from(["bar", "baz", "nobody"]), st.just(1.0)),
)


def number(epoch, own):
    """Return an epoch, given as one or by what it is to the owner's."""
    return {"own": own, "next": own + 1, "former": own - 1}.get(epoch, epoch)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(FORGED, min_size=1, max_size=6))
def test_whatever_is_said_in_a_nodes_name_it_lives_and_is_reached_at_once(forged):
    async def scene():
        async with line("foo", "bar", "baz") as (foo, bar, baz), stranger(baz) as other:
            await trio.sleep(NEWCOMER_SECONDS + 1)
            own = foo._link_state.topology.own.epoch
            for epoch, sequence, suspected, links in forged:
                await other.say(
                    other.update(
                        "foo",
                        links,
                        epoch=number(epoch, own),
                        sequence=sequence,
                        suspected=number(suspected, own),
                    )
                )
                await trio.sleep(0.05)
            await trio.sleep(2 * ANSWER_INTERVAL)
            assert baz._link_state.topology.epoch_of("foo") == own
            assert baz.status().known_costs["foo"] == {"bar": 1.0}
            with trio.fail_after(PING_WITHIN):
                assert (await baz.ping("foo")).from_node == "foo"
            # It is heard from now on as ever.
            known = bar._link_state.topology.message_about("foo")
            await trio.sleep(UPDATE_INTERVAL + 1)
            assert bar._link_state.topology.message_about("foo") != known

    trio.run(scene, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_while_somebody_speaks_in_its_name_all_the_time_a_node_is_reached(autojump_clock):
    async with line("foo", "bar", "baz", "end") as (foo, bar, baz, end), stranger(baz) as other:
        own = foo._link_state.topology.own.epoch
        await trio.sleep(NEWCOMER_SECONDS + 1)
        first = new_epoch()

        async def forge():
            for life in range(3000):
                kind = life % 3
                await other.say(
                    other.update("foo", {}, epoch=own, sequence=LAST)
                    if kind == 0
                    else other.update("foo", {}, epoch=first + (life << 24))
                    if kind == 1
                    else other.update("foo", {"baz": 1.0}, epoch=first + life, suspected=own)
                )
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(forge)
            await trio.sleep(1)  # the first time all believe it, until they hear foo
            while True:
                with trio.fail_after(PING_WITHIN):
                    assert (await end.ping("foo")).from_node == "foo"
                await trio.sleep(0.1)
        assert bar.status().connections[0].peer in ("foo", "baz")


async def test_streams_outlive_every_life_that_somebody_invents_of_their_other_end(autojump_clock):
    async with line("foo", "bar", "end") as (foo, _, end), stranger(end) as other:
        listener = await foo.listen("svc")
        stream = await end.dial("foo", "svc")
        await stream.send_all(b"a")
        far = await listener.accept()
        first = new_epoch()
        for life in range(500):
            await other.say(other.update("foo", {}, epoch=first + (life << 24)))
            await trio.sleep(0.02)
            if life % 50 == 0:
                await stream.send_all(b"x")
                await far.send_all(b"y")
                with trio.fail_after(5):
                    assert (await stream.receive_some(1)) == b"y"
        with trio.fail_after(5):
            received = b""
            while len(received) < 11:
                received += await far.receive_some(100)
        assert received == b"a" + 10 * b"x"


async def test_a_node_answers_at_a_bounded_rate(autojump_clock):
    async with meshes("foo") as (foo,), stranger(foo) as other:
        await trio.sleep(NEWCOMER_SECONDS + 1)
        other.heard.clear()
        start = trio.current_time()
        for life in range(1000):
            await other.say(other.update("foo", {}, epoch=new_epoch() + life))
            await trio.sleep(0.01)
        spent = trio.current_time() - start
        claims = {u.update_id for u in other.updates if u.suspected_duplicate}
        others = len(other.updates) - len(claims)
        assert 0 < others <= spent / ANSWER_INTERVAL + spent / UPDATE_INTERVAL + 2
        assert len(claims) <= 3 * (spent / ANSWER_INTERVAL + 1)


async def test_that_we_are_the_duplicate_is_believed_only_of_a_newcomer(autojump_clock, caplog):
    async with meshes("foo") as (foo,), stranger(foo) as other:
        await trio.sleep(NEWCOMER_SECONDS + 1)
        own = foo._link_state.topology.own.epoch
        with caplog.at_level(logging.ERROR, "meshnode"):
            for number in range(100):
                await other.say(other.update("foo", {}, epoch=EPOCH + number, suspected=own))
                await trio.sleep(0.1)
        assert len(caplog.records) == 1
        (concern,) = foo.concerns()
        assert concern.startswith(
            "updates in the name of this node (foo) that are not its own come via stranger"
        )
        await trio.sleep(CONCERN_SECONDS + 1)
        assert foo.concerns() == []


async def test_a_newcomer_with_a_used_name_ends_however_long_it_was_alone(autojump_clock):
    with pytest.RaisesGroup(pytest.RaisesExc(DuplicateNode, match="foo"), flatten_subgroups=True):
        async with meshes("foo") as (foo,):
            await trio.sleep(10 * NEWCOMER_SECONDS)
            async with stranger(foo) as other:
                own = foo._link_state.topology.own.epoch
                await other.say(other.update("foo", {}, suspected=own))
                await trio.sleep(1)


async def test_of_two_nodes_with_one_name_the_first_stays_also_if_its_clock_is_ahead(
    autojump_clock,
):
    async with line("foo", "bar", "baz") as (foo, _, baz):
        foo._link_state.topology.own.epoch += 1 << 40
        await trio.sleep(NEWCOMER_SECONDS + 1)
        with pytest.RaisesGroup(
            pytest.RaisesExc(DuplicateNode, match="foo"), flatten_subgroups=True
        ):
            async with (
                meshes("foo") as (twin,),
                stranger(twin, "relay") as relay,
                stranger(baz, "end") as end,
            ):
                await pass_on(relay, end)
        assert (await baz.ping("foo")).from_node == "foo"


async def pass_on(one, other):
    """Pass on what is said of foo between two links, as a node between them does."""
    done = {one: 0, other: 0}
    while True:
        for near, far in ((one, other), (other, one)):
            words = near.updates
            for update in words[done[near] :]:
                if update.node_id == "foo":
                    await far.say(update.encode(far.name))
            done[near] = len(words)
        await trio.sleep(0.1)


async def test_an_epoch_that_no_clock_shows_is_neither_kept_nor_passed_on(autojump_clock, caplog):
    async with meshes("foo") as (foo,), stranger(foo) as other, stranger(foo, "next") as witness:
        far = epoch_at(CLOCK_AHEAD) + new_epoch()
        await other.say(other.update("late", {"stranger": 1.0}, epoch=far - (60 << 24)))
        await other.say(other.update("later", {"stranger": 1.0}, epoch=far + (60 << 24)))
        await trio.sleep(1)
        assert {u.node_id for u in witness.updates} == {"foo", "stranger", "late"}
        assert "later" not in foo.status().known_costs
        assert "ignored an update of later that came via stranger" in caplog.text
