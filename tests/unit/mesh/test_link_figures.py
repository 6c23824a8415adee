"""What a node says of its links, and what a bad link costs the others."""

import trio
from mesh_helpers import join, line, meshes

from meshnode.mesh.links.memory import MemoryLink, memory_link_pair
from meshnode.mesh.peers.probes import FIRST_PROBE, PROBE_INTERVAL
from meshnode.mesh.peers.sending import SEND_TIMEOUT
from meshnode.mesh.peers.sendqueue import QUEUE_BYTES
from meshnode.protocol.messages import PING_SERVICE, DataHeader, encode_service
from meshnode.protocol.namehash import name_hash
from meshnode.protocol.peering import IDLE_TIMEOUT
from meshnode.protocol.routing import RoutingUpdate

PAYLOAD = bytes(16_000)


def figures(mesh, peer):
    (connection,) = [c for c in mesh.status().connections if c.peer == peer]
    return connection.figures


class SlowLink(MemoryLink):
    """A link that takes its time for each message, each way."""

    delay = 0.25

    async def send(self, messages):
        await trio.sleep(self.delay)
        await super().send(messages)


def slow(link):
    link.__class__ = SlowLink
    return link


async def test_status_shows_kind_age_and_traffic_of_each_link(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, mid, _):
        await trio.sleep(100)
        before = figures(foo, "mid")
        assert (before.kind, before.address) == ("memory", "foo-mid.a")
        assert 100 <= before.uptime < 101
        assert before.since > 0
        await foo.ping("bar")
        after = figures(foo, "mid")
        assert after.sent_messages == before.sent_messages + 1
        assert after.sent_bytes == before.sent_bytes + 36
        assert after.received_messages == before.received_messages + 1
        # Both ends count alike, and mid's other link has figures of its own.
        far = figures(mid, "foo")
        assert (far.received_messages, far.received_bytes) == (
            after.sent_messages,
            after.sent_bytes,
        )
        assert figures(mid, "bar").address == "mid-bar.a"
        assert after.dropped == 0


async def test_the_round_trip_of_a_link_is_measured_soon_and_again(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        near, far = (slow(link) for link in memory_link_pair())
        foo._nursery.start_soon(foo.run_link, near)
        bar._nursery.start_soon(bar.run_link, far)
        await foo.wait_reachable("bar")
        assert figures(foo, "bar").round_trip is None
        await trio.sleep(FIRST_PROBE + 3)
        first = figures(foo, "bar").round_trip
        assert 2 * SlowLink.delay <= first < 4 * SlowLink.delay
        near.delay = 1.0
        await trio.sleep(PROBE_INTERVAL + 5)
        assert figures(foo, "bar").round_trip > first


async def test_a_peer_that_answers_no_ping_has_no_round_trip(autojump_clock):
    async with meshes("foo") as (foo,):
        near, far = memory_link_pair()
        foo._nursery.start_soon(foo.run_link, near)
        answers = True

        async def peer():
            sequence = 1
            await far.send([RoutingUpdate("bar", "i0", 1, 1, {}, "bar").encode()])
            while batch := await far.receive():
                for message in batch:
                    sequence += 1
                    if message[0] == 1:
                        update = RoutingUpdate(
                            "bar", f"i{sequence}", 1, sequence, {"foo": 1.0}, "bar"
                        )
                        await far.send([update.encode()])
                    elif answers:
                        asked = DataHeader.decode(message)
                        reply = DataHeader(
                            29, name_hash("bar"), asked.source, PING_SERVICE, asked.source_service
                        )
                        await far.send([reply.encode()])

        foo._nursery.start_soon(peer)
        await foo.wait_reachable("bar")
        await trio.sleep(FIRST_PROBE + 1)
        assert figures(foo, "bar").round_trip == 0.0
        answers = False
        await trio.sleep(2 * PROBE_INTERVAL)
        assert figures(foo, "bar").round_trip is None
        answers = True
        await trio.sleep(PROBE_INTERVAL + 1)
        assert figures(foo, "bar").round_trip == 0.0


async def test_a_link_measured_is_left_with_no_service_bound(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        await trio.sleep(FIRST_PROBE + 1)
        assert figures(foo, "bar").round_trip is not None
        assert not foo._router._receivers
        assert not bar._router._receivers


async def open_mute(mesh, name, link):
    """Be a peer that says hello and then reads nothing."""
    await link.send([RoutingUpdate(name, f"hello of {name}", 1, 1, {}, name).encode()])
    await mesh.wait_reachable(name)


def data_for(name):
    here, there = encode_service("here"), encode_service("there")
    header = DataHeader(29, name_hash("foo"), name_hash(name), here, there)
    return bytearray(header.encode() + PAYLOAD)


async def test_a_peer_that_never_reads_costs_a_bounded_queue_and_no_other_link(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        near, far = memory_link_pair("stuck")
        foo._nursery.start_soon(foo.run_link, near)
        await open_mute(foo, "stuck", far)
        session = foo._link_state.sessions["stuck"]
        sent = sum(session.sender.send_data(data_for("stuck")) for _ in range(2000))
        await trio.testing.wait_all_tasks_blocked()
        while session.sender.send_data(data_for("stuck")):
            sent += 1
            await trio.testing.wait_all_tasks_blocked()
        assert session.sender._queue._data_bytes <= QUEUE_BYTES
        assert figures(foo, "stuck").dropped >= 2000 - sent
        # A sender to the stuck peer waits; nobody else does, and routing is not refused.
        assert not foo._router.has_room(name_hash("stuck"))
        assert foo._router.has_room(name_hash("bar"))
        start = trio.current_time()
        assert (await bar.ping("foo")).from_node == "foo"
        assert trio.current_time() == start
        session.sender.send_routing(b"\x01")
        assert "stuck" in foo.status().routes
        await trio.sleep(max(SEND_TIMEOUT, IDLE_TIMEOUT) + 1)
        assert "stuck" not in foo.status().routes
        assert (await foo.ping("bar")).from_node == "bar"


async def test_news_overtakes_the_data_that_waits_on_a_slow_link(autojump_clock):
    async with line("foo", "mid") as (foo, mid):
        near, far = (slow(link) for link in memory_link_pair("slow"))
        async with meshes("far") as (end,):
            mid._nursery.start_soon(mid.run_link, near)
            end._nursery.start_soon(end.run_link, far)
            await foo.wait_reachable("far")
            await trio.sleep(5)
            near.delay = 2.0
            queue = mid._link_state.sessions["far"].sender
            while queue.send_data(data_for("far")):
                pass
            async with meshes("new") as (new,):
                join(new, foo)
                start = trio.current_time()
                await end.wait_reachable("new")
                # Two sends of data are under way or next; hundreds wait.
                assert trio.current_time() - start < 4 * near.delay


async def test_a_link_that_is_slow_but_takes_what_it_is_given_lives(autojump_clock):
    async with meshes("foo", "bar") as (foo, bar):
        near, far = (slow(link) for link in memory_link_pair("slow"))
        near.delay = far.delay = SEND_TIMEOUT / 3
        foo._nursery.start_soon(foo.run_link, near)
        bar._nursery.start_soon(bar.run_link, far)
        await foo.wait_reachable("bar")
        for _ in range(20):
            foo._link_state.sessions["bar"].sender.send_data(data_for("bar"))
        await trio.sleep(10 * SEND_TIMEOUT)
        assert list(foo.status().routes) == ["bar"]
