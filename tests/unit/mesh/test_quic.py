"""What is touched of the QUIC engine's inside: an upgrade that moves it fails here first."""

from aioquic.buffer import Buffer
from aioquic.quic.congestion.base import create_congestion_control
from aioquic.quic.packet import pull_quic_transport_parameters

from meshnode.mesh import quic
from meshnode.mesh.quic import (
    CONNECTION_CREDIT,
    DATAGRAM_SIZE,
    FLIGHT_PACKETS,
    LARGEST_DATAGRAM,
    STREAM_CREDIT,
    MeshQuicConnection,
    first_packet,
    make_insecure_identity,
)

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


def connected():
    client = MeshQuicConnection.client("foo", SERVER, 0.0)
    ((first, _),) = client.datagrams_to_send(0.0)
    assert first_packet(first).accept
    server = MeshQuicConnection.server(make_insecure_identity(), first)
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
    assert exchange(client, server) <= DATAGRAM_SIZE


def test_the_largest_datagram_is_announced():
    client, _ = connected()
    parameters = pull_quic_transport_parameters(
        Buffer(data=client._serialize_transport_parameters())
    )
    assert parameters.max_udp_payload_size == LARGEST_DATAGRAM


def test_bursts_are_sent_at_once_and_bounded():
    client, _ = connected()
    client.send_stream_data(0, bytes(10_000_000))
    burst = client.datagrams_to_send(0.0)
    assert FLIGHT_PACKETS - 5 <= len(burst) <= FLIGHT_PACKETS + 1


def test_credit_follows_what_was_read_and_not_what_arrived():
    client, server = connected()
    client.send_stream_data(0, bytes(3 * CONNECTION_CREDIT))
    now = 0.0
    for _ in range(200):
        now += 0.01
        exchange(client, server, now)
    assert server._streams[0].receiver.highest_offset == STREAM_CREDIT
    assert server.consume(0, STREAM_CREDIT)
    for _ in range(200):
        now += 0.01
        exchange(client, server, now)
    assert server._streams[0].receiver.highest_offset == 2 * STREAM_CREDIT


def test_a_little_reading_grants_nothing_yet():
    client, server = connected()
    client.send_stream_data(0, b"x" * 1000)
    exchange(client, server)
    assert not server.consume(0, 1000)


def test_unsent_counts_what_waits():
    client, server = connected()
    client.send_stream_data(0, bytes(10_000_000))
    assert client.unsent(0) == 10_000_000
    client.datagrams_to_send(0.0)
    assert 9_000_000 < client.unsent(0) < 10_000_000
    assert client.unsent(4) == 0
    assert server.unsent(0) == 0


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
    client.close(reason_phrase=quic.NORMAL_CLOSE, frame_type=None)
    exchange(client, server)
    assert server.ended is not None
    assert quic.describe_end(server.ended) == quic.NORMAL_CLOSE


def test_loss_halves_the_window_and_acknowledgements_bring_it_back_to_the_cap():
    control = create_congestion_control("capped-reno", max_datagram_size=DATAGRAM_SIZE)
    cap = control.congestion_window
    assert cap == FLIGHT_PACKETS * DATAGRAM_SIZE

    class Packet:
        sent_bytes = DATAGRAM_SIZE
        sent_time = 1.0

    control.on_packets_lost(now=1.0, packets=[Packet()])
    assert control.congestion_window == cap // 2
    Packet.sent_time = 2.0
    for _ in range(100_000):
        control.on_packet_acked(now=2.0, packet=Packet())
    assert control.congestion_window == cap
    control.on_rtt_measurement(now=2.0, rtt=9.0)
    assert control.congestion_window == cap


def test_an_unknown_version_is_answered_with_ours():
    client = MeshQuicConnection.client("foo", SERVER, 0.0)
    ((first, _),) = client.datagrams_to_send(0.0)
    strange = first[:1] + b"\x1a\x2a\x3a\x4a" + first[5:]
    verdict = first_packet(strange)
    assert not verdict.accept
    assert verdict.answer is not None
    assert verdict.answer[1:5] == bytes(4)
    assert verdict.answer.endswith(b"\x00\x00\x00\x01")


def test_what_is_no_first_packet_begins_nothing():
    for data in (b"", b"\x40" + bytes(1300), b"\xc0", b"\xff" * 1200, bytes(1200)):
        verdict = first_packet(data)
        assert (verdict.accept, verdict.answer) == (False, None)
