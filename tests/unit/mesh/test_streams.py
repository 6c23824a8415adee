"""Streams over the mesh: trio's own conformance suite, back-pressure, loss, and every bad end."""

import os
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from mesh_helpers import join, line, meshes

from meshnode.errors import ProtocolError, ServiceInUse, StreamError, Unreachable
from meshnode.mesh.links.memory import seeded_loss
from meshnode.mesh.mesh import open_mesh
from meshnode.mesh.quic import IDLE_TIMEOUT, STREAM_CREDIT
from meshnode.mesh.streams import UNSENT_MOST


@asynccontextmanager
async def stream_pair(*path, loss=None):
    async with line(*(path or ("foo", "bar")), loss=loss) as nodes:
        listener = await nodes[-1].listen("svc")
        near = await nodes[0].dial(nodes[-1].node_id, "svc")
        far = await listener.accept()
        yield near, far, nodes


async def read_all(stream):
    data = bytearray()
    async for chunk in stream:
        data += chunk
    return bytes(data)


async def pour(stream):
    while True:
        await stream.send_all(bytes(64 * 1024))


async def test_a_mesh_stream_is_a_half_closeable_stream_by_trios_own_rules(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")

        async def make():
            near = await foo.dial("bar", "svc")
            return near, await listener.accept()

        await trio.testing.check_half_closeable_stream(make, None)


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
async def test_bytes_arrive_exactly_both_ways_through_a_node_between(size, autojump_clock):
    async with stream_pair("foo", "mid", "bar") as (near, far, _):
        data = os.urandom(size)

        async def talk(stream):
            await stream.send_all(data)
            await stream.send_eof()

        received = {}

        async def listen_to(name, stream):
            received[name] = await read_all(stream)

        async with trio.open_nursery() as nursery:
            for name, stream in (("near", near), ("far", far)):
                nursery.start_soon(talk, stream)
                nursery.start_soon(listen_to, name, stream)
        assert received == {"near": data, "far": data}


@pytest.mark.parametrize("seed", range(3))
async def test_bytes_arrive_exactly_over_a_link_that_loses_and_reorders(seed, autojump_clock):
    loss = seeded_loss(seed, drop=0.05, reorder=0.1)
    async with stream_pair(loss=loss) as (near, far, _):
        data = os.urandom(200_000)

        async def talk():
            await near.send_all(data)
            await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            assert await read_all(far) == data


@pytest.mark.parametrize("name", ["ünïcödé-節点", "under_score", "x" * 255, "10.0.0.1", "dot."])
async def test_any_node_id_can_dial_and_be_dialed(name, autojump_clock):
    async with line(name, "bar") as (named, bar):
        for dialer, target in ((named, bar), (bar, named)):
            listener = await target.listen("svc")
            near = await dialer.dial(target.node_id, "svc")
            await near.send_all(b"x")
            assert await (await listener.accept()).receive_some() == b"x"


async def test_both_ends_know_who_they_talk_to(autojump_clock):
    async with stream_pair("foo", "mid", "bar") as (near, far, _):
        assert (near.peer_node, near.peer_service) == ("bar", "svc")
        assert far.peer_node == "foo"


async def test_a_node_can_dial_its_own_services(autojump_clock):
    async with meshes("foo") as (foo,):
        listener = await foo.listen("svc")
        near = await foo.dial("localhost", "svc")
        far = await listener.accept()
        await near.send_all(b"me")
        assert await far.receive_some() == b"me"


async def test_the_listener_may_speak_first(autojump_clock):
    async with stream_pair() as (near, far, _):
        await far.send_all(b"greetings")
        assert await near.receive_some() == b"greetings"


async def test_what_was_written_before_closing_arrives(autojump_clock):
    async with stream_pair() as (near, far, _):
        data = os.urandom(300_000)
        await near.send_all(data)
        await near.aclose()
        assert await read_all(far) == data


async def test_a_stream_closed_by_force_is_broken_for_the_other_end(autojump_clock):
    async with stream_pair() as (near, far, _):
        await near.send_all(b"half of")
        assert await far.receive_some() == b"half of"
        await trio.aclose_forcefully(near)
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


async def test_a_reader_that_gives_up_stops_the_writer(autojump_clock):
    async with stream_pair() as (near, far, _):
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await pour(near)


async def test_a_reader_that_stalls_stops_the_writer_and_costs_little(autojump_clock):
    async with stream_pair() as (near, far, _):
        sent = 0

        async def pour():
            nonlocal sent
            while True:
                await near.send_all(bytes(64 * 1024))
                sent += 64 * 1024

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            await trio.sleep(20)
            stalled_at = sent
            await trio.sleep(20)
            assert sent == stalled_at
            assert sent <= STREAM_CREDIT + 2 * UNSENT_MOST
            got = 0
            while got < 2 * stalled_at:
                got += len(await far.receive_some())
            nursery.cancel_scope.cancel()


async def test_an_unknown_service_is_told_at_once(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, _, _):
        start = trio.current_time()
        with pytest.raises(Unreachable, match="service unknown"):
            await foo.dial("bar", "nobody")
        assert trio.current_time() - start < 1


async def test_a_service_name_that_is_too_long_is_refused(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        with pytest.raises(ProtocolError):
            await foo.dial("bar", "ninechars")
        with pytest.raises(ProtocolError):
            await bar.listen("ninechars")
        await bar.listen("svc")
        with pytest.raises(ServiceInUse):
            await bar.listen("svc")


async def test_streams_to_a_node_that_was_restarted_end_at_once(autojump_clock):
    async with meshes("foo", "mid") as (foo, mid):
        join(foo, mid)
        async with open_mesh("bar") as bar:
            join(mid, bar)
            listener = await bar.listen("svc")
            await foo.wait_reachable("bar")
            near = await foo.dial("bar", "svc")
            await listener.accept()
            # As killed: the streams' last words do not get out.
            bar._streams.connections.clear()
        await trio.sleep(1)
        async with open_mesh("bar") as bar:
            bar._fabric.topology.epoch += 1 << 24
            join(mid, bar)
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match="restarted"):
                await near.receive_some()


async def test_a_stream_whose_other_end_is_silent_breaks_after_the_idle_timeout(autojump_clock):
    cut = False
    async with stream_pair(loss=lambda messages: [] if cut else messages) as (near, _, _):
        await trio.sleep(1)
        cut = True
        start = trio.current_time()
        with pytest.raises(trio.BrokenResourceError, match="nothing heard"):
            await near.receive_some()
        assert trio.current_time() - start <= IDLE_TIMEOUT + 1


class _Deaf:
    def on_datagram(self, source, source_service, payload):
        pass

    def on_unreachable(self, notice, reporter):
        pass


async def test_an_idle_stream_is_kept_alive(autojump_clock):
    async with stream_pair() as (near, far, _):
        await trio.sleep(10 * IDLE_TIMEOUT)
        await near.send_all(b"still here")
        assert await far.receive_some() == b"still here"


async def test_a_listener_that_closes_keeps_its_streams_and_takes_no_more(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        near = await foo.dial("bar", "svc")
        far = await listener.accept()
        await listener.aclose()
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"
        with pytest.raises((Unreachable, StreamError)):
            await foo.dial("bar", "svc")
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()
        await near.aclose()
        await far.aclose()
        await trio.sleep(1)
        again = await bar.listen("svc")
        await again.aclose()


async def test_nothing_is_left_of_streams_that_are_done(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        for _ in range(5):
            near = await foo.dial("bar", "svc")
            far = await listener.accept()
            async with near, far:
                await near.send_all(b"q")
                await near.send_eof()
                assert await read_all(far) == b"q"
                await far.send_eof()
                assert await read_all(near) == b""
        await trio.sleep(1)
        assert not foo._streams.connections
        assert not bar._streams.connections
        assert len(foo._router._receivers) == 0


async def test_a_cancelled_dial_leaves_nothing_behind(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        bar._router.bind("svc", _Deaf())
        with trio.move_on_after(1):
            await foo.dial("bar", "svc")
        await trio.sleep(1)
        assert not foo._streams.connections
        assert len(foo._router._receivers) == 0


async def test_garbage_sent_to_a_stream_service_harms_nobody(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        with foo.open_datagrams() as socket:
            for size in (0, 1, 20, 1200, 1500, 60_000):
                for first in (0x00, 0x40, 0xC0, 0xFF):
                    await socket.send_to("bar", "svc", bytes([first]) * size)
        near = await foo.dial("bar", "svc")
        far = await listener.accept()
        await near.send_all(b"fine")
        assert await far.receive_some() == b"fine"
