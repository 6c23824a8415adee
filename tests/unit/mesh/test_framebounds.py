"""What one peer's packets may make the engine keep; an upgrade that moves its inside fails here."""

import random

import hypothesis
import hypothesis.strategies as st
import pytest
from aioquic.quic.rangeset import RangeSet
from aioquic.tls import Epoch
from hostile_dialer import frame, packet_of, stream_frame
from test_quic import CLIENT, SERVER, connected, exchange

from meshnode.mesh.streams.congestion import LARGE_SIZE
from meshnode.mesh.streams.flowcontrol import WIDE_WINDOW
from meshnode.mesh.streams.packets import (
    ASK_AFTER,
    MAX_CRYPTO,
    MAX_CRYPTO_GAPS,
    MAX_FRAMES,
    MAX_GAPS,
    MAX_PEER_CIDS,
    MAX_UNACKNOWLEDGED,
    Pieces,
)


def give(server, client, *frames):
    server.receive_datagram(packet_of(client, b"".join(frames)), CLIENT, 0.0)


def reason(server):
    return server.ended and server.ended.reason_phrase


def pieces(number, start=1):
    """Yield pieces of a stream, none of which touches another."""
    for n in range(number):
        yield stream_frame(0, b"x", start + 2 * n)


def test_a_stream_in_too_many_pieces_ends_its_connection():
    client, server = connected()
    frames = list(pieces(MAX_GAPS + 1))
    for n in range(0, MAX_GAPS, 128):
        give(server, client, *frames[n : n + 128])
    assert server.ended is None
    give(server, client, frames[-1])
    assert reason(server) == "too many gaps in a stream"


def test_a_window_of_which_every_second_packet_was_lost_is_not_too_many_pieces():
    client, server = connected()
    size = 1200
    server._get_or_create_stream(0, 0).max_stream_data_local = WIDE_WINDOW
    offsets = range(size, WIDE_WINDOW - size, 2 * size)
    for offset in random.Random(1).sample(offsets, len(offsets)):
        give(server, client, stream_frame(0, bytes(size), offset))
    assert server.ended is None


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=40)


@hypothesis.given(SPANS)
def test_pieces_are_kept_as_the_engine_keeps_them(spans):
    ours, engines = Pieces(), RangeSet()
    for start, size in spans:
        ours.add(start, start + size)
        engines.add(start, start + size)
        assert list(ours) == list(engines)


TINY = st.sampled_from(
    [frame(1), frame(0x10, 9), frame(0x12, 9), frame(0x14, 9), frame(0x16, 9), frame(9, 0) + b"\0"]
)
"""Frames of one to three bytes that mean next to nothing."""


@hypothesis.settings(max_examples=20)
@hypothesis.given(TINY, st.integers(0, 5))
def test_a_packet_of_thousands_of_frames_ends_its_connection_and_others_pass(tiny, more):
    client, server = connected()
    for _ in range(3):
        give(server, client, *[tiny] * (MAX_FRAMES - 1))  # and what pads the packet
    assert reason(server) != "too many frames in a packet"
    client, server = connected()
    give(server, client, *[frame(1)] * (MAX_FRAMES + 1 + more), tiny)
    assert reason(server) == "too many frames in a packet"


def test_a_datagram_that_is_larger_than_a_listener_takes_is_none():
    client, server = connected()
    server.receive_datagram(packet_of(client, bytes(200)) + bytes(LARGE_SIZE), CLIENT, 5.0)
    assert server.heard_at < 5.0
    server.receive_datagram(packet_of(client, bytes(200)), CLIENT, 5.0)
    assert server.heard_at == 5.0


def test_streams_that_another_opened_are_bounded_too():
    client, server = connected()
    give(server, client, stream_frame(40, b"x"))
    client.send_stream_data(0, b"x")
    for end in (client, server):
        assert all(isinstance(s.receiver._ranges, Pieces) for s in end._streams.values())


def crypto_frame(offset, data=b"x"):
    return frame(6, offset, len(data)) + data


