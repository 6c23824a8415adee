"""Requests of any length as packets of bounded size."""

from hypothesis import given
from hypothesis import strategies as st

from meshnode.work.local.launcher import wire

REQUESTS = st.integers(min_value=1, max_value=3 * wire.PIECE_BYTES + 2).map(
    lambda size: (b"0123456789" * (size // 10 + 1))[:size]
)


@given(REQUESTS)
def test_a_request_of_any_length_is_put_together_again(request_bytes: bytes) -> None:
    assembler = wire.Assembler()
    results = [assembler.feed(packet) for packet in wire.split_request(request_bytes)]
    assert results == [None] * (len(results) - 1) + [request_bytes]


@given(REQUESTS)
def test_no_packet_is_longer_than_the_reader_asks_for(request_bytes: bytes) -> None:
    packets = wire.split_request(request_bytes)
    assert all(1 < len(packet) <= wire.MAX_PACKET_BYTES for packet in packets)


@given(REQUESTS, REQUESTS)
def test_a_request_cut_short_leaves_nothing_in_the_next_one(cut: bytes, whole: bytes) -> None:
    assembler = wire.Assembler()
    for packet in wire.split_request(cut)[:-1]:
        assert assembler.feed(packet) is None
    assert [assembler.feed(packet) for packet in wire.split_request(whole)][-1] == whole
