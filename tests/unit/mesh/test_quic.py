"""What is touched of the QUIC engine's inside: an upgrade that moves it fails here first."""

import math

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.congestion.base import create_congestion_control
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import pull_quic_transport_parameters
from aioquic.tls import Epoch

from meshnode.mesh.streams.admission import first_packet
from meshnode.mesh.streams.congestion import (
    BASE_SIZE,
    FLIGHT_PACKETS,
    LARGE_FLIGHT,
    LARGE_SIZE,
    RETRY,
)
from meshnode.mesh.streams.ends import describe_end
from meshnode.mesh.streams.flowcontrol import (
    FIRST_WINDOW,
    MAX_BYTES,
    MAX_PEER_STREAMS,
    WIDE_WINDOW,
    Credit,
    CreditPool,
)
from meshnode.mesh.streams.identity import make_insecure_identity
from meshnode.mesh.streams.packets import LeanHeaderProtection
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.mesh.streams.quicsettings import ACK_DELAY, CONNECTION_CREDIT, NORMAL_CLOSE
from meshnode.shares import Holder

CLIENT, SERVER = (b"client", "c"), (b"server", "s")


def exchange(client, server, now=0.0):
    """Pass datagrams both ways until both are silent; returns the largest size seen."""
    largest = 0
    while True:
        there = client.datagrams_to_send(now)
        for data, _ in there:
            server.receive_datagram(data, CLIENT, now)
        back = server.datagrams_to_send(now)
        for data, _ in back:
            client.receive_datagram(data, SERVER, now)
        if not there and not back:
            return largest
        largest = max([largest, *(len(d) for d, _ in there + back)])


def new_credit():
    return Credit(CreditPool(), Holder(""))


def connected(client=None):
    client = client or MeshQuicConnection.client("foo", SERVER, 0.0, new_credit())
    ((first, _),) = client.datagrams_to_send(0.0)
    initial = first_packet(first).initial
    assert initial is not None
    server = MeshQuicConnection.server(
        make_insecure_identity(), new_credit(), initial.destination_cid
    )
    server.receive_datagram(first, CLIENT, 0.0)
    exchange(client, server)
    return client, server


def events(connection):
    found = []
    while (event := connection.next_event()) is not None:
        found.append(event)
    return found


def test_a_connection_opens_and_shows_the_insecure_identity():
    client, server = connected()
    assert "HandshakeCompleted" in {type(e).__name__ for e in events(client)}
    assert "HandshakeCompleted" in {type(e).__name__ for e in events(server)}
    assert client.has_insecure_certificate()


def test_no_packet_is_larger_than_a_receptor_node_takes():
    client, server = connected()
    client.send_stream_data(0, bytes(500_000))
    assert exchange(client, server) <= BASE_SIZE


def test_the_largest_datagram_is_announced():
    client, _ = connected()
    parameters = pull_quic_transport_parameters(
        Buffer(data=client._serialize_transport_parameters())
    )
    assert parameters.max_udp_payload_size == LARGE_SIZE


def test_both_ends_say_in_the_handshake_that_a_connection_carries_many_streams():
    client, server = connected()
    assert client.takes_many_streams
    assert server.takes_many_streams


def test_an_end_that_does_not_say_so_is_one_that_takes_a_single_stream():
    client, server = connected()
    client._parse_transport_parameters(
        QuicConnection._serialize_transport_parameters(server), from_session_ticket=True
    )
    assert not client.takes_many_streams


def test_bursts_are_sent_at_once_and_bounded():
    client, _ = connected()
    for stream_id in (0, 4, 8):
        client.send_stream_data(stream_id, bytes(10_000_000))
    burst = client.datagrams_to_send(0.0)
    assert FLIGHT_PACKETS - 5 <= len(burst) <= FLIGHT_PACKETS + 1


def settle(client, server, now, rounds=200):
    for _ in range(rounds):
        now += 0.01
        exchange(client, server, now)
    return now


def arrived(server, *stream_ids):
    return sum(server._streams[i].receiver.highest_offset for i in stream_ids)


def read_all(server, stream_id):
    read = server._credit._consumed.get(stream_id, 0)
    server.consume(stream_id, arrived(server, stream_id) - read)


