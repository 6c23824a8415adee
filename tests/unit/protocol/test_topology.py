"""The link-state database: any order of updates gives the same routes."""

import itertools
import random

import hypothesis.strategies as st
from hypothesis import given

from meshnode.protocol.own_links import OwnLinks, OwnVerdict
from meshnode.protocol.routing import RoutingUpdate
from meshnode.protocol.topology import (
    CONTESTED_SECONDS,
    REMOVAL_DELAY,
    SEEN_SECONDS,
    UPDATE_LIFETIME,
    Topology,
    Verdict,
)


def update(node, connections, *, sequence=1, epoch=1, identifier=None, suspected=0, via=None):
    return RoutingUpdate(
        node_id=node,
        update_id=identifier or f"{node}-{epoch}-{sequence}-{suspected}",
        epoch=epoch,
        sequence=sequence,
        connections=connections,
        forwarding_node=via or node,
        suspected_duplicate=suspected,
    )


def linked(own, links):
    """Return the topology of ``own`` in a mesh of links {(a, b): cost}, all updates applied."""
    topology = Topology(own, epoch=7)
    nodes = {n for pair in links for n in pair}
    for (a, b), cost in links.items():
        if own in (a, b):
            topology.own.add(b if a == own else a, cost)
    for node in sorted(nodes - {own}):
        peers = {b if a == node else a: c for (a, b), c in links.items() if node in (a, b)}
        topology.apply(update(node, peers), now=0)
    return topology


def test_the_cheapest_path_wins():
    links = {("a", "b"): 1, ("b", "d"): 1, ("a", "c"): 5, ("c", "d"): 5}
    assert linked("a", links).routes() == {"b": "b", "c": "c", "d": "b"}
    links["b", "d"] = 100
    assert linked("a", links).routes() == {"b": "b", "c": "c", "d": "c"}


def test_of_equal_paths_always_the_same_is_taken():
    links = {("a", "c"): 1, ("a", "b"): 1, ("c", "d"): 1, ("b", "d"): 1}
    assert linked("a", links).routes()["d"] == "b"


def test_an_expensive_direct_link_gives_way_to_a_cheap_detour():
    links = {("a", "b"): 10, ("a", "c"): 1, ("c", "b"): 1}
    assert linked("a", links).routes() == {"b": "c", "c": "c"}


def test_a_node_that_no_longer_lists_another_loses_the_edge_both_ways():
    topology = linked("a", {("a", "b"): 1, ("b", "c"): 1})
    assert topology.routes()["c"] == "b"
    topology.apply(update("b", {"a": 1}, sequence=2), now=0)
    assert topology.known_costs()["c"] == {}
    assert "c" not in topology.routes()


def test_an_edge_counts_while_both_ends_claim_it_whatever_order_they_speak_in():
    words = [
        update("b", {"a": 1, "c": 1}),
        update("c", {"b": 1}),
        update("b", {"a": 1}, sequence=2),
    ]
    for order in itertools.permutations(words):
        topology = Topology("a", epoch=7)
        topology.own.add("b", 1)
        for word in order:
            topology.apply(word, 0)
        assert topology.routes() == {"b": "b"}


def test_a_node_that_only_others_speak_of_is_no_destination():
    topology = Topology("a", epoch=7)
    topology.own.add("b", 1)
    topology.apply(update("b", {"a": 1, "invented": 1}), 0)
    assert topology.routes() == {"b": "b"}
    assert topology.known_costs() == {"a": {"b": 1}, "b": {"a": 1}}


def test_each_direction_costs_what_its_sender_says_as_receptor_reckons():
    topology = linked("a", {("a", "b"): 1, ("a", "c"): 1})
    topology.apply(update("b", {"a": 1, "d": 5}, sequence=2), 0)
    topology.apply(update("c", {"a": 1, "d": 4}, sequence=2), 0)
    topology.apply(update("d", {"b": 1, "c": 9}), 0)
    assert topology.routes()["d"] == "c"


