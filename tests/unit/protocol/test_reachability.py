"""What is remembered of others: never more than the budget, and of honest nodes always."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from meshnode.protocol import adverts as adverts_module
from meshnode.protocol import topology as topology_module
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.reachability import (
    FORGET_AFTER,
    GONE_AFTER,
    Absences,
    Branches,
    newest_unreachable,
    unreachable_first,
)
from meshnode.protocol.routing import RoutingUpdate, ServiceAdvertisement
from meshnode.protocol.topology import Topology, Verdict

BUDGET = 200_000
"""Bytes, small enough to be filled by a test."""

HONEST = {
    "near": ["one", "two"],
    "one": ["near", "three"],
    "two": ["near"],
    "three": ["one"],
    "left": [],
}
"""Who is linked to whom, beside us; we are linked to the first and the last."""


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch):
    monkeypatch.setattr(topology_module, "TOPOLOGY_BYTES", BUDGET)
    monkeypatch.setattr(topology_module, "ROOM_MADE", BUDGET // 16)
    monkeypatch.setattr(topology_module, "UNREACHABLE_BYTES", BUDGET // 8)
    monkeypatch.setattr(adverts_module, "ADVERTS_BYTES", BUDGET)
    monkeypatch.setattr(adverts_module, "ROOM_MADE", BUDGET // 16)
    monkeypatch.setattr(adverts_module, "UNREACHABLE_BYTES", BUDGET // 8)
    monkeypatch.setattr(adverts_module, "NODE_ADVERTS_BYTES", BUDGET // 10)


# --- branches ------------------------------------------------------------------------------------


def branches_of(edges, *peers):
    return Branches(peers, lambda node: edges.get(node, ()))


def test_who_can_be_reached_is_who_edges_lead_to():
    branches = branches_of({"a": ["b"], "b": ["a", "c"], "x": ["y"]}, "a")
    assert [n for n in "abcxy" if n in branches] == ["a", "b", "c"]


def test_the_heaviest_branch_is_followed_to_the_node_behind_which_the_weight_is():
    edges = {"a": ["b", "c"], "c": ["d", "e"], "d": ["f", "g", "h"], "z": ["y"]}
    branches = branches_of(edges, "a", "z")
    light = dict.fromkeys("abcdefghzy", 1)
    assert branches.heaviest(light) == {"f", "g", "h"}
    assert branches.heaviest(light | {"y": 20}) == {"y"}
    assert branches.heaviest(light | {"b": 20}) == {"b"}
    assert branches.heaviest(light | {"z": 30}) == {"y"}
    assert branches.heaviest({}) == set()


def test_without_a_branch_of_more_than_half_all_behind_the_node_give_way():
    edges = {"hub": [f"n{i}" for i in range(9)]}
    weights = {f"n{i}": 1 for i in range(9)} | {"n3": 3}
    assert branches_of(edges, "hub").heaviest(weights) == {f"n{i}" for i in range(9)}


EDGES = st.dictionaries(
    st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), max_size=4)
)
WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 50))


@given(EDGES, st.sets(st.sampled_from("abcdefgh")), WEIGHTS, st.integers(-10, 300))
def test_as_much_gives_way_as_must_and_what_cannot_be_reached_first(edges, peers, weights, excess):
    branches = branches_of(edges, *sorted(peers))
    bringers = dict.fromkeys(weights, "peer")
    gone = list(unreachable_first(weights, bringers, branches, excess))
    assert len(set(gone)) == len(gone)
    freed = [weights[node] for node in gone]
    assert sum(freed) >= min(excess, sum(weights.values()))
    assert not freed or sum(freed[:-1]) < excess
    reached = [node in branches for node in gone]
    assert reached == sorted(reached)
    if any(reached):
        assert {n for n in weights if n not in branches} <= set(gone)


def test_of_what_cannot_be_reached_the_newest_of_the_greatest_bringer_goes():
    weights = dict.fromkeys(["a1", "b1", "a2", "b2", "a3", "a4"], 10)
    bringers = {node: node[0] for node in weights}
    gone = newest_unreachable(weights, bringers, branches_of({}), 30)
    assert list(gone) == ["a4", "a3", "a2"]
    gone = newest_unreachable(weights, bringers, branches_of({}, "a4"), 40)
    assert list(gone)[:2] == ["a3", "a2"]


# --- topology ------------------------------------------------------------------------------------


def update(node, links, sequence=1):
    return RoutingUpdate(node, "id", 1, sequence, dict.fromkeys(links, 1.0), "peer")


def honest_mesh():
    topology = Topology("own", epoch=1)
    for peer in ("near", "left", "evil"):
        topology.own.add(peer, 1.0)
    for node, links in HONEST.items():
        own = ["own"] if node in ("near", "left") else []
        topology.apply(update(node, own + links), 0.0, "left" if node == "left" else "near")
    return topology


INVENTED = [f"e{i}" for i in range(60)]
LIES = st.lists(
    st.tuples(
        st.sampled_from(INVENTED),
        st.just({"evil"})
        | st.sets(st.sampled_from([*INVENTED, "evil", "three", "own"]), max_size=9),
        st.integers(0, 120),
    ),
    max_size=150,
)
"""Of whom something is said, to whom it is linked, and to how many more that do not exist."""


def lie(topology, words, via, sequence=1):
    for number, (node, links, more) in enumerate(words, sequence):
        further = [f"nobody-of-a-long-name-{i}" for i in range(more)]
        topology.apply(update(node, [*sorted(links), *further], number), 0.0, via)
        assert topology.bytes <= BUDGET
        assert topology.bytes == sum(r.cost for r in topology._nodes.values())


def knows_all(topology, more=()):
    assert {*HONEST, *more} <= topology.nodes
    assert {*HONEST, *more} <= topology.routes().keys()


@given(LIES, LIES)
def test_whatever_one_peer_invents_of_itself_others_nodes_stay_and_new_ones_come(before, after):
    topology = honest_mesh()
    topology.apply(update("evil", ["own", *INVENTED]), 0.0, "evil")
    lie(topology, before, "evil")
    knows_all(topology)
    assert topology.apply(update("new", ["three"]), 0.0, "near") is Verdict.NEW_NODE
    topology.apply(update("three", ["one", "new"], 2), 0.0, "near")
    lie(topology, after, "evil", 1000)
    knows_all(topology, ["new"])


@given(LIES, LIES)
def test_so_they_do_if_the_inventor_is_far_away_behind_the_same_peer(before, after):
    topology = honest_mesh()
    topology.own.remove("evil")
    topology.apply(update("two", ["near", "far"], 2), 0.0, "near")
    topology.apply(update("far", ["two", *INVENTED]), 0.0, "near")
    named = [(n, {"far" if x == "evil" else x for x in links}, m) for n, links, m in before]
    lie(topology, named, "near")
    knows_all(topology)
    assert topology.apply(update("new", ["three"]), 0.0, "near") is Verdict.NEW_NODE
    topology.apply(update("three", ["one", "new"], 2), 0.0, "near")
    lie(topology, after, "near", 1000)
    knows_all(topology, ["new"])


@pytest.mark.parametrize("far", [True, False])
def test_invented_nodes_that_were_there_before_a_new_one_do_not_outgrow_it(far):
    topology = honest_mesh()
    source, via = ("far", "near") if far else ("evil", "evil")
    if far:
        topology.own.remove("evil")
        topology.apply(update("two", ["near", "far"], 2), 0.0, "near")
    topology.apply(update(source, ["two" if far else "own", *INVENTED]), 0.0, via)
    lie(topology, [(node, {source}, 0) for node in INVENTED], via)
    topology.apply(update("new", ["three"]), 0.0, "near")
    topology.apply(update("three", ["one", "new"], 2), 0.0, "near")
    for turn in range(5):
        lie(topology, [(node, {source}, 100) for node in INVENTED], via, 100 * turn)
        knows_all(topology, ["new"])


def test_a_flood_of_nodes_that_link_to_nobody_is_given_back_but_for_a_part():
    topology = honest_mesh()
    lie(topology, [(f"e{i}", set(), 40) for i in range(500)], "evil")
    assert topology.bytes > BUDGET * 3 / 4
    topology.give_up_unreachable()
    assert BUDGET / 16 < topology.bytes <= BUDGET / 8 + BUDGET / 16
    knows_all(topology)
    gone = topology.take_given_up()
    assert "e499" in gone
    assert "e0" not in gone
    assert topology.take_given_up() == []


def test_nodes_that_seem_to_be_there_and_say_nothing_are_forgotten():
    topology = honest_mesh()
    later = topology_module.UPDATE_LIFETIME
    topology.apply(update("one", ["near", "three"], 2), later - 1, "near")
    topology.forget_silent(later)
    assert topology.nodes == {"one": 0}.keys()
    assert set(topology.take_given_up()) == HONEST.keys() - {"one"}


# --- advertisements ------------------------------------------------------------------------------


def advert(node, service, size=0, second=0):
    text = f"2026-11-21T00:{second // 60:02}:{second % 60:02}Z"
    return ServiceAdvertisement(node, service, text, 1, {"type": "x" * size})


SAID = st.lists(
    st.tuples(
        st.sampled_from([*INVENTED, "evil", "one"]),
        st.sampled_from([f"s{i}" for i in range(40)]),
        st.integers(0, 3000),
        st.integers(0, 3000),
        st.booleans(),
    ),
    max_size=150,
)


@given(SAID, st.booleans())
def test_whatever_is_advertised_honest_services_stay_and_new_ones_come(said, with_routes):
    table = AdvertisementTable()
    edges = {n: HONEST[n] for n in HONEST} | ({"evil": INVENTED} if with_routes else {})
    branches = branches_of(edges, "near", "left", "evil")

    def say(advert, via):
        table.apply(advert, 0.0, None, via)
        if table.is_full:
            table.make_room(branches, advert.node_id)
        assert table.bytes <= BUDGET
        costs = {n: sum(e.cost for e in r.services.values()) for n, r in table._nodes.items()}
        assert table.bytes == sum(costs.values())
        assert all(cost <= BUDGET // 10 for cost in costs.values())
        assert table._raw == {e.raw for r in table._nodes.values() for e in r.services.values()}

    for node in HONEST:
        say(advert(node, "control", 100), "left" if node == "left" else "near")
    for turn, (node, service, size, second, cancel) in enumerate(said):
        message = advert(node, service, size, second)
        if cancel:
            message = ServiceAdvertisement(node, service, message.time, 1, cancel=True)
        say(message, "evil")
        if turn % 10 == 9:
            say(advert("three", f"new{turn}", 100), "near")
    for node in HONEST:
        assert table.find(node, "control") is not None
    for turn in range(9, len(said), 10):
        assert table.find("three", f"new{turn}") is not None


def test_services_of_nodes_that_cannot_be_reached_are_given_back_but_for_a_part():
    table = AdvertisementTable()
    branches = branches_of(HONEST, "near", "left")
    for number in range(150):
        table.apply(advert(f"e{number}", "s"), 0.0, None, "evil")
    table.apply(advert("three", "s"), 0.0, None, "near")
    table.give_up_unreachable(branches)
    assert 0 < table.bytes <= BUDGET / 8 + 2000
    assert table.find("three", "s") is not None
    assert table.find("e0", "s") is not None
    assert table.find("e149", "s") is None


def test_our_own_services_have_no_bound_and_never_give_way():
    table = AdvertisementTable()
    for number in range(300):
        assert table.apply(advert("own", f"s{number}", 1000))
    for number in range(300):
        table.apply(advert(f"e{number}", "s", 1000), 0.0, None, "evil")
        if table.is_full:
            table.make_room(branches_of({}), f"e{number}")
    assert sum(a.node_id == "own" for a in table) == 300


# --- absences ------------------------------------------------------------------------------------


def test_a_node_is_overdue_when_it_was_away_all_the_time():
    absences = Absences()
    absences.note("ab", "a", now=100.0)
    absences.note("ab", "a", now=200.0)
    assert absences.overdue(100.0 + FORGET_AFTER - 1) == []
    assert absences.overdue(100.0 + FORGET_AFTER) == ["b"]


def test_a_node_that_came_back_starts_anew():
    absences = Absences()
    absences.note("b", "", now=0.0)
    absences.note("b", "b", now=FORGET_AFTER - 1)
    absences.note("b", "", now=FORGET_AFTER)
    assert absences.overdue(FORGET_AFTER + 1) == []


def test_a_node_counts_as_gone_after_a_while_and_a_present_or_unknown_one_never():
    absences = Absences()
    absences.note("ab", "a", now=0.0)
    assert not absences.is_gone("b", GONE_AFTER - 1)
    assert absences.is_gone("b", GONE_AFTER)
    assert not absences.is_gone("a", GONE_AFTER)
    assert not absences.is_gone("c", GONE_AFTER)


def test_what_nobody_knows_any_more_is_dropped():
    absences = Absences()
    absences.note("b", "", now=0.0)
    absences.note("", "", now=1.0)
    assert absences.overdue(2 * FORGET_AFTER) == []
