"""Streams over the mesh: trio's own conformance suite, back-pressure, loss, and every bad end."""

import gc
import itertools
import os
import weakref
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from mesh_helpers import all_reach_all, join, line, meshes
from receptor_like import ReceptorService

from meshnode import errors, resources
from meshnode.errors import ProtocolError, ServiceInUse, StreamError
from meshnode.mesh.links.memory import seeded_loss
from meshnode.mesh.mesh import open_mesh
from meshnode.mesh.peers.own_services import LocalService
from meshnode.mesh.streams import layer
from meshnode.mesh.streams.congestion import BASE_SIZE, LARGE_SIZE
from meshnode.mesh.streams.connections import CONNECTION_BYTES
from meshnode.mesh.streams.flowcontrol import UNSENT_MOST, UNSENT_OF_NODE, WIDE_WINDOW
from meshnode.mesh.streams.layer import MANY_STREAMS
from meshnode.mesh.streams.quicsettings import MAX_STREAMS
from meshnode.mesh.streams.stream import SEND_CHUNK
from meshnode.mesh.streams.timers import IDLE_TIMEOUT, LINGER, POOL_IDLE
from meshnode.protocol.messages import UNREACHABLE_SERVICE, DataHeader, Unreachable, encode_service
from meshnode.protocol.routing import ConnType


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
            assert sent <= WIDE_WINDOW + 2 * UNSENT_MOST
            got = 0
            while got < 2 * stalled_at:
                got += len(await far.receive_some())
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("shared", [True, False], ids=["one-connection", "one-each"])
async def test_many_writers_to_a_node_share_what_may_wait(shared, autojump_clock):
    streams = 16
    async with line("foo", "bar") as (foo, bar), trio.open_nursery() as nursery:
        await bar.listen("svc", tags=dict([MANY_STREAMS]))
        await trio.sleep(1)
        if not shared:
            foo._link_state.adverts.forget_node("bar")
        sent = [0] * streams

        async def pour(number):
            stream = await foo.dial("bar", "svc")
            while True:
                await stream.send_all(bytes(SEND_CHUNK))
                sent[number] += SEND_CHUNK

        for number in range(streams):
            nursery.start_soon(pour, number)
        await trio.sleep(20)
        share = UNSENT_OF_NODE // streams
        assert max(sent) <= WIDE_WINDOW + share + SEND_CHUNK
        nursery.cancel_scope.cancel()


async def test_an_unknown_service_is_told_at_once(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, _, _):
        start = trio.current_time()
        with pytest.raises(errors.Unreachable, match="service unknown"):
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
            bar._streams.connections._running.clear()
        await trio.sleep(1)
        async with open_mesh("bar") as bar:
            bar._link_state.topology.own.epoch += 1 << 24
            join(mid, bar)
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match="restarted"):
                await near.receive_some()


def forged_notices(of, about):
    """Return notices about all connections of one node with another, as anybody can send them."""
    (connection,) = of._streams.connections
    header = DataHeader.decode(connection._header + bytes(36))
    return [
        Unreachable(
            from_node=of.node_id,
            to_node=about,
            from_service=header.source_service,
            to_service=header.destination_service,
            problem=problem,
        )
        for problem in ("service unknown", "message expired", "blocked by firewall", "x")
    ]


@pytest.mark.parametrize("victim", ["foo", "bar"])
async def test_forged_notices_do_not_end_a_stream_whose_other_end_answers(victim, autojump_clock):
    sent = []

    def count(messages):
        sent.extend(messages)
        return messages

    async with meshes("foo", "mid", "bar") as (foo, mid, bar):
        join(foo, mid, loss=count)
        join(mid, bar)
        await all_reach_all([foo, mid, bar])
        listener = await bar.listen("svc")
        near = await foo.dial("bar", "svc")
        far = await listener.accept()
        await trio.sleep(1)
        target, other = (foo, "bar") if victim == "foo" else (bar, "foo")
        sent.clear()
        for _ in range(200):
            for notice in forged_notices(target, other):
                mid._router.send_notice(notice)
            await trio.sleep(0.05)
        for stream, peer in ((near, far), (far, near)):
            await stream.send_all(b"still here")
            assert await peer.receive_some() == b"still here"
        # Each doubt costs a question and its answer, and there are no more than one a second.
        streams = [m for m in sent if m[0] == 0 and m[28:36] != UNREACHABLE_SERVICE]
        assert len(streams) < 60


