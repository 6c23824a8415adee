"""What a node in the middle passes on, over TCP links: runs of messages, sent at once or queued."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from meshnode.mesh.links.base import Link
from meshnode.mesh.links.tcp import TcpDialer, TcpListener
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.sendqueue import QUEUE_BYTES
from meshnode.protocol.messages import HEADER_LENGTH, DataHeader, MessageType, encode_service
from meshnode.protocol.namehash import NameTable
from meshnode.protocol.routing import RoutingUpdate

PIECE = 16_000
FROM, TO = encode_service("from"), encode_service("to")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A peer of the node that is tested: the far end of a link, driven by hand."""

    name: str
    link: Link

    def message_to(self, name: str, payload: bytes, hops: int = 29) -> bytes:
        names = NameTable()
        return (
            DataHeader(hops, names.learn(self.name), names.learn(name), FROM, TO).encode() + payload
        )

    async def receive_data(self, count: int) -> list[bytes]:
        """Return the next data messages of other neighbours; those of the node are passed over."""
        data: list[bytes] = []
        while len(data) < count:
            messages = await self.link.receive()
            assert messages, f"the link ended after {len(data)} of {count} messages"
            data += [bytes(m) for m in messages if m[0] == MessageType.DATA and m[28:36] == TO]
        return data


@asynccontextmanager
async def neighbours(*names: str) -> AsyncIterator[tuple[Mesh, list[Neighbour]]]:
    """Open a node with these neighbours, to whom it has routes."""
    (listener,) = await TcpListener.open(0)
    async with open_mesh("middle") as mesh:
        mesh.add_listener(listener)
        found = []
        for name in names:
            link = await TcpDialer("127.0.0.1", listener.port).dial()
            await link.send([RoutingUpdate(name, name, 1, 1, {"middle": 1.0}, name).encode()])
            await mesh.wait_reachable(name)
            found.append(Neighbour(name, link))
        try:
            yield mesh, found
        finally:
            for neighbour in found:
                await neighbour.link.aclose()


async def test_a_run_to_several_hops_reaches_each_in_order_with_a_hop_less():
    async with neighbours("left", "one", "two") as (_, [left, one, two]):
        payloads = [b"%d" % number + bytes(number * 7) for number in range(60)]
        await left.link.send(
            [left.message_to(("one", "two")[i % 2], p) for i, p in enumerate(payloads)]
        )
        for hop, sent in ((one, payloads[::2]), (two, payloads[1::2])):
            received = await hop.receive_data(len(sent))
            assert [m[HEADER_LENGTH:] for m in received] == sent
            assert {m[1] for m in received} == {28}


async def test_what_came_before_a_malformed_message_still_goes_its_way():
    async with neighbours("left", "right") as (_, [left, right]):
        await left.link.send([left.message_to("right", b"good"), bytes(HEADER_LENGTH - 1)])
        (received,) = await right.receive_data(1)
        assert received[HEADER_LENGTH:] == b"good"
        while await left.link.receive():
            pass


async def test_messages_for_a_peer_that_reads_late_wait_in_their_order():
    async with neighbours("left", "right") as (mesh, [left, right]):
        sent = [b"%d" % number + bytes(PIECE) for number in range(QUEUE_BYTES // PIECE // 2)]
        # More than a socket takes at once, less than what may be queued.
        await left.link.send([left.message_to("right", payload) for payload in sent])
        await trio.testing.wait_all_tasks_blocked(cushion=0.05)
        received = await right.receive_data(len(sent))
        assert [m[HEADER_LENGTH:] for m in received] == sent
        figures = {c.peer: c.figures for c in mesh.status().connections}
        assert figures["right"].dropped == 0
        assert figures["right"].sent_bytes >= sum(map(len, received))


async def test_a_peer_that_never_reads_loses_whole_messages_and_nobody_else_any():
    async with neighbours("left", "deaf", "right") as (mesh, [left, deaf, right]):
        many = [left.message_to("deaf", b"%d" % i + bytes(PIECE)) for i in range(4000)]

        async def flood():
            for start in range(0, len(many), 100):
                await left.link.send(many[start : start + 100])
            await left.link.send([left.message_to("right", b"after the flood")])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            (last,) = await right.receive_data(1)
        assert last[HEADER_LENGTH:] == b"after the flood"
        dropped = {c.peer: c.figures.dropped for c in mesh.status().connections}
        assert dropped["deaf"] > 0
        received = await deaf.receive_data(len(many) - dropped["deaf"])
        numbers = [int(m[HEADER_LENGTH:-PIECE]) for m in received]
        assert numbers == sorted(set(numbers))
        assert {len(m) for m in received} <= {len(m) for m in many}


async def test_a_message_whose_hops_are_used_up_goes_no_further():
    async with neighbours("left", "right") as (_, [left, right]):
        await left.link.send(
            [left.message_to("right", b"spent", hops=0), left.message_to("right", b"last", hops=1)]
        )
        (received,) = await right.receive_data(1)
        assert (received[1], received[HEADER_LENGTH:]) == (0, b"last")