def test_a_way_as_good_as_the_current_one_moves_nothing_and_a_better_one_does():
    links = {("a", "c"): 1, ("c", "d"): 1, ("d", "e"): 1}
    topology = linked("a", links)
    before = topology.routes()
    topology.own.add("b", 1)
    topology.apply(update("b", {"a": 1, "d": 1}), 0)
    topology.apply(update("d", {"b": 1, "c": 1, "e": 1}, sequence=2), 0)
    assert topology.routes(before) == before | {"b": "b"}
    assert topology.routes()["e"] == "b"
    topology.apply(update("b", {"a": 1, "d": 0.5}, sequence=2), 0)
    assert topology.routes(before)["e"] == "b"


def test_a_forgotten_node_leaves_no_trace_and_may_come_back():
    topology = linked("a", {("a", "b"): 1, ("b", "c"): 1})
    before = topology.version
    topology.forget("c")
    assert topology.version > before
    assert topology.known_costs() == {"a": {"b": 1}, "b": {"a": 1}}
    assert topology.apply(update("c", {"b": 1}, sequence=2), 0) is Verdict.NEW_NODE
    assert topology.routes()["c"] == "b"
    topology.forget("nobody")


def test_a_later_life_known_of_a_node_is_told_apart_from_an_old_word():
    topology = Topology("a", epoch=7)
    topology.apply(update("b", {}, epoch=5), 0)
    assert topology.apply(update("b", {}, epoch=4, sequence=9), 0) is Verdict.OUTDATED


def test_a_node_whose_clock_was_set_back_is_followed_once_it_has_seen_its_former_life():
    others, reborn = Topology("x", epoch=1), OwnLinks("a", epoch=3)
    others.apply(update("a", {"x": 1}, epoch=8, sequence=50), 0)
    assert others.apply(reborn.next_update("r1"), 0) is Verdict.OUTDATED
    former = RoutingUpdate.decode(others.message_about("a"))
    assert reborn.judge(former) is OwnVerdict.NEWER_THAN_OURS
    assert others.apply(reborn.next_update("r2", former.epoch), 0) is Verdict.FORWARD
    assert others.apply(reborn.next_update("r3"), 0) is Verdict.FORWARD
    assert others.epoch_of("a") == 3


def test_a_link_that_went_takes_its_routes_with_it():
    topology = linked("a", {("a", "b"): 1, ("b", "c"): 1})
    topology.own.remove("b")
    assert topology.routes() == {}


def received(*args, **kwargs):
    return RoutingUpdate.decode(update(*args, **kwargs).encode())


def test_old_updates_are_ignored():
    topology = Topology("a", epoch=7)
    assert topology.apply(update("b", {}, sequence=5), 0) is Verdict.NEW_NODE
    assert topology.apply(update("b", {}, sequence=5), 0) is Verdict.IGNORE
    assert topology.apply(update("b", {}, sequence=5, identifier="other"), 0) is Verdict.IGNORE
    assert topology.apply(update("b", {}, sequence=4), 0) is Verdict.OUTDATED
    assert topology.apply(update("b", {}, sequence=6), 0) is Verdict.FORWARD
    assert topology.apply(update("b", {}, epoch=2, sequence=1), 0) is Verdict.FORWARD


def test_an_update_that_was_judged_is_known_for_an_hour():
    topology = Topology("a", epoch=7)
    word = received("b", {}, sequence=2)
    assert not topology.is_seen(word.key)
    assert topology.apply(word, 0) is Verdict.NEW_NODE
    assert topology.is_seen(word.key)
    assert topology.apply(word, SEEN_SECONDS - 1) is Verdict.IGNORE
    assert topology.apply(word, SEEN_SECONDS + 1) is Verdict.FORWARD


def test_nobody_can_hide_an_update_behind_its_identifier():
    topology = Topology("a", epoch=7)
    topology.apply(received("other", {}, identifier="same"), 0)
    topology.apply(received("b", {"x": 1}, sequence=5, identifier="same"), 0)
    assert topology.apply(received("b", {}, sequence=6, identifier="same"), 0) is Verdict.FORWARD


def test_a_claim_is_passed_on_once():
    topology = Topology("a", epoch=7)
    claim = received("b", {}, suspected=9)
    assert topology.apply(claim, 0) is Verdict.FORWARD
    assert topology.apply(claim, 0) is Verdict.IGNORE


