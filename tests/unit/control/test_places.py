"""Nobody can take the places of all others, and whoever looks after the node gets in."""

import resource
from math import inf

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.control.places import GIVE_WAY_AFTER, MAX_LEAVING, Bounds, Place, Places
from meshnode.shares import Holder

BOUNDS = Bounds(most=8, of_one=6, kept=1)


def fill(places: Places, holder: Holder, count: int = 100) -> list[Place]:
    """Take as many places as there are."""
    taken = [place for _ in range(count) if (place := places.take(holder)) is not None]
    for place in taken:
        place.waits(inf)
    return taken


async def test_one_holder_gets_its_share_and_leaves_the_rest() -> None:
    places = Places(BOUNDS)
    assert len(fill(places, Holder("mallory"))) == 6
    assert places.take(Holder("alice")) is not None


async def test_where_all_is_taken_the_longest_waiting_of_the_largest_gives_way(
    autojump_clock,
) -> None:
    places = Places(BOUNDS)
    small = fill(places, Holder("bob"), 2)
    await trio.sleep(1)
    many = fill(places, Holder("mallory"), 5)
    await trio.sleep(1)
    many[0].works()
    many[0].waits(inf)
    assert places.take(Holder("alice")) is not None
    assert [place.gave_way for place in many] == [False, True, False, False, False]
    assert not any(place.gave_way for place in small)
    assert places.taken == 7


async def test_a_session_that_runs_a_command_gives_way_to_nobody() -> None:
    places = Places(BOUNDS)
    for place in fill(places, Holder("mallory"), 6) + fill(places, Holder("eve"), 1):
        place.works()
    assert places.take(Holder("alice")) is None


async def test_a_holders_new_sessions_do_not_end_those_that_it_has_just_opened(
    autojump_clock,
) -> None:
    places = Places(BOUNDS)
    taken = fill(places, Holder("bar"), 6)
    assert places.take(Holder("bar")) is None
    await trio.sleep(GIVE_WAY_AFTER)
    assert places.take(Holder("bar")) is not None
    assert [place.gave_way for place in taken] == [True] + [False] * 5


async def test_many_invented_holders_do_not_keep_out_one_that_comes_later() -> None:
    places = Places(BOUNDS)
    for number in range(100):
        assert fill(places, Holder(f"invented {number}"), 1)
    assert places.take(Holder("alice")) is not None
    assert places.taken == 7


async def test_an_owner_always_gets_in() -> None:
    places = Places(BOUNDS)
    for place in fill(places, Holder("uid 1000"), 6) + fill(places, Holder("uid 1001"), 2):
        place.works()
    assert places.take(Holder("uid 1002")) is None
    assert places.take(Holder("uid 0", is_owner=True)) is not None


async def test_users_do_not_put_owners_out() -> None:
    places = Places(BOUNDS)
    fill(places, Holder("uid 0", is_owner=True), 6)
    fill(places, Holder("uid 1", is_owner=True), 2)
    assert places.take(Holder("uid 1000")) is None


async def test_a_place_that_is_given_back_is_free_again() -> None:
    places = Places(BOUNDS)
    for place in fill(places, Holder("bar"), 6):
        places.leave(place)
    assert places.taken == 0
    assert len(fill(places, Holder("baz"))) == 6


async def test_giving_way_ends_the_wait() -> None:
    places = Places(Bounds(most=1, of_one=1))
    place = places.take(Holder("bar"))
    assert place is not None
    with place.scope as scope:
        place.waits(inf)
        assert places.take(Holder("foo")) is not None
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_session_that_waits_for_too_long_is_ended_and_one_that_works_is_not(
    autojump_clock,
) -> None:
    places = Places(BOUNDS)
    waiting, waiting_longer, working = (places.take(Holder(name)) for name in "abc")
    assert waiting is not None
    assert waiting_longer is not None
    assert working is not None
    waiting.waits(10)
    waiting_longer.waits(5)
    waiting_longer.extend_wait(20)
    working.waits(5)
    working.works()
    await trio.sleep(10)
    places.end_idle()
    assert [p.is_over for p in (waiting, waiting_longer, working)] == [True, False, False]
    assert [p.scope.cancel_called for p in (waiting, working)] == [True, False]


