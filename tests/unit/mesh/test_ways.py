"""No branch of the mesh can take all places, however many nodes are invented in it."""

from hypothesis import given
from hypothesis import strategies as st

from meshnode.mesh.mesh import open_mesh
from meshnode.mesh.streams.layer import ACCEPT_BACKLOG
from meshnode.mesh.streams.stream import MeshStream
from meshnode.shares import FEW, NO_WAY, BranchParts, Way, Ways

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


TAKEN = st.tuples(st.integers(0, 300), st.booleans(), st.integers(1, 200), st.booleans())


@given(st.lists(TAKEN, max_size=300))
def test_whatever_invented_nodes_take_others_and_this_machine_find_some(steps) -> None:
    parts, held = BranchParts(1000, 100), list[tuple[bytes, Way, int]]()
    for node, is_near, count, leaves in steps:
        if leaves and held:
            parts.give_back(*held.pop(node % len(held)))
            continue
        step = (b"%d" % node, Way("10.0.0.66", is_near), count)
        left = parts.left(*step[:2])
        assert parts.take(*step) == (count <= left)
        if count <= left:
            held.append(step)
    assert parts.all == sum(count for _, _, count in held) <= 1000 - 50
    assert parts.left(b"honest", Way("10.0.0.1")) >= 25
    assert parts.left(b"own", NO_WAY) >= 25
    for step in held:
        parts.give_back(*step)
    assert parts.all == 0
    assert parts.left(b"again", Way("10.0.0.66")) == 500


async def test_streams_of_invented_nodes_that_wait_leave_room_for_those_of_another_branch() -> None:
    async with open_mesh("foo") as mesh:
        listener = await mesh.listen("service")

        def arrives(node: str, way: Way) -> bool:
            return listener.stream_opened(MeshStream(None, 0, node, "service", way))

        crowd = [arrives(f"invented {n}", Way("10.0.0.66")) for n in range(2 * ACCEPT_BACKLOG)]
        assert not all(crowd)
        assert arrives("honest", Way("10.0.0.1"))
        assert arrives("foo", NO_WAY)
        for _ in range(sum(crowd) + 2):
            await listener.accept()
        assert arrives("invented 0", Way("10.0.0.66"))
        await listener.aclose()