async def test_forged_restarts_do_not_end_a_stream_whose_other_end_answers(autojump_clock):
    async with stream_pair("foo", "mid", "bar") as (near, far, (foo, _, bar)):
        for _ in range(250):
            foo._streams.node_restarted("bar")
            bar._streams.node_restarted("foo")
            await trio.sleep(0.02)
        await near.send_all(b"still here")
        assert await far.receive_some() == b"still here"
        await far.send_all(b"so am I")
        assert await near.receive_some() == b"so am I"


async def test_a_notice_of_a_listener_that_is_gone_ends_its_streams_in_a_second(autojump_clock):
    async with stream_pair() as (near, _, (_, bar)):
        await trio.sleep(1)
        (connection,) = bar._streams.connections
        # As killed and started anew within the same life of the node.
        connection._fail(StreamError("killed"))
        start = trio.current_time()
        await near.send_all(b"anybody?")
        with pytest.raises(trio.BrokenResourceError, match="service unknown"):
            await near.receive_some()
        assert trio.current_time() - start < 1.5


async def test_a_service_whose_connection_is_in_doubt_is_dialed_anew(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")
        await foo.dial("bar", "svc")
        await listener.accept()
        (connection,) = bar._streams.connections
        connection._fail(StreamError("killed"))
        foo._streams.node_restarted("bar")
        with trio.fail_after(0.5):
            near = await foo.dial("bar", "svc")
            await exchange(near, await listener.accept())


async def test_garbage_in_the_name_of_a_dead_end_does_not_keep_its_streams(autojump_clock):
    async with stream_pair("foo", "mid", "bar") as (near, _, (foo, mid, bar)):
        await trio.sleep(1)
        (there,) = foo._streams.connections
        header = DataHeader.decode(there._header + bytes(36))
        bar._router.unbind(header.destination_service)
        bar._router.bind(header.destination_service, _Deaf())
        forged = DataHeader(
            29, header.destination, header.source, header.destination_service, header.source_service
        ).encode()
        start = trio.current_time()

        async def babble():
            for size in itertools.cycle((1, 20, 50, 1300)):
                mid._router.send(header.source, forged + b"\x40" + os.urandom(size))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(babble)
            with pytest.raises(trio.BrokenResourceError, match="nothing heard"):
                await near.receive_some()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - start <= IDLE_TIMEOUT + 1


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
        with pytest.raises((errors.Unreachable, StreamError)):
            await foo.dial("bar", "svc")
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()
        await near.aclose()
        await far.aclose()
        await trio.sleep(1)
        again = await bar.listen("svc")
        await again.aclose()


async def exchange(near, far):
    async with near, far:
        await near.send_all(b"q")
        await near.send_eof()
        assert await read_all(far) == b"q"
        await far.send_eof()
        assert await read_all(near) == b""


@pytest.mark.parametrize("shared", [True, False], ids=["meshnode", "receptor"])
async def test_nothing_is_left_of_streams_that_are_done(shared, autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")
        if not shared:
            foo._link_state.adverts.forget_node("bar")
        for _ in range(5):
            near = await foo.dial("bar", "svc")
            await exchange(near, await listener.accept())
        await trio.sleep(1)
        kept = 1 if shared else 0
        assert len(foo._streams.connections) == kept
        assert len(bar._streams.connections) == kept
        assert len(foo._router._receivers) == kept
        assert all(
            not c._streams.in_use for c in [*foo._streams.connections, *bar._streams.connections]
        )
        await trio.sleep(POOL_IDLE)
        assert not foo._streams.connections
        assert not bar._streams.connections
        assert len(foo._router._receivers) == 0


async def knows_service(mesh, service):
    while not any(a.service == service for a in mesh.status().advertisements):
        await trio.sleep(0.01)


async def test_streams_to_one_service_share_a_connection_and_do_not_mix(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, _, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")

        async def serve():
            while True:
                stream = await listener.accept()
                nursery.start_soon(echo, stream)

        async def echo(stream):
            async with stream:
                async for data in stream:
                    await stream.send_all(data)
                await stream.send_eof()

        async def ask(number):
            data = bytes([number]) * 50_000
            async with await foo.dial("bar", "svc") as stream:
                await stream.send_all(data)
                await stream.send_eof()
                assert await read_all(stream) == data

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with trio.open_nursery() as asking:
                for number in range(20):
                    asking.start_soon(ask, number)
            assert len(foo._streams.connections) == 1
            nursery.cancel_scope.cancel()


async def test_connections_that_are_over_are_free_at_once(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        gc.collect()
        gc.disable()
        try:
            # One ends by itself, and one is broken off.
            for end in (lambda: None, lambda: close_all(bar)):
                near = await foo._streams.dial("bar", "svc")
                far = await listener.accept()
                await near.send_all(bytes(100_000))
                await far.receive_some()
                connections = [*foo._streams.connections, *bar._streams.connections]
                left = [weakref.ref(c) for c in connections]
                left += [weakref.ref(c._quic) for c in connections]
                end()
                for stream in (near, far):
                    await stream.aclose()
                del near, far, stream, connections
                await trio.sleep(LINGER + 1)
                assert [ref() for ref in left] == [None] * 4
        finally:
            gc.enable()


def close_all(mesh):
    for connection in list(mesh._streams.connections):
        connection.close()


async def test_memory_is_given_back_when_many_connections_have_ended(autojump_clock, monkeypatch):
    given_back = []

    async def count():
        given_back.append(1)

    monkeypatch.setattr(resources, "trim_memory", count)
    monkeypatch.setattr(resources, "WORTH_IT", 3 * CONNECTION_BYTES)
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        for number in range(1, 8):
            near = await foo._streams.dial("bar", "svc")
            await exchange(near, await listener.accept())
            await trio.sleep(1)
            # One has ended at either end, each of which is a node of its own.
            assert len(given_back) == 2 * (number // 3)


def test_the_c_library_can_be_asked_to_give_memory_back():
    resources._trim()


async def test_more_streams_than_a_connection_takes_get_another_one(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")
        pairs = []
        for _ in range(MAX_STREAMS + 1):
            near = await foo.dial("bar", "svc")
            pairs.append((near, await listener.accept()))
        assert len(foo._streams.connections) == 2
        for near, far in pairs:
            await exchange(near, far)


async def test_a_stalled_reader_does_not_slow_its_neighbours(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")

        async def stall():
            near = await foo.dial("bar", "svc")
            await listener.accept()
            nursery.start_soon(pour, near)

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                await stall()
            await trio.sleep(5)
            assert len(foo._streams.connections) == 1
            near = await foo.dial("bar", "svc")
            far = await listener.accept()
            data = os.urandom(500_000)

            async def talk():
                await near.send_all(data)
                await near.send_eof()

            nursery.start_soon(talk)
            with trio.fail_after(5):
                assert await read_all(far) == data
            nursery.cancel_scope.cancel()


async def test_words_for_a_stream_that_its_listener_has_left_open_no_new_one(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")
        near = await foo.dial("bar", "svc")
        far = await listener.accept()
        await far.aclose()
        await near.send_eof()
        await trio.sleep(1)
        await near.aclose()
        await trio.sleep(1)
        again = await foo.dial("bar", "svc")
        await exchange(again, await listener.accept())
        assert len(bar._streams.connections) == 1


async def test_a_shared_connection_that_ended_is_replaced(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")
        near = await foo.dial("bar", "svc")
        await listener.accept()
        for connection in list(bar._streams.connections):
            connection.close()
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        again = await foo.dial("bar", "svc")
        await exchange(again, await listener.accept())


async def test_a_cancelled_dial_does_not_take_the_handshake_from_others(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")
        dialed = []

        async def dial():
            dialed.append(await foo.dial("bar", "svc"))

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as first:
                    first.start_soon(dial)
                    await trio.lowlevel.checkpoint()
                    nursery.start_soon(dial)
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
        await exchange(dialed[-1], await listener.accept())


# --- services that are not what they are advertised as -----------------------------------------


@asynccontextmanager
async def forged_advert():
    """foo believes that a service as receptor's takes many streams on a connection."""
    async with line("foo", "bar") as (foo, bar):
        service = ReceptorService(bar, "svc")
        bar._link_state.announcer.add(
            LocalService("svc", ConnType.STREAM, dict([MANY_STREAMS]), None)
        )
        await knows_service(foo, "svc")
        yield foo, bar, service


async def ask(mesh, data):
    async with await mesh.dial("bar", "svc") as stream:
        await stream.send_all(data)
        await stream.send_eof()
        assert await read_all(stream) == data


@pytest.mark.parametrize("count", [1, 2, 30])
async def test_a_forged_tag_of_a_receptor_service_costs_none_of_its_streams(
    count, autojump_clock, caplog
):
    async with forged_advert() as (foo, _, service):
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(ask, foo, bytes([number]) * 5000)
        assert service.made == 2 * count
        await trio.sleep(1)
        assert not foo._streams.connections
    assert sum("is advertised as one that takes many streams" in t for t in caplog.messages) == 1


async def test_a_service_that_begins_to_take_many_streams_is_found_to_after_its_restart(
    autojump_clock,
):
    async with forged_advert() as (foo, bar, service):
        await ask(foo, b"x")
        await trio.sleep(1)
        bar._router.unbind(service._key)
        foo._streams.node_restarted("bar")
        listener = await bar.listen("svc")
        pairs = [(await foo.dial("bar", "svc"), await listener.accept()) for _ in range(3)]
        assert len(foo._streams.connections) == 1
        for near, far in pairs:
            await exchange(near, far)


async def test_what_is_remembered_of_services_that_take_one_stream_is_bounded(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(layer, "MAX_SINGLES", 3)
    async with line("foo", "bar") as (foo, bar):
        for number in range(5):
            ReceptorService(bar, f"svc{number}")
            await foo._streams.dial("bar", f"svc{number}", share=True)
        assert len(foo._streams._singles) == 3


async def test_a_shared_connection_whose_dials_were_all_given_up_is_given_up_too(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")
        for _ in range(50):
            with trio.move_on_after(0):
                await foo.dial("bar", "svc")
        await trio.sleep(1)
        assert not foo._streams.connections
        assert not foo._streams._pool
        assert not bar._streams.connections
        near = await foo.dial("bar", "svc")
        await exchange(near, await listener.accept())


async def test_no_more_dials_wait_for_a_handshake_than_its_connection_takes_streams(
    autojump_clock,
):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        await knows_service(foo, "svc")
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_STREAMS + 1):
                nursery.start_soon(foo.dial, "bar", "svc")
                nursery.start_soon(listener.accept)
        assert sorted(c._streams.in_use for c in foo._streams.connections) == [1, MAX_STREAMS]


async def test_datagrams_grow_between_meshnodes_through_a_node_between(autojump_clock):
    async with stream_pair("foo", "mid", "bar") as (near, far, (foo, _, bar)):
        await near.send_all(bytes(300_000))
        got = 0
        while got < 300_000:
            got += len(await far.receive_some())
        await trio.sleep(1)
        for mesh in (foo, bar):
            (connection,) = mesh._streams.connections
            assert connection._quic.datagram_size == LARGE_SIZE


async def test_a_link_that_loses_large_datagrams_carries_everything_all_the_same(autojump_clock):
    def lose_large(messages):
        return [m for m in messages if len(m) <= 2000]

    async with stream_pair(loss=lose_large) as (near, far, (foo, _)):
        data = os.urandom(400_000)

        async def talk():
            await near.send_all(data)
            await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            assert await read_all(far) == data
        (connection,) = foo._streams.connections
        assert connection._quic.datagram_size == BASE_SIZE


async def test_a_transfer_survives_a_path_that_begins_to_lose_large_datagrams(autojump_clock):
    small_only = False

    def lose(messages):
        return [m for m in messages if len(m) <= 2000 or not small_only]

    async with stream_pair(loss=lose) as (near, far, (foo, _)):
        data = os.urandom(3_000_000)
        got = bytearray()

        async def talk():
            await near.send_all(data)
            await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            async for chunk in far:
                got += chunk
                small_only = len(got) > 1_000_000
        assert got == data
        (connection,) = foo._streams.connections
        assert connection._quic.datagram_size == BASE_SIZE


async def test_a_cancelled_dial_leaves_nothing_behind(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        bar._router.bind(encode_service("svc"), _Deaf())
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
