"""``meshctl status --graph``: the mesh as a tree of text."""

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshctl.render.columns import Terminal, columns_of
from meshctl.render.graph import cheapest_ways, graph_lines

NODES = st.sampled_from([f"n{i}" for i in range(8)])
COSTS = st.dictionaries(NODES, st.dictionaries(NODES, st.sampled_from([1, 1.5, 2, 7])))


def drawn(costs: dict[str, dict[str, float]], **more: Any) -> list[str]:
    return list(graph_lines({"NodeID": "n0", "KnownConnectionCosts": costs, **more}, Terminal()))


def distances(costs: dict[str, dict[str, float]], start: str) -> dict[str, float]:
    """What each node costs at least, found in the dullest way."""
    best = {start: 0.0}
    for _ in range(len(costs) + 1):
        for a, peers in costs.items():
            for b, cost in peers.items():
                if a in best and best[a] + cost < best.get(b, float("inf")):
                    best[b] = best[a] + cost
    return best


@given(COSTS)
def test_the_ways_are_the_cheapest_and_there_is_one_to_each_node_that_is_reached(
    costs: dict[str, dict[str, float]],
) -> None:
    ways = cheapest_ways(costs, "n0")
    best = distances(costs, "n0")
    assert set(ways) | {"n0"} == set(best)
    for node, way in ways.items():
        before = 0 if way.before == "n0" else ways[way.before].cost
        assert best[node] == way.cost == before + costs[way.before][node]


@given(COSTS)
def test_every_node_stands_once_in_the_tree_or_below_it_and_every_link_between_them(
    costs: dict[str, dict[str, float]],
) -> None:
    text = "\n".join(drawn(costs))
    tree, _, away = text.partition("\nKnown, but not reached\n")
    tree, _, others = tree.partition("\nOther links\n")
    in_tree = re.findall(r"(?:^|[├└]─ )(n\d)", tree, re.MULTILINE)
    known = {"n0", *costs, *(peer for peers in costs.values() for peer in peers)}
    assert sorted(in_tree + away.split()) == sorted(known)
    reached = set(in_tree)
    links = {frozenset((a, b)) for a in costs for b in costs[a] if a != b}
    between = {link for link in links if link <= reached}
    assert len(re.findall(" – ", others)) == len(between) - (len(in_tree) - 1)


def test_a_tree_is_indented_and_says_what_is_known_of_links() -> None:
    link = {"NodeID": "bar", "Kind": "tcp", "Address": "h:1", "RoundTrip": 312_000, "SentBytes": 9}
    costs = {
        "n0": {"bar": 1, "qux": 1},
        "bar": {"n0": 1, "n10": 1, "n9": 1},
        "qux": {"n0": 3, "n10": 1.0},
        "n10": {"bar": 1},
        "x": {"y": 1},
    }
    peer = {"Directive": "tcp-peer", "Address": "h:2", "State": "waiting", "Age": 3_000_000_000}
    assert drawn(costs, Connections=[link], Peers=[peer | {"LastError": "refused"}]) == [
        "n0 (asked)",
        "├─ bar  cost 1  tcp h:1 RTT 312µs ↑9 B",
        "│  ├─ n9  cost 1, as only bar says",
        "│  └─ n10  cost 1",
        "└─ qux  cost 1, and 3 back",
        "",
        "Other links",
        "n10 – qux  cost 1.0 back only",
        "",
        "Known, but not reached",
        "x",
        "y",
        "",
        "Peers that are down",
        "tcp-peer h:2  waiting for 3s: refused",
    ]


def test_a_chain_longer_than_any_terminal_is_drawn_to_its_end_within_the_width() -> None:
    costs = {f"n{i}": {f"n{i + 1}": 1} for i in range(3_000)}
    status = {"NodeID": "n0", "KnownConnectionCosts": costs}
    lines = list(graph_lines(status, Terminal(width=40)))
    assert len(lines) == 3_001
    assert max(map(columns_of, lines)) <= 40


@given(st.text(min_size=1))
def test_a_name_moves_no_terminal_and_makes_no_second_line(name: str) -> None:
    lines = drawn({"n0": {name: 1}})
    assert all(line.isprintable() for line in lines)
    assert len(lines) <= 2
