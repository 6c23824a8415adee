"""What a peer sends on a connection that it opened as it should costs that connection at most."""

import sys

import hypothesis
import pytest
import trio
import trio.testing
from hostile_dialer import (
    HostileDialer,
    frame,
    reset_stream,
    stop_sending,
    stream_frame,
)
from hostile_scene import (
    ALL_PATIENCE,
    CONVERSATIONS,
    DELIVERY,
    FIRST_STREAM,
    LINGER,
    SERVICES,
    Scene,
    scene,
)
from mesh_helpers import all_reach_all, join, meshes

from meshnode.mesh.streams import flowcontrol
from meshnode.mesh.streams import listener as listeners
from meshnode.mesh.streams.streamtable import MOST_STILLBORN, StreamState


@hypothesis.settings(max_examples=40)
@hypothesis.given(CONVERSATIONS)
def test_no_frames_that_hypothesis_finds_end_a_node_or_another_stream(conversations):
    async def converse(found: Scene, service: str, in_one_go: bool, packets: list[bytes]) -> None:
        dialer = await found.dial(service)
        if in_one_go:
            await dialer.send(packets, settle=False)
        else:
            for packet in packets:
                await dialer.send([packet])
        await dialer.settle()
        dialer.vanish()

    async def main() -> None:
        async with scene() as found:
            async with trio.open_nursery() as nursery:
                for conversation in conversations:
                    nursery.start_soon(converse, found, *conversation)
            await found.assert_unharmed()
            # Nothing of it stays for longer than patience with a silent peer lasts.
            await trio.sleep(ALL_PATIENCE)
            assert not found.connections()
            await found.assert_unharmed()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("stream_id", [2, 6, 446, 3, 1, 5])
async def test_streams_of_other_kinds_than_dialers_open_end_their_connection(
    service, stream_id, autojump_clock
):
    async with scene() as found:
        dialer = await found.dial(service)
        await dialer.send([stream_frame(stream_id, b"\0x", end=True)])
        assert dialer.quic.ended is not None
        assert not found.connections()
        await found.assert_unharmed()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_stream_that_is_refused_before_its_first_byte_is_broken_for_its_server(
    service, autojump_clock
):
    async with scene() as found:
        dialer = await found.dial(service)
        await dialer.send([stop_sending(0)])
        await dialer.send([stream_frame(0, b"\0ping")])
        await trio.sleep(1)
        assert found.connections()
        await found.assert_unharmed()


ODD_OPENINGS = [
    pytest.param([stream_frame(0, b"", end=True)], id="ended-empty"),
    pytest.param([stop_sending(0), stream_frame(0, b"", end=True)], id="refused-and-ended-empty"),
    pytest.param([reset_stream(0)], id="reset"),
    pytest.param([stop_sending(0)], id="refused"),
    pytest.param([stream_frame(0, b"x", 5)], id="begun-in-the-middle"),
    pytest.param([frame(0x15, 444, 0)], id="only-named"),
]


@pytest.mark.parametrize("frames", ODD_OPENINGS)
async def test_a_stream_without_a_byte_is_nobodys_and_keeps_no_connection(frames, autojump_clock):
    async with scene() as found:
        dialer = await found.dial("strict")
        await dialer.send(frames)
        (connection,) = found.connections()
        assert not connection._streams.in_use
        dialer.vanish()
        await trio.sleep(FIRST_STREAM + 1)
        assert not found.connections()
        await found.assert_unharmed()


STILLBORN = [
    pytest.param(lambda number: stream_frame(4 * number, b"", end=True), id="ended-empty"),
    pytest.param(lambda number: reset_stream(4 * number), id="reset"),
    pytest.param(lambda number: stream_frame(4 * number, b"x"), id="without-its-first-byte"),
]


@pytest.mark.parametrize("make", STILLBORN)
async def test_a_dialer_whose_streams_all_end_before_they_begin_loses_its_connection(
    make, autojump_clock
):
    async with scene() as found:
        dialer = await found.dial("strict")
        await dialer.send([b"".join(map(make, range(MOST_STILLBORN)))])
        assert found.connections()
        await dialer.send([make(MOST_STILLBORN)])
        assert dialer.quic.ended is not None
        assert not found.connections()
        await found.assert_unharmed()


@pytest.mark.parametrize("make", STILLBORN)
async def test_a_connection_that_had_a_stream_outlives_those_that_never_begin(make, autojump_clock):
    async with scene() as found:
        dialer = await found.dial("strict")
        await dialer.send([b"".join(map(make, range(MOST_STILLBORN)))])
        await dialer.send([stream_frame(4 * MOST_STILLBORN, b"\0")])
        await dialer.send([b"".join(map(make, range(MOST_STILLBORN + 1, 2 * MOST_STILLBORN)))])
        (connection,) = found.connections()
        assert len(list(connection._streams)) == 1


