"""The link-state database: any order of updates gives the same routes."""

import hypothesis.strategies as st
from hypothesis import given

from meshnode.protocol.messages import RoutingUpdate
from meshnode.protocol.topology import SEEN_SECONDS, Topology, Verdict


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
            topology.add_link(b if a == own else a, cost)
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


def test_a_link_that_went_takes_its_routes_with_it():
    topology = linked("a", {("a", "b"): 1, ("b", "c"): 1})
    topology.remove_link("b")
    assert topology.routes() == {}


def test_old_and_seen_updates_are_ignored():
    topology = Topology("a", epoch=7)
    assert topology.apply(update("b", {}, sequence=5), 0) is Verdict.NEW_NODE
    assert topology.apply(update("b", {}, sequence=5), 0) is Verdict.IGNORE
    assert topology.apply(update("b", {}, sequence=5, identifier="other"), 0) is Verdict.IGNORE
    assert topology.apply(update("b", {}, sequence=4), 0) is Verdict.IGNORE
    assert topology.apply(update("b", {}, sequence=6), 0) is Verdict.FORWARD
    assert topology.apply(update("b", {}, epoch=2, sequence=1), 0) is Verdict.FORWARD


def test_an_identifier_is_forgotten_after_an_hour():
    topology = Topology("a", epoch=7)
    topology.apply(update("b", {}, sequence=1, identifier="same"), 0)
    late = update("b", {}, sequence=2, identifier="same")
    assert topology.apply(late, SEEN_SECONDS - 1) is Verdict.IGNORE
    assert topology.apply(late, SEEN_SECONDS + 1) is Verdict.FORWARD


def test_of_two_nodes_with_one_name_the_newcomer_is_told():
    old, new = Topology("a", epoch=1), Topology("a", epoch=2)
    word_of_new = new.own_update("n1")
    assert old.apply(word_of_new, 0) is Verdict.DUPLICATE_SEEN
    complaint = old.own_update("o1", suspected_duplicate=word_of_new.epoch)
    assert new.apply(complaint, 0) is Verdict.WE_ARE_DUPLICATE
    assert new.apply(old.own_update("o2"), 0) is Verdict.IGNORE
    assert old.apply(old.own_update("o3"), 0) is Verdict.IGNORE


def test_others_follow_the_older_of_two_nodes_with_one_name():
    topology = Topology("x", epoch=9)
    topology.apply(update("a", {"p": 1}, epoch=1, sequence=10), 0)
    topology.apply(update("a", {"q": 1}, epoch=2, sequence=1), 0)
    complaint = update("a", {"p": 1}, epoch=1, sequence=11, suspected=2)
    assert topology.apply(complaint, 0) is Verdict.FORWARD
    assert topology.apply(update("a", {"p": 1}, epoch=1, sequence=12), 0) is Verdict.FORWARD
    assert topology.known_costs()["a"] == {"p": 1}


def test_a_new_peer_is_given_what_we_know_in_our_name():
    topology = linked("a", {("a", "b"): 1, ("b", "c"): 1})
    given_to_b = topology.updates_for_new_peer("b")
    assert [u.node_id for u in given_to_b] == ["c"]
    assert given_to_b[0].forwarding_node == "a"


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
def test_any_order_of_updates_ends_in_the_same_routes_once_all_is_said_again(states, chance):
    def final(order):
        topology = Topology("a", epoch=7)
        for (one, other), cost in states[-1].items():
            if one == "a":
                topology.add_link(other, float(cost))
        for item in order:
            topology.apply(item, 0)
        # The periodic updates repeat what is true now.
        for node in NAMES[1:]:
            last = states[-1]
            peers = {
                b if x == node else x: float(c) for (x, b), c in last.items() if node in (x, b)
            }
            topology.apply(update(node, peers, sequence=100), 0)
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