def test_a_word_keeps_older_ones_from_counting_for_a_time_only():
    topology = Topology("a", epoch=7)
    last = (1 << 64) - 1
    topology.apply(update("b", {"x": 1}, epoch=last, sequence=last), 0)
    assert topology.apply(update("b", {}, sequence=1), UPDATE_LIFETIME - 1) is Verdict.OUTDATED
    assert topology.apply(update("b", {}, sequence=1), UPDATE_LIFETIME) is Verdict.FORWARD
    assert topology.epoch_of("b") == 1


NUMBERS = st.one_of(
    st.integers(0, 8), st.sampled_from([(1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1])
)
FORGED = st.builds(
    lambda epoch, sequence, suspected, links: update(
        "a", dict.fromkeys(links, 1.0), epoch=epoch, sequence=sequence, suspected=suspected
    ),
    NUMBERS,
    NUMBERS,
    st.one_of(st.just(0), st.just(5), NUMBERS),
    st.sets(st.sampled_from("wxy")),
)


@given(st.lists(FORGED, max_size=20), st.data())
def test_whatever_others_say_in_its_name_the_owners_word_is_the_last(forged, data):
    # The owner hears all that others hear, in another order, and each hears all that it answers.
    owner = OwnLinks("a", epoch=5)
    owner.add("x", 1.0)
    others = [Topology("x", epoch=1), Topology("y", epoch=1)]
    for other in others:
        other.apply(owner.next_update("first"), 0)
        for word in data.draw(st.permutations(forged)):
            other.apply(word, 0)
    claims = set()
    spoken = False
    for word in data.draw(st.permutations(forged)):
        verdict = owner.judge(word)
        spoken = spoken or verdict is not OwnVerdict.IGNORE
        if verdict in (OwnVerdict.NEWER_THAN_OURS, OwnVerdict.WE_ARE_DUPLICATE):
            claims.add(word.epoch)
    answers = [owner.next_update(f"claim{epoch}", epoch) for epoch in claims]
    if spoken:
        answers.append(owner.next_update("word"))
    for other in others:
        for answer in answers:
            other.apply(answer, 0)
        assert other.epoch_of("a") == 5
        assert RoutingUpdate.decode(other.message_about("a")).connections == {"x": 1.0}
        assert other.apply(owner.next_update("next"), 0) is Verdict.FORWARD


def contested(links):
    """Return the topology of ``own``, and an owner that has just disowned a word of others."""
    topology = linked("own", links)
    topology.apply(update("a", {}, epoch=1, sequence=2, suspected=1), 0)
    return topology


def test_an_edge_of_a_contested_node_outlasts_a_word_that_its_peer_contradicts():
    topology = contested({("own", "x"): 1, ("x", "a"): 1, ("a", "y"): 1})
    for second in range(10):
        topology.apply(update("a", {}, sequence=3 + 2 * second), second)
        assert topology.remove_due(second) == second + REMOVAL_DELAY
        assert topology.routes().keys() == {"x", "a", "y"}
        topology.apply(update("a", {"x": 1, "y": 1}, sequence=4 + 2 * second), second + 0.9)
        assert topology.remove_due(second + 0.9) is None
        assert not topology.has_removals
    topology.apply(update("a", {"x": 1}, sequence=100), 20)
    topology.remove_due(20 + REMOVAL_DELAY - 0.1)
    assert topology.routes().keys() == {"x", "a", "y"}
    assert topology.remove_due(20 + REMOVAL_DELAY) is None
    assert topology.routes().keys() == {"x", "a"}


def test_an_edge_that_both_ends_give_up_goes_at_once_contested_or_not():
    topology = contested({("own", "x"): 1, ("x", "a"): 1})
    topology.apply(update("a", {}, sequence=3), 1)
    topology.apply(update("x", {"own": 1}, sequence=2), 1)
    assert topology.routes().keys() == {"x"}


def test_long_after_a_node_was_contested_its_word_counts_at_once():
    topology = contested({("own", "x"): 1, ("x", "a"): 1})
    topology.apply(update("a", {}, sequence=3), CONTESTED_SECONDS)
    assert topology.routes().keys() == {"x"}


def test_others_follow_the_older_of_two_nodes_with_one_name():
    topology = Topology("x", epoch=9)
    topology.apply(update("a", {"p": 1}, epoch=1, sequence=10), 0)
    topology.apply(update("a", {"q": 1}, epoch=2, sequence=1), 0)
    assert topology.epoch_of("a") == 2
    complaint = update("a", {"p": 1}, epoch=1, sequence=11, suspected=2)
    assert topology.apply(complaint, 0) is Verdict.FORWARD
    assert topology.apply(update("a", {"p": 1}, epoch=1, sequence=12), 0) is Verdict.FORWARD
    assert topology.epoch_of("a") == 1


def test_a_new_peer_is_given_what_we_know_in_our_name():
    topology = linked("a", {("a", "b"): 1, ("b", "c"): 1})
    given = RoutingUpdate.decode(topology.message_about("c"))
    assert (given.node_id, given.forwarding_node) == ("c", "a")
    assert given.connections == {"b": 1}
    assert topology.message_about("nobody") is None


def test_routes_count_as_changed_only_when_an_edge_did():
    topology = linked("a", {("a", "b"): 1, ("b", "c"): 1})
    before = topology.version
    topology.apply(update("b", {"a": 1, "c": 1}, sequence=2), 0)
    assert topology.version == before
    topology.apply(update("b", {"a": 1, "c": 2}, sequence=3), 0)
    assert topology.version > before


NAMES = "abcdefg"
LINKS = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).filter(lambda p: p[0] < p[1]),
    st.integers(1, 9),
    max_size=12,
)