async def test_streams_opened_empty_without_end_leave_nothing_behind(autojump_clock):
    async with scene() as found:
        dialer = await found.dial("strict")
        await dialer.send([stream_frame(0, b"\0")])
        for stream_id in range(4, 4000, 4):
            await dialer.send(
                [stop_sending(stream_id) + stream_frame(stream_id, b"", end=True)],
                settle=stream_id % 80 == 0,
            )
        await dialer.settle()
        (connection,) = found.connections()
        assert connection._streams.in_state(StreamState.OPEN) == [0]
        assert connection._streams.in_state(StreamState.DRAINING) == []
        assert len(connection._quic._streams) < 60
        assert list(connection._quic._credit._consumed) == [0]


async def test_what_waits_for_a_reader_costs_about_what_it_is_however_small_its_pieces(
    autojump_clock,
):
    async with scene() as found:
        dialer = await found.dial("deaf")
        pieces = [stream_frame(0, b"\0", 0)]
        pieces += [stream_frame(0, b"xy", 1 + 2 * n) for n in range(20_000)]
        await dialer.send(
            [b"".join(pieces[n : n + 1000]) for n in range(0, len(pieces), 1000)], settle=False
        )
        await trio.sleep(0.1)
        ((stream,),) = [c._streams for c in found.connections()]
        assert sum(map(len, stream._incoming)) == 40_000
        assert sum(map(sys.getsizeof, stream._incoming)) < 50_000


async def test_a_node_that_acknowledges_nothing_makes_its_writers_wait(autojump_clock, monkeypatch):
    monkeypatch.setattr(flowcontrol, "IN_FLIGHT_OF_NODE", 500_000)
    monkeypatch.setattr(flowcontrol, "UNSENT_OF_NODE", 400_000)
    async with scene() as found:
        for _ in range(20):
            dialer = await found.dial("deaf")
            await dialer.send(
                [frame(0x10, 2**40) + frame(0x11, 0, 2**40) + stream_frame(0, b"\0")], settle=False
            )
            dialer.vanish()
        await trio.sleep(1)
        held = found.connections()
        assert len(held) == 20
        kept = sum(len(c._quic._streams[0].sender._buffer) for c in held)
        assert 500_000 < kept < 500_000 + 400_000 + 20 * flowcontrol.IN_FLIGHT_LEAST
        (common,) = {c._send_budget for c in held}
        await trio.sleep(ALL_PATIENCE)
        assert not found.connections()
        assert (common.streams, common.in_flight) == (0, 0)
        await found.assert_unharmed()


async def test_a_node_that_opens_many_streams_at_once_leaves_room_for_those_of_others(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(listeners, "ACCEPT_BACKLOG", 20)
    async with meshes("victim", "evil", "friend") as nodes:
        victim, evil, friend = nodes
        join(victim, evil)
        join(victim, friend)
        await all_reach_all(nodes)
        listener = await victim.listen("slow")
        dialer = HostileDialer(evil, "victim", "slow")
        await dialer.connect()
        await dialer.send([b"".join(stream_frame(4 * n, b"\0") for n in range(40))])
        await friend.dial("victim", "slow")
        await trio.sleep(1)
        peers = [(await listener.accept()).peer_node for _ in range(11)]
        assert sorted(peers) == ["evil"] * 10 + ["friend"]
        await dialer.send([b"".join(stream_frame(4 * n, b"\0") for n in range(40, 60))])
        assert [(await listener.accept()).peer_node for _ in range(10)] == ["evil"] * 10


async def test_the_end_of_a_stream_that_its_reader_never_takes_is_not_kept_for_ever(autojump_clock):
    async with scene() as found:
        dialer = await found.dial("deaf")
        await dialer.send([frame(0x11, 0, 0) + stream_frame(0, b"\0", end=True)])
        (connection,) = found.connections()
        connection._quic._streams[0].max_stream_data_remote = 1000
        for _ in range(int(DELIVERY + LINGER) // 5 + 1):
            await dialer.send([frame(1)])  # it lives, and answers
            await trio.sleep(5)
        assert not found.connections()
        await found.assert_unharmed()


async def test_a_connection_on_which_no_stream_is_opened_ends(autojump_clock):
    async with scene() as found:
        dialer = await found.dial("strict")
        for _ in range(int(FIRST_STREAM / 2)):
            await trio.sleep(1)
            assert found.connections()
            await dialer.send([frame(1)])
        await trio.sleep(FIRST_STREAM)
        assert not found.connections()


async def test_a_dialer_that_opens_a_stream_late_but_in_time_is_served(autojump_clock):
    async with scene() as found:
        dialer = await found.dial("strict")
        await trio.sleep(FIRST_STREAM - 1)
        await dialer.send([stream_frame(0, b"\0x")])
        await trio.sleep(2)
        assert found.connections()
