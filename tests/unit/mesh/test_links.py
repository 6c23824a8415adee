"""One suite for all kinds of link: what the mesh relies on holds for each."""

from contextlib import asynccontextmanager

import pytest
import trio

from meshnode.errors import ProtocolError
from meshnode.mesh.links.memory import MemoryDialer, MemoryListener
from meshnode.mesh.links.tcp import TcpDialer, TcpListener
from meshnode.protocol.framing import MAX_MESSAGE


@asynccontextmanager
async def tcp_link():
    (listener,) = await TcpListener.open(0, "127.0.0.1")
    near = await TcpDialer("127.0.0.1", listener.port).dial()
    far = await listener.accept()
    try:
        yield near, far
    finally:
        for end in (near, far, listener):
            await end.aclose()


@asynccontextmanager
async def memory_link():
    listener = MemoryListener("place")
    near = await MemoryDialer(listener).dial()
    far = await listener.accept()
    try:
        yield near, far
    finally:
        for end in (near, far, listener):
            await end.aclose()


KINDS = pytest.mark.parametrize("open_link", [tcp_link, memory_link])


async def receive(link, count):
    messages = []
    while len(messages) < count:
        batch = await link.receive()
        assert batch, "the link ended early"
        messages += batch
    return [bytes(m) for m in messages]


@KINDS
async def test_messages_arrive_whole_and_in_order_both_ways(open_link):
    async with open_link() as (near, far):
        messages = [b"a", b"b" * 3000, bytes([7]) * 12_345, b"c"]
        for sender, receiver in ((near, far), (far, near)):
            await sender.send(messages)
            assert await receive(receiver, len(messages)) == messages


@KINDS
async def test_the_largest_message_passes(open_link):
    async with open_link() as (near, far):
        largest = bytes(MAX_MESSAGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, [largest, b"after"])
            assert await receive(far, 2) == [largest, b"after"]


@KINDS
async def test_received_messages_can_be_changed_in_place(open_link):
    async with open_link() as (near, far):
        await near.send([b"hops"])
        (message,) = await far.receive()
        message[0] = ord("H")
        assert bytes(message) == b"Hops"


@KINDS
async def test_a_closed_link_ends_for_its_peer(open_link):
    async with open_link() as (near, far):
        await near.aclose()
        assert await far.receive() == []


@KINDS
async def test_a_closed_link_cannot_be_used(open_link):
    async with open_link() as (near, _far):
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.receive()
        with pytest.raises(trio.ClosedResourceError):
            await near.send([b"x"])


@KINDS
async def test_waiting_ends_when_it_is_cancelled(open_link):
    async with open_link() as (near, far):
        with trio.move_on_after(0.01) as scope:
            await far.receive()
        assert scope.cancelled_caught
        await near.send([b"still works"])
        assert await receive(far, 1) == [b"still works"]


@KINDS
async def test_a_link_has_a_name_for_people(open_link):
    async with open_link() as (near, far):
        kind = open_link.__name__.removesuffix("_link")
        assert near.name.startswith(f"{kind} ")
        assert far.name.startswith(f"{kind} ")


async def test_a_tcp_peer_that_sends_an_empty_frame_broke_the_protocol():
    (listener,) = await TcpListener.open(0, "127.0.0.1")
    stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
    link = await listener.accept()
    await stream.send_all(b"\0\0")
    with pytest.raises(ProtocolError):
        await link.receive()
    for end in (stream, link, listener):
        await end.aclose()


async def test_a_tcp_peer_that_stops_within_a_message_broke_the_protocol():
    (listener,) = await TcpListener.open(0, "127.0.0.1")
    stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
    link = await listener.accept()
    await stream.send_all(b"\x05\0ab")
    await stream.aclose()
    with pytest.raises(ProtocolError):
        await link.receive()
    await link.aclose()
    await listener.aclose()


async def test_dialing_where_nobody_listens_says_why():
    (listener,) = await TcpListener.open(0, "127.0.0.1")
    await listener.aclose()
    with pytest.raises(OSError, match="connect"):
        await TcpDialer("127.0.0.1", listener.port).dial()