def history(states):
    """Return the updates that nodes send as the mesh goes through these states."""
    updates = []
    for sequence, links in enumerate(states, 1):
        for node in NAMES[1:]:
            peers = {
                b if a == node else a: float(c) for (a, b), c in links.items() if node in (a, b)
            }
            updates.append(update(node, peers, sequence=sequence))
    return updates


@given(st.lists(LINKS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_any_order_of_updates_ends_in_the_same_routes(states, chance):
    def final(order):
        topology = Topology("a", epoch=7)
        for (one, other), cost in states[-1].items():
            if one == "a":
                topology.own.add(other, float(cost))
        for item in order:
            topology.apply(item, 0)
        return topology.routes()

    updates = history(states)
    shuffled = list(updates)
    chance.shuffle(shuffled)
    assert final(updates) == final(shuffled)


@given(LINKS)
def test_every_node_that_links_lead_to_is_reached_and_no_other(links):
    costs = {pair: float(cost) for pair, cost in links.items()}
    reached, frontier = set(), {"a"}
    while frontier:
        node = frontier.pop()
        reached.add(node)
        frontier |= {b if a == node else a for a, b in links if node in (a, b)} - reached
    assert set(linked("a", costs).routes()) == reached - {"a"}


def mesh_of(count, links, seed):
    """Return links of a connected mesh: a ring and random chords."""
    chance = random.Random(seed)
    names = [f"n{i:04}" for i in range(count)]
    costs = {tuple(sorted((names[i], names[i - 1]))): 1 for i in range(count)}
    while len(costs) < links:
        costs[tuple(sorted(chance.sample(names, 2)))] = chance.randint(1, 5)
    return linked(names[0], costs)


def test_routes_cost_one_look_at_each_edge_however_large_the_mesh_is():
    for count, links in ((50, 150), (1000, 3000)):
        topology = mesh_of(count, links, seed=1)
        before = topology.relaxations
        assert len(topology.routes()) == count - 1
        # Both directions of each link, once; our own links are not looked at, only from afar.
        assert topology.relaxations - before <= 2 * links


def test_an_update_that_changes_nothing_computes_nothing():
    topology = mesh_of(50, 150, seed=2)
    before = topology.version
    node = next(iter(topology.routes()))
    claims = RoutingUpdate.decode(topology.message_about(node)).connections
    assert topology.apply(update(node, claims, sequence=2), 0) is Verdict.FORWARD
    assert topology.version == before
