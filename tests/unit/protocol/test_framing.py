"""Messages on byte streams."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from meshnode.errors import ProtocolError
from meshnode.protocol.framing import MAX_MESSAGE, FrameDecoder, encode_frames

MESSAGES = st.lists(st.binary(min_size=1, max_size=300), max_size=8)


def decode_in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    decoder = FrameDecoder()
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    messages = []
    for start, end in itertools.pairwise(edges):
        messages += [bytes(m) for m in decoder.feed(data[start:end])]
    assert decoder.at_boundary
    return messages


@given(MESSAGES, st.lists(st.integers(0, 5000), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_messages(messages, cuts):
    assert decode_in_pieces(encode_frames(messages), cuts) == messages


def test_the_largest_message_passes():
    message = bytes(range(256)) * 255 + bytes(255)
    assert len(message) == MAX_MESSAGE
    assert decode_in_pieces(encode_frames([message]), [1, 2, 3, 40_000]) == [message]


def test_a_frame_of_length_zero_is_refused():
    with pytest.raises(ProtocolError, match="length zero"):
        FrameDecoder().feed(b"\x01\x00x\x00\x00")


def test_half_a_message_is_not_a_boundary():
    decoder = FrameDecoder()
    assert decoder.feed(b"\x05\x00ab") == []
    assert not decoder.at_boundary


def test_messages_can_be_written_to_without_touching_their_neighbours():
    first, second = FrameDecoder().feed(encode_frames([b"aa", b"bb"]))
    first[1] = ord("x")
    assert (bytes(first), bytes(second)) == (b"ax", b"bb")


@pytest.mark.parametrize("message", [b"", bytes(MAX_MESSAGE + 1)])
def test_what_cannot_be_framed_is_refused(message):
    with pytest.raises(ProtocolError):
        encode_frames([message])


@given(st.binary(max_size=2000))
def test_no_bytes_crash_the_decoder(data):
    decoder = FrameDecoder()
    try:
        for message in decoder.feed(data):
            assert 1 <= len(message) <= MAX_MESSAGE
    except ProtocolError:
        pass
