"""Messages on byte streams."""

import itertools

import hypothesis.strategies as st
import pytest
from hostile.frames import decode_frames
from hypothesis import given, settings

from meshnode.errors import ProtocolError
from meshnode.protocol.framing import (
    FIRST_SPACE,
    LARGEST_SPACE,
    MAX_MESSAGE,
    SHORTER_AT_ONCE,
    SHORTEST,
    FrameReader,
    ReadSpace,
    encode_frames,
    name_stranger,
)

MESSAGES = st.lists(st.binary(min_size=1, max_size=300), max_size=8)


class Stream:
    """A byte stream that gives what fits, as a socket does."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self.data = data
        self.most = most

    def read_into(self, space: memoryview) -> int:
        piece = self.data[: min(len(space), self.most)]
        space[: len(piece)] = piece
        self.data = self.data[len(piece) :]
        return len(piece)


def decode_in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    reader = FrameReader(ReadSpace())
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    messages = []
    for start, end in itertools.pairwise(edges):
        messages += map(bytes, reader.read(Stream(data[start:end]).read_into) or [])
    assert reader.at_boundary
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
        decode_frames(b"\x01\x00x\x00\x00")


@given(st.integers(1, SHORTEST - 12))
def test_a_read_of_nothing_but_tiny_messages_is_refused(size):
    flood = encode_frames([bytes(size)] * (LARGEST_SPACE // (size + 2)))
    with pytest.raises(ProtocolError, match="messages in"):
        decode_frames(flood)


@settings(max_examples=25)
@given(st.integers(SHORTEST, 2 * SHORTEST), st.integers(0, SHORTER_AT_ONCE - 1))
def test_a_read_full_of_the_shortest_data_messages_passes_with_thousands_of_others(size, others):
    messages = [bytes(size)] * (FIRST_SPACE // (size + 2)) + [b"\xff"] * others
    assert len(decode_frames(encode_frames(messages))) == len(messages)


@pytest.mark.parametrize("data", [b"\x05\x00ab", b"\x05", b"\x01\x00a\x01"])
def test_a_whole_stream_does_not_end_within_a_message(data):
    with pytest.raises(ProtocolError, match="in the middle"):
        decode_frames(data)


def test_messages_can_be_written_to_without_touching_their_neighbours():
    first, second = decode_frames(encode_frames([b"aa", b"bb"]))
    first[1] = ord("x")
    assert (bytes(first), bytes(second)) == (b"ax", b"bb")


@pytest.mark.parametrize("message", [b"", bytes(MAX_MESSAGE + 1)])
def test_what_cannot_be_framed_is_refused(message):
    with pytest.raises(ProtocolError):
        encode_frames([message])


@given(st.binary(max_size=2000))
def test_no_bytes_crash_the_reader(data):
    try:
        for message in FrameReader(ReadSpace()).read(Stream(data).read_into) or []:
            assert 1 <= len(message) <= MAX_MESSAGE
    except ProtocolError:
        pass


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=40), st.integers(1, 5000))
def test_a_reader_gives_what_was_sent_however_it_comes(messages, most):
    reader, stream = FrameReader(ReadSpace()), Stream(encode_frames(messages), most)
    received = []
    while (more := reader.read(stream.read_into)) is not None:
        received += map(bytes, more)
    assert received == messages
    assert reader.at_boundary


def test_a_stream_that_ends_within_a_message_is_not_at_a_boundary():
    reader = FrameReader(ReadSpace())
    assert reader.read(Stream(b"\x05\0ab").read_into) == []
    assert not reader.at_boundary


def test_messages_that_are_kept_stay_as_they_are_while_others_are_read():
    large = [bytes([number]) * 60_000 for number in range(1, 60)]
    space = ReadSpace()
    readers = [FrameReader(space), FrameReader(space)]
    streams = [Stream(encode_frames(large)), Stream(encode_frames(large))]
    kept: list[list[memoryview]] = [[], []]
    for _ in range(100):
        for reader, stream, messages in zip(readers, streams, kept, strict=True):
            messages += reader.read(stream.read_into) or []
    assert kept == [large, large]


def test_the_space_is_the_same_again_once_nobody_looks_at_it():
    space = ReadSpace()
    view = space.view()
    view[:5] = b"kept!"
    other = space.view()
    assert bytes(other[:5]) == bytes(5)
    del other
    last = space.view()
    last[:5] = b"again"
    del last
    assert bytes(space.view()[:5]) == b"again"
    assert bytes(view[:5]) == b"kept!"


def test_a_space_grows_while_reads_fill_it_and_only_then():
    space = ReadSpace()
    reader = FrameReader(space)
    reader.read(Stream(encode_frames([b"small"])).read_into)
    assert len(space.view()) == FIRST_SPACE
    stream = Stream(encode_frames([bytes(16_000)]) * 200)
    while reader.read(stream.read_into) is not None:
        pass
    assert len(space.view()) == LARGEST_SPACE


def test_a_small_message_that_is_kept_keeps_no_large_space():
    (message,) = FrameReader(ReadSpace()).read(Stream(encode_frames([b"small"])).read_into)
    assert len(message.obj) < 100
    message[0] = 0  # a forwarder counts hops down in place


@pytest.mark.parametrize(
    ("begun", "words"),
    [
        (b"Receptor Control, node b-1\n", "the control service of node b-1 answers there"),
        (b"HTTP/1.1 400 Bad Request\r\n", "an HTTP server answers there"),
        (b"GET / HTTP/1.1\r\n", "an HTTP request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH server"),
        (b"\x16\x03\x01\x02\x00\x01", "speaks TLS"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "speaks TLS"),
    ],
)
def test_what_is_no_node_is_named_by_its_first_bytes(begun, words):
    assert words in name_stranger(begun)


@given(
    st.integers(1, MAX_MESSAGE),
    st.sampled_from([b"\0", b"\1{", b"\2{", b"\3["]),
    st.binary(max_size=20),
)
def test_no_beginning_of_a_message_is_taken_for_something_else(size, start, more):
    begun = size.to_bytes(2, "little") + start + more
    for end in range(len(begun) + 1):
        assert name_stranger(begun[:end]) is None
