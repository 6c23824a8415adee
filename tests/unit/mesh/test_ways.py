"""No branch of the mesh can take all places, however many nodes are invented in it."""

from hypothesis import given
from hypothesis import strategies as st

from meshnode.mesh.ways import FEW, Way, Ways

MOST, SPARED = 128, 16

NODES = st.tuples(st.integers(0, 200), st.booleans())


@given(st.lists(NODES, max_size=400))
def test_whatever_nodes_one_branch_has_it_leaves_places_to_others(nodes) -> None:
    ways, held, taken = Ways(MOST, SPARED), dict[int, int](), 0
    for node, is_near in nodes:
        way = Way("10.0.0.66", is_near)
        if not ways.is_full(way, held.get(node, 0)):
            ways.take(way)
            held[node] = held.get(node, 0) + 1
            taken += 1
    assert taken <= MOST - SPARED // 2
    assert not ways.is_full(Way("10.0.0.1"), 0)


def test_a_node_that_is_linked_to_us_has_a_few_places_beside_a_full_branch() -> None:
    ways = Ways(MOST, SPARED)
    for _ in range(MOST - SPARED):
        ways.take(Way("10.0.0.66"))
    assert ways.is_full(Way("10.0.0.66"), 0)
    assert not ways.is_full(Way("10.0.0.66", is_near=True), 0)
    assert ways.is_full(Way("10.0.0.66", is_near=True), FEW)
    for _ in range(SPARED // 2):
        ways.take(Way("10.0.0.66", is_near=True))
    assert ways.is_full(Way("10.0.0.66", is_near=True), 0)


def test_a_place_that_is_given_back_is_free_again_and_what_has_no_way_is_never_full() -> None:
    ways = Ways(2, 1)
    ways.take(Way("a"))
    assert ways.is_full(Way("a"), 0)
    ways.give_back(Way("a"))
    assert not ways.is_full(Way("a"), 0)
    for _ in range(5):
        ways.take(Way())
    assert not ways.is_full(Way(), 0)