def test_a_dialer_has_no_more_to_say_after_the_handshake():
    client, server = connected()
    give(server, client, crypto_frame(0))
    assert reason(server) == "too much of a handshake"


@pytest.mark.parametrize("offset", [MAX_CRYPTO, 400_000, 2**61])
def test_a_handshake_far_ahead_of_itself_ends_the_connection_before_it_costs_memory(offset):
    client, server = connected()
    client.receive_datagram(packet_of(server, crypto_frame(offset)), SERVER, 0.0)
    assert reason(client) == "too much of a handshake"
    assert not client._crypto_streams[Epoch.ONE_RTT].receiver._buffer


def test_a_message_of_a_handshake_that_never_ends_ends_the_connection():
    client, server = connected()
    begun = b"\x04\xff\xff\xff"
    for offset in range(0, MAX_CRYPTO + 4, 4):
        packet = packet_of(server, crypto_frame(offset, begun))
        client.receive_datagram(packet, SERVER, 0.0)
        if client.ended is not None:
            break
    assert reason(client) == "too much of a handshake"
    assert len(client.tls._receive_buffer) <= MAX_CRYPTO


def test_a_handshake_in_too_many_pieces_ends_the_connection():
    client, server = connected()
    for n in range(MAX_CRYPTO_GAPS + 1):
        client.receive_datagram(packet_of(server, crypto_frame(1 + 2 * n)), SERVER, 0.0)
        assert client.ended is None
    client.receive_datagram(packet_of(server, crypto_frame(5000)), SERVER, 0.0)
    assert reason(client) == "too much of a handshake"


def test_a_connection_works_on_without_what_only_its_handshake_needed():
    client, server = connected()
    sizes = [sum(b.capacity for b in end._crypto_buffers.values()) for end in (client, server)]
    assert sizes == [3 * 16_384] * 2
    for end in (client, server):
        end.drop_handshake()
        assert not end._crypto_buffers
    client.request_key_update()
    client.send_stream_data(0, b"question", end_stream=True)
    exchange(client, server)
    server.send_stream_data(0, b"answer", end_stream=True)
    exchange(client, server, 1.0)
    assert not client.is_known(0)  # both directions are done
    handlers = [end._QuicConnection__frame_handlers for end in (client, server)]
    assert all(handlers[0][kind][1] is handlers[1][kind][1] for kind in handlers[0])
    client.close()
    exchange(client, server, 2.0)
    assert server.ended is not None


def test_a_peer_that_only_ever_asks_is_asked_to_acknowledge():
    client, server = connected()
    now = 0.0
    for _ in range(5 * ASK_AFTER):
        now += 15.0
        client.send_ping(1)
        exchange(client, server, now)
        exchange(client, server, now + 1)
        assert len(server._spaces[Epoch.ONE_RTT].sent_packets) <= ASK_AFTER + 2
    assert server.ended is None


def test_a_peer_that_acknowledges_nothing_is_given_up():
    client, server = connected()
    now, most = 0.0, 0
    while server.ended is None:
        now += 0.01
        server.receive_datagram(packet_of(client, frame(1)), CLIENT, now)
        server.handle_timer(now + 0.004)
        server.datagrams_to_send(now + 0.005)
        most = max(most, len(server._spaces[Epoch.ONE_RTT].sent_packets))
    assert reason(server) == "nothing is acknowledged"
    assert MAX_UNACKNOWLEDGED <= most <= MAX_UNACKNOWLEDGED + 10


def test_connection_ids_without_end_end_the_connection(monkeypatch):
    monkeypatch.setattr("meshnode.mesh.streams.packets.MAX_PEER_CIDS", 20)
    assert MAX_PEER_CIDS > 20
    client, server = connected()
    for number in range(8, 60):
        server.change_connection_id()
        server._retire_connection_ids.clear()
        give(server, client, frame(0x18, number, 0) + b"\x08" + bytes(24))
        if server.ended is not None:
            break
    assert reason(server) == "too many connection IDs"
