"""No branch of the mesh can take all places, however many nodes are invented in it."""

from hypothesis import given
from hypothesis import strategies as st

from meshnode.mesh.mesh import open_mesh
from meshnode.mesh.streams.listener import ACCEPT_BACKLOG
from meshnode.mesh.streams.stream import MeshStream
from meshnode.shares import FEW, Holder, Limit, Shares

MOST, SPARED = 128, 16

NODES = st.tuples(st.integers(0, 200), st.booleans())


@given(st.lists(NODES, max_size=400))
def test_whatever_nodes_one_branch_has_it_leaves_places_to_others(nodes) -> None:
    shares = Shares(MOST, SPARED, of_one=MOST)
    for node, is_near in nodes:
        shares.take(Holder(str(node), "10.0.0.66", is_near))
    assert shares.used <= MOST - SPARED // 2
    assert shares.limit(Holder("honest", "10.0.0.1")) is None


def test_a_node_that_is_linked_to_us_has_a_few_places_beside_a_full_branch() -> None:
    shares = Shares(MOST, SPARED, of_one=MOST)
    for _ in range(MOST - SPARED):
        assert shares.take(Holder("mallory", "10.0.0.66"))
    assert shares.limit(Holder("behind", "10.0.0.66")) is Limit.BRANCH
    near = Holder("near", "10.0.0.66", is_near=True)
    for _ in range(FEW):
        assert shares.take(near)
    assert shares.limit(near) is Limit.BRANCH
    for number in range(SPARED // 2 - FEW):
        assert shares.take(Holder(f"near {number}", "10.0.0.66", is_near=True))
    assert shares.limit(Holder("another", "10.0.0.66", is_near=True)) is Limit.BRANCH


def test_a_place_that_is_given_back_is_free_again_and_what_has_no_branch_meets_the_total() -> None:
    shares = Shares(2, 1, of_one=9)
    node = Holder("node", "a")
    assert shares.take(node)
    assert shares.limit(node) is Limit.BRANCH
    shares.give_back(node)
    assert shares.limit(node) is None
    own = Holder("own")
    assert [shares.take(own) for _ in range(3)] == [True, True, False]
    assert shares.limit(own) is Limit.TOTAL
    assert Shares(9, 1, of_one=0).limit(own) is Limit.HOLDER


TAKEN = st.tuples(st.integers(0, 300), st.booleans(), st.integers(1, 200), st.booleans())


@given(st.lists(TAKEN, max_size=300))
def test_whatever_invented_nodes_take_others_and_this_machine_find_some(steps) -> None:
    shares, held = Shares(1000, 100), list[tuple[Holder, int]]()
    for node, is_near, count, leaves in steps:
        if leaves and held:
            shares.give_back(*held.pop(node % len(held)))
            continue
        step = (Holder(str(node), "10.0.0.66", is_near), count)
        left = shares.left(step[0])
        assert shares.take(*step) == (count <= left)
        if count <= left:
            held.append(step)
    assert shares.used == sum(count for _, count in held) <= 1000 - 50
    assert shares.left(Holder("honest", "10.0.0.1")) >= 25
    assert shares.left(Holder("own")) >= 25
    for step in held:
        shares.give_back(*step)
    assert shares.used == 0
    assert shares.left(Holder("again", "10.0.0.66")) == 500


async def test_streams_of_invented_nodes_that_wait_leave_room_for_those_of_another_branch() -> None:
    async with open_mesh("foo") as mesh:
        listener = await mesh.listen("service")

        def arrives(node: str, branch: str = "") -> bool:
            holder = Holder(node, branch)
            return listener.stream_opened(MeshStream(None, 0, node, "service", holder))

        crowd = [arrives(f"invented {n}", "10.0.0.66") for n in range(2 * ACCEPT_BACKLOG)]
        assert not all(crowd)
        assert arrives("honest", "10.0.0.1")
        assert arrives("foo")
        for _ in range(sum(crowd) + 2):
            await listener.accept()
        assert arrives("invented 0", "10.0.0.66")
        await listener.aclose()