async def test_of_many_that_give_way_some_are_told_and_the_rest_are_closed() -> None:
    places = Places(Bounds(most=1, of_one=1))
    told = []
    for number in range(MAX_LEAVING + 2):
        place = places.take(Holder(str(number)))
        assert place is not None
        place.waits(inf)
        told.append(place)
    assert [place.is_told for place in told[:-1]] == [True] * MAX_LEAVING + [False]
    for place in told:
        places.leave(place)
    assert (places.leaving, places.taken) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["take", "leave", "work", "wait"]))))
def test_in_any_order_no_bound_is_exceeded_and_nothing_is_lost(steps) -> None:
    async def main() -> None:
        places = Places(BOUNDS)
        sessions: list[Place] = []
        for who, what in steps:
            holder = Holder(f"uid {who}", is_owner=who == 0)
            if what == "take":
                if (place := places.take(holder)) is not None:
                    sessions.append(place)
                    place.waits(inf)
                elif holder.is_owner:
                    own = [p for p in sessions if p.holder == holder and not p.gave_way]
                    busy = [p for p in sessions if not p.gave_way and p.waiting_since == inf]
                    assert len(own) == BOUNDS.of_one or len(busy) == BOUNDS.most
            elif sessions:
                place = sessions[who % len(sessions)]
                if what == "leave":
                    sessions.remove(place)
                    places.leave(place)
                elif place.gave_way:
                    continue
                elif what == "work":
                    place.works()
                else:
                    place.waits(inf)
            staying = [p for p in sessions if not p.gave_way]
            assert len(staying) == places.taken <= BOUNDS.most
            assert len(sessions) - len(staying) == places.leaving
            for name in {p.holder.name for p in staying}:
                assert sum(p.holder.name == name for p in staying) <= BOUNDS.of_one

    trio.run(main)


@pytest.mark.parametrize(
    ("kind", "descriptors", "most"),
    [
        ("unix", 3000, 1000),
        ("tcp", 3000, 1000),
        ("mesh", 3000, 2048),
        ("unix", 10**6, 2048),
        ("tcp", resource.RLIM_INFINITY, 2048),
    ],
)
def test_bounds_leave_descriptors_to_the_rest_of_the_node(
    monkeypatch, kind, descriptors, most
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (descriptors, descriptors))
    bounds = Bounds.of(kind)
    assert (bounds.most, bounds.of_one) == (most, most * 3 // 4)
    assert bounds.kept == (most // 16 if kind == "unix" else 0)


async def test_nodes_that_a_peer_invents_leave_places_to_the_rest_of_the_mesh() -> None:
    places = Places(Bounds(most=32, of_one=24, spared=4))
    for number in range(100):
        if (place := places.take(Holder(f"invented {number}", "10.0.0.66"))) is not None:
            place.works()
    assert places.taken == 28
    assert places.take(Holder("alice", "10.0.0.1")) is not None
    assert places.take(Holder("bob", "10.0.0.66", is_near=True)) is not None


async def test_in_a_full_branch_a_session_of_that_branch_gives_way() -> None:
    places = Places(Bounds(most=32, of_one=24, spared=4))
    others = fill(places, Holder("alice", "10.0.0.1"), 4)
    many = fill(places, Holder("mallory", "10.0.0.66"), 24)
    for number in range(4):
        assert fill(places, Holder(f"invented {number}", "10.0.0.66"), 1)
    assert places.take(Holder("bob", "10.0.0.66")) is not None
    assert [place.gave_way for place in many] == [True] + [False] * 23
    assert not any(place.gave_way for place in others)


@given(st.lists(st.sampled_from(["alice", "mallory", "bob", "leave"]), max_size=40))
def test_each_session_is_counted_as_one_that_got_a_place_or_as_one_that_got_none(steps) -> None:
    async def run() -> None:
        places = Places(BOUNDS)
        held: list[Place] = []
        got = refused = 0
        for step in steps:
            if step == "leave":
                if held:
                    places.leave(held.pop())
                continue
            place = places.take(Holder(step))
            if place is None:
                refused += 1
            else:
                got += 1
                held.append(place)
        assert (places.opened, places.refused) == (got, refused)

    trio.run(run)
