"""What waits for nodes that take nothing is bounded, for each and for all beyond one link."""

from hypothesis import given
from hypothesis import strategies as st

from meshnode.mesh.streams.flowcontrol import (
    IN_FLIGHT_LEAST,
    IN_FLIGHT_OF_BRANCH,
    IN_FLIGHT_OF_NODE,
    UNSENT_LEAST,
    UNSENT_MOST,
    UNSENT_OF_BRANCH,
    UNSENT_OF_NODE,
    SendBudget,
)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=100))
def test_what_waits_unsent_for_invented_nodes_is_bounded_for_all_of_them(streams):
    branch = SendBudget.of_branch()
    nodes = [SendBudget.of_node(branch) for _ in streams]
    for node, count in zip(nodes, streams, strict=True):
        node.add_streams(count)
    unsent = [count * node.room(0, 0) for node, count in zip(nodes, streams, strict=True)]
    least = sum(streams) * UNSENT_LEAST
    assert sum(unsent) <= max(UNSENT_OF_BRANCH, least)
    assert all(
        n <= max(UNSENT_OF_NODE, c * UNSENT_LEAST) for n, c in zip(unsent, streams, strict=True)
    )
    honest = SendBudget.of_node(SendBudget.of_branch())
    honest.add_streams(1)
    assert honest.room(0, 0) == UNSENT_MOST
    for node, count in zip(nodes, streams, strict=True):
        node.add_streams(-count)
    assert nodes[0].room(0, 0) == UNSENT_MOST


@given(st.lists(st.integers(1, 2 * IN_FLIGHT_LEAST), min_size=1, max_size=20))
def test_nodes_that_acknowledge_nothing_make_only_those_of_their_branch_wait(sizes):
    branch, sent = SendBudget.of_branch(), 0
    nodes = []
    while any(size for size in sizes):
        node = SendBudget.of_node(branch)
        nodes.append(node)
        if not node.room(0, IN_FLIGHT_LEAST):
            break
        node.add_in_flight(min(IN_FLIGHT_OF_NODE, IN_FLIGHT_OF_BRANCH - sent))
        sent = branch.in_flight
    assert sent == IN_FLIGHT_OF_BRANCH
    assert [nodes[-1].room(0, size) > 0 for size in sizes] == [s < IN_FLIGHT_LEAST for s in sizes]
    assert SendBudget.of_node(SendBudget.of_branch()).room(0, IN_FLIGHT_LEAST)
    assert SendBudget.of_node().room(0, IN_FLIGHT_LEAST)
    for node in nodes:
        node.add_in_flight(-node.in_flight)
    assert branch.in_flight == 0
    assert nodes[-1].room(0, IN_FLIGHT_LEAST)
