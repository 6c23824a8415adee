"""What a mesh counts: links that come and go, routes, and what becomes of messages."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from mesh_helpers import all_reach_all, join, line, meshes

from meshnode.errors import MeshError
from meshnode.mesh.dataplane import DropCounts, FirewallCounts
from meshnode.mesh.links.memory import memory_link_pair
from meshnode.mesh.router import Router
from meshnode.protocol.messages import PING_SERVICE, DataHeader, encode_service
from meshnode.protocol.namehash import NameTable, name_hash


def message(destination: str, hops: int = 9, source: str = "baz") -> memoryview:
    header = DataHeader(
        hops, name_hash(source), name_hash(destination), encode_service("x"), PING_SERVICE
    )
    return memoryview(bytearray(header.encode()))


class Hop:
    """A next hop that takes everything."""

    peer = holder = "bar"

    def __init__(self) -> None:
        self.taken = 0

    def send_data_now(self, messages) -> None:
        self.taken += len(messages)


@given(
    st.lists(
        st.lists(st.sampled_from([("bar", 9), ("bar", 0), ("nobody", 9), ("foo", 9)]), max_size=9)
    )
)
def test_each_message_for_others_is_counted_once_by_what_became_of_it(runs):
    async def run() -> None:
        names = NameTable()
        router, hop = Router("foo", names), Hop()
        router.set_next_hops({"bar": hop})
        for one in runs:
            router.handle([message(*what) for what in one])
        sent = [what for one in runs for what in one]
        counts = router.counts
        # An answer to a ping of our own is no forwarding; its sender is unknown here.
        assert counts.forwarded == hop.taken == sent.count(("bar", 9))
        assert counts.expired == sent.count(("bar", 0))
        assert counts.unroutable == sent.count(("nobody", 9))

    trio.run(run)


async def test_links_and_routes_are_counted_as_they_come_and_go(autojump_clock):
    async with meshes("foo", "bar", "baz") as (foo, bar, baz):
        assert foo.figures().links_made == foo.figures().routes == 0
        join(bar, baz)
        near, far = memory_link_pair("foo-bar")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(foo.run_link, near)
            nursery.start_soon(bar.run_link, far)
            await all_reach_all([foo, bar, baz])
            up = foo.figures()
            assert (up.links_made, up.links_lost, up.routes) == (1, 0, 2)
            assert [link.peer for link in up.links] == ["bar"]
            assert up.known_nodes == 2
            assert up.route_computations >= up.route_changes >= 1
            await near.aclose()
        down = foo.figures()
        assert (down.links_made, down.links_lost, down.routes) == (1, 1, 0)
        assert down.links == ()
        assert down.known_nodes == 2  # not forgotten yet
        assert down.route_changes > up.route_changes


async def test_what_passes_is_counted_where_it_passes():
    async with line("foo", "mid", "bar") as (foo, mid, _):
        before = mid.figures()
        await foo.ping("bar")
        after = mid.figures()
        assert after.forwarded == before.forwarded + 2
        with pytest.raises(MeshError):
            await foo.ping("bar", hops=1)
        assert mid.figures().expired == before.expired + 1
        assert foo.figures().forwarded == 0
        assert mid.figures().drops == DropCounts()
        assert mid.figures().firewall == FirewallCounts()