def test_credit_follows_what_was_read_and_not_what_arrived():
    client, server = connected()
    client.send_stream_data(0, bytes(3 * CONNECTION_CREDIT))
    now = settle(client, server, 0.0)
    assert arrived(server, 0) == FIRST_WINDOW
    assert server.consume(0, FIRST_WINDOW)
    now = settle(client, server, now)
    assert arrived(server, 0) == FIRST_WINDOW + WIDE_WINDOW
    assert server.consume(0, WIDE_WINDOW)
    settle(client, server, now)
    assert arrived(server, 0) == FIRST_WINDOW + 2 * WIDE_WINDOW


@pytest.mark.parametrize("read", [False, True])
def test_streams_whose_readers_stall_do_not_stop_another(read):
    client, server = connected()
    last = 4 * 40
    stalled = range(0, last, 4)
    for stream_id in stalled:
        client.send_stream_data(stream_id, bytes(WIDE_WINDOW // 2))
    now = settle(client, server, 0.0, rounds=50)
    assert arrived(server, *stalled) == len(stalled) * FIRST_WINDOW
    if read:
        for stream_id in stalled:
            server.consume(stream_id, FIRST_WINDOW)
        now = settle(client, server, now, rounds=100)
    unread = arrived(server, *stalled) - sum(server._credit._consumed.values())
    assert unread <= MAX_BYTES // 2
    client.send_stream_data(last, bytes(3 * FIRST_WINDOW), end_stream=True)
    for _ in range(20):
        now = settle(client, server, now, rounds=5)
        read_all(server, last)
    assert server._streams[last].receiver.is_finished


def test_a_dialer_of_many_streams_may_open_them_and_another_one():
    client, server = connected()
    assert client._remote_max_streams_bidi == MAX_PEER_STREAMS
    assert client.may_open
    client.send_stream_data(4 * (MAX_PEER_STREAMS - 1), b"x")
    assert not client.may_open
    plain = MeshQuicConnection.client("foo", SERVER, 0.0, new_credit())
    plain._serialize_transport_parameters = lambda: QuicConnection._serialize_transport_parameters(
        plain
    )
    plain._connect(0.0)
    client, server = connected(plain)
    assert client._remote_max_streams_bidi == 1
    client.send_stream_data(0, b"x", end_stream=True)
    exchange(client, server)
    assert server.ended is None
    assert server.is_known(0)


def test_a_little_reading_grants_nothing_yet():
    client, server = connected()
    client.send_stream_data(0, b"x" * 1000)
    exchange(client, server)
    assert not server.consume(0, 1000)


def test_one_acknowledgement_is_enough_for_all_that_comes_within_its_delay():
    client, server = connected()
    now = settle(client, server, 0.0)
    assert server.ack_due == math.inf
    for late in (0.0, ACK_DELAY / 2):
        client.send_stream_data(0, b"x")
        ((datagram, _),) = client.datagrams_to_send(now + late)
        server.receive_datagram(datagram, CLIENT, now + late)
        assert not server.datagrams_to_send(now + late)
    assert server.ack_due == now + ACK_DELAY
    assert client.bytes_in_flight > 0
    exchange(client, server, now + ACK_DELAY)
    assert client.bytes_in_flight == 0


def test_new_credit_takes_the_acknowledgement_with_it():
    client, server = connected()
    client.send_stream_data(0, bytes(FIRST_WINDOW // 2))
    now = settle(client, server, 0.0)
    client.send_stream_data(0, b"more")
    for datagram, _ in client.datagrams_to_send(now):
        server.receive_datagram(datagram, CLIENT, now)
    assert server.ack_due > now
    assert server.consume(0, FIRST_WINDOW // 2)
    assert len(server.datagrams_to_send(now)) == 1
    assert server.ack_due == math.inf


def test_both_ends_protect_headers_with_few_copies():
    for end in connected():
        keys = end._cryptos[Epoch.ONE_RTT]
        assert isinstance(keys.send.hp, LeanHeaderProtection)
        assert isinstance(keys.recv.hp, LeanHeaderProtection)


def test_headers_stay_protected_when_keys_are_updated():
    client, server = connected()
    client.request_key_update()
    client.send_stream_data(0, b"after the update", end_stream=True)
    exchange(client, server)
    assert server._streams[0].receiver.is_finished
    assert isinstance(server._cryptos[Epoch.ONE_RTT].recv.hp, LeanHeaderProtection)


def test_unsent_counts_what_waits():
    client, server = connected()
    client.send_stream_data(0, bytes(10_000_000))
    assert client.unsent(0) == 10_000_000
    client.datagrams_to_send(0.0)
    assert 9_000_000 < client.unsent(0) < 10_000_000
    assert client.undelivered(0) == 10_000_000
    assert client.unsent(4) == client.undelivered(4) == 0
    assert server.unsent(0) == 0


def test_what_is_not_acknowledged_is_not_delivered():
    client, server = connected()
    client.send_stream_data(0, bytes(1000))
    exchange(client, server)
    assert (client.unsent(0), client.undelivered(0)) == (0, 1000)
    exchange(client, server, ACK_DELAY)
    assert client.undelivered(0) == 0


def test_a_stream_is_flushed_when_its_end_is_acknowledged():
    client, server = connected()
    client.send_stream_data(0, b"all", end_stream=True)
    assert client.is_known(0)
    assert not client.is_flushed(0)
    exchange(client, server)
    exchange(client, server, 0.1)
    assert client.is_flushed(0)


def test_the_end_of_a_connection_is_known_as_soon_as_it_is_said():
    client, server = connected()
    assert server.ended is None
    client.close(reason_phrase=NORMAL_CLOSE, frame_type=None)
    exchange(client, server)
    assert server.ended is not None
    assert describe_end(server.ended) == NORMAL_CLOSE


def test_an_end_that_the_engine_decides_on_is_known_at_once_and_is_still_to_be_told():
    client, server = connected()
    client._remote_max_streams_uni = client._remote_max_stream_data_uni = 1
    client.send_stream_data(2, b"x")
    ((datagram, _),) = client.datagrams_to_send(0.0)
    server.receive_datagram(datagram, CLIENT, 0.0)
    assert server.ended is not None
    assert server.has_last_words
    exchange(client, server)
    assert not server.has_last_words
    assert client.ended is not None


@pytest.mark.parametrize("stream_id", [2, 3, 1])
def test_no_streams_are_taken_but_those_that_dialers_open(stream_id):
    client, server = connected()
    opener, other = (client, server) if stream_id % 2 == 0 else (server, client)
    # The opener knows that it may not; what is tried here is one that does it all the same.
    opener._remote_max_streams_uni = opener._remote_max_streams_bidi = 1
    opener._remote_max_stream_data_uni = opener._remote_max_stream_data_bidi_remote = 10
    opener.send_stream_data(stream_id, b"x")
    exchange(client, server)
    assert other.ended is not None
    assert other.ended.reason_phrase == "Too many streams open"


def test_a_stream_takes_no_bytes_once_it_is_ended_or_the_peer_asked_for_no_more():
    client, server = connected()
    assert not client.may_write(0)
    client.send_stream_data(0, b"x")
    client.send_stream_data(4, b"x")
    exchange(client, server)
    assert client.may_write(0)
    assert server.may_write(0)
    assert server.is_receiving(0)
    client.send_stream_data(0, b"", end_stream=True)
    assert not client.may_write(0)
    server.stop_stream(4, 0)
    exchange(client, server)
    assert not server.is_receiving(0)
    assert not client.may_write(4)
    with pytest.raises(RuntimeError):  # which is what asking first avoids
        client.send_stream_data(4, b"x")


def test_what_is_read_of_a_stream_that_is_forgotten_is_not_remembered():
    client, server = connected()
    client.send_stream_data(0, b"x", end_stream=True)
    exchange(client, server)
    server.send_stream_data(0, b"", end_stream=True)
    exchange(client, server, 0.1)
    exchange(client, server, 0.2)
    assert not server.is_known(0)
    server.consume(0, 1)
    assert not server._credit._consumed


def test_only_what_the_peer_encrypted_counts_as_heard():
    client, server = connected()
    assert server.heard_at == 0.0
    server.receive_datagram(b"\x40" + server.host_cid + bytes(1000), CLIENT, 5.0)
    assert server.heard_at == 0.0
    client.send_ping(1)
    ((datagram, _),) = client.datagrams_to_send(6.0)
    server.receive_datagram(datagram, CLIENT, 6.0)
    assert server.heard_at == 6.0
    server.receive_datagram(datagram, CLIENT, 7.0)  # repeated by somebody on the way
    assert server.heard_at == 6.0
    assert connected()[1].probe_timeout < 1


class Packet:
    def __init__(self, size=BASE_SIZE, sent=1.0):
        self.sent_bytes = size
        self.sent_time = sent


def test_loss_halves_the_window_and_acknowledgements_bring_it_back_to_the_cap():
    control = create_congestion_control("capped-reno", max_datagram_size=BASE_SIZE)
    cap = control.congestion_window
    assert cap == FLIGHT_PACKETS * BASE_SIZE
    control.on_packets_lost(now=1.0, packets=[Packet()])
    assert control.congestion_window == cap // 2
    for _ in range(100_000):
        control.on_packet_acked(now=2.0, packet=Packet(sent=2.0))
    assert control.congestion_window == cap
    control.on_rtt_measurement(now=2.0, rtt=9.0)
    assert control.congestion_window == cap


def test_a_lost_probe_says_nothing_of_congestion():
    control = create_congestion_control("capped-reno", max_datagram_size=BASE_SIZE)
    cap = control.congestion_window
    control.bytes_in_flight = LARGE_SIZE
    control.on_packets_lost(now=1.0, packets=[Packet(LARGE_SIZE)])
    assert (control.congestion_window, control.bytes_in_flight) == (cap, 0)


# --- the size of datagrams -------------------------------------------------------------------


def carry(sender, receiver, source, now, limit):
    """Pass datagrams one way, losing those above ``limit``; returns whether any were sent."""
    datagrams = sender.datagrams_to_send(now)
    for data, _ in datagrams:
        if len(data) <= limit:
            receiver.receive_datagram(data, source, now)
    return bool(datagrams)


def run_path(client, server, now, until, limit=65_535):
    """Let both ends talk, timers included, over a path that loses larger datagrams."""
    while now < until:
        moved = carry(client, server, CLIENT, now, limit) | carry(
            server, client, SERVER, now, limit
        )
        if moved:
            continue
        now = min(t for t in (client.get_timer(), server.get_timer(), until) if t is not None)
        for end in (client, server):
            timer = end.get_timer()
            if timer is not None and now >= timer:
                end.handle_timer(now)
    return now


def test_datagrams_grow_when_a_probe_of_that_size_arrives():
    client, server = connected()
    client.find_size(0.0)
    assert client.datagram_size == BASE_SIZE
    run_path(client, server, 0.0, 1.0)
    client.send_stream_data(0, bytes(500_000))
    assert {len(d) for d, _ in client.datagrams_to_send(1.0)} >= {LARGE_SIZE}
    assert client._loss.congestion_window == LARGE_FLIGHT
    assert server.datagram_size == BASE_SIZE


def test_datagrams_stay_small_on_a_path_that_loses_the_probes_and_nothing_else_suffers():
    client, server = connected()
    client.find_size(0.0)
    client.send_stream_data(0, bytes(100_000), end_stream=True)
    now = run_path(client, server, 0.0, 20.0, limit=1500)
    assert client.datagram_size == BASE_SIZE
    assert client._loss.congestion_window == FLIGHT_PACKETS * BASE_SIZE
    assert server._streams[0].receiver.is_finished
    # ... until the path is asked again, and is another one by then.
    for _ in range(4):
        client.send_ping(1)
        now = run_path(client, server, now, now + RETRY / 3)
    assert client.datagram_size == LARGE_SIZE


def test_a_receptor_node_is_never_sent_more_than_it_takes():
    client, server = connected()
    client._peer_limit = 1452
    client.find_size(0.0)
    client.send_stream_data(0, bytes(100_000))
    while datagrams := client.datagrams_to_send(0.0):
        assert max(len(d) for d, _ in datagrams) <= BASE_SIZE
        for data, _ in datagrams:
            server.receive_datagram(data, CLIENT, 0.0)


def test_data_gets_through_when_the_path_begins_to_lose_large_datagrams():
    client, server = connected()
    client.find_size(0.0)
    run_path(client, server, 0.0, 1.0)
    client.send_stream_data(0, bytes(WIDE_WINDOW), end_stream=True)
    for second in range(1, 29):
        run_path(client, server, second, second + 1, limit=1500)
        read_all(server, 0)
    assert client.datagram_size == BASE_SIZE
    assert server._streams[0].receiver.is_finished


def test_an_unknown_version_is_answered_with_ours():
    client = MeshQuicConnection.client("foo", SERVER, 0.0, new_credit())
    ((first, _),) = client.datagrams_to_send(0.0)
    strange = first[:1] + b"\x1a\x2a\x3a\x4a" + first[5:]
    verdict = first_packet(strange)
    assert verdict.initial is None
    assert verdict.answer is not None
    assert verdict.answer[1:5] == bytes(4)
    assert verdict.answer.endswith(b"\x00\x00\x00\x01")


def test_what_is_no_first_packet_begins_nothing():
    for data in (b"", b"\x40" + bytes(1300), b"\xc0", b"\xff" * 1200, bytes(1200)):
        verdict = first_packet(data)
        assert (verdict.initial, verdict.answer) == (None, None)
