"""What a client of HTTP/2 may send for nothing, and how much of small frames is handed on."""

import h2.config
import h2.connection
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from meshnode.web.frames import (
    BURST,
    GRANTED,
    RATE,
    TURN,
    FrameWatch,
    MessageWatch,
    TooManyFrames,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
GOAWAY, ALTERNATIVE, UNKNOWN = 7, 10, 0xEE


def look(watch: FrameWatch, data: bytes, now: float = 0.0) -> None:
    """Have all of it looked at, some frames at a time."""
    at = 0
    while at < len(data):
        at += watch.feed(data[at : at + 4096], now)


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 1) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "flood",
    [
        frame(RST, b"\0\0\0\x08"),
        frame(PING, bytes(8)),
        frame(SETTINGS, stream=0),
        frame(PRIORITY, bytes(5)),
        frame(DATA),
        frame(HEADERS),
        frame(CONTINUATION),
        frame(WINDOW, b"\0\0\0\1"),
        frame(WINDOW, b"\0\0\0\1", stream=0),
        frame(GOAWAY, bytes(8), stream=0),
        frame(ALTERNATIVE, bytes(20), stream=0),
        frame(UNKNOWN, b"x"),
        frame(HEADERS, b"x", 5) + frame(RST, b"\0\0\0\x08"),
    ],
)
def test_frames_that_carry_nothing_are_bounded(flood: bytes) -> None:
    watch = FrameWatch(0.0)
    look(watch, PREFACE + flood * BURST, 0.0)
    look(watch, flood * RATE, 1.0)
    with pytest.raises(TooManyFrames):
        look(watch, flood, 1.0)


@pytest.mark.parametrize(
    "honest",
    [frame(DATA, b"x" * 100), frame(DATA, flags=1), frame(HEADERS, b"x")],
)
def test_frames_that_a_transfer_takes_are_not_counted(honest: bytes) -> None:
    look(FrameWatch(0.0), PREFACE + honest * (2 * BURST))


@pytest.mark.parametrize("size", [0, 100, 16384])
def test_a_client_may_say_for_all_it_gets_that_it_has_room_again(size: int) -> None:
    watch = FrameWatch(0.0)
    watch.feed(PREFACE, 0.0)
    grants = max(2, 2 * size // 4096)
    for _ in range(2 * BURST):
        watch.sent(size)
    look(watch, frame(WINDOW, b"\0\0\0\1") * (grants * 2 * BURST))


def test_room_for_what_it_never_got_is_counted() -> None:
    watch = FrameWatch(0.0)
    watch.sent(100 * GRANTED)
    with pytest.raises(TooManyFrames):
        look(watch, PREFACE + frame(WINDOW, b"\0\0\0\1") * (BURST + 200))


@given(st.lists(st.integers(0, 300), max_size=400), st.integers(1, 5000))
def test_few_frames_are_handed_on_at_a_time_and_each_byte_once(
    sizes: list[int], piece: int
) -> None:
    stream = PREFACE + b"".join(frame(HEADERS, b"x" * size, 1) for size in sizes)
    watch, at = FrameWatch(0.0), 0
    while at < len(stream):
        some = stream[at : at + piece]
        end = watch.feed(some, 0.0)
        assert 0 < end <= len(some)
        assert end == len(some) or end >= TURN * 9
        at += end


@given(st.data())
def test_frames_are_counted_the_same_however_their_bytes_come(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([DATA, RST, PING, WINDOW]), max_size=30))
    stream = PREFACE + b"".join(frame(kind, bytes(kind)) for kind in kinds)
    empty = len(kinds)  # nobody was sent what there could be room for
    watch = FrameWatch(0.0)
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, 40))
        watch.feed(stream[at : at + step], 0.0)
        at += step
    look(watch, frame(PING, bytes(8)) * (BURST - empty), 0.0)
    with pytest.raises(TooManyFrames):
        watch.feed(frame(PING, bytes(8)), 0.0)


@given(st.binary(max_size=2000))
def test_any_bytes_are_counted_or_too_many(data: bytes) -> None:
    look(FrameWatch(0.0), data)


def test_what_a_client_sends_is_understood() -> None:
    client = h2.connection.H2Connection(h2.config.H2Configuration())
    client.initiate_connection()
    watch = FrameWatch(0.0)
    look(watch, client.data_to_send(), 0.0)
    for _ in range(BURST - 1):  # beside its settings
        client.ping(b"12345678")
    look(watch, client.data_to_send(), 0.0)
    client.ping(b"12345678")
    with pytest.raises(TooManyFrames):
        look(watch, client.data_to_send(), 0.0)


LENGTHS = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536]) | st.integers(0, 300)


@given(st.lists(st.tuples(LENGTHS, st.booleans()), max_size=300), st.integers(1, 70_000))
def test_frames_of_a_websocket_are_handed_on_some_at_a_time_and_each_byte_once(
    frames: list[tuple[int, bool]], piece: int
) -> None:
    peers = {is_client: FrameProtocol(is_client, []) for is_client in (True, False)}
    told = [
        bytes(peers[masked]._serialize_frame(Opcode.BINARY, b"x" * size)) for size, masked in frames
    ]
    ends = {0} | {sum(map(len, told[: n + 1])) for n in range(len(told))}
    stream, watch, at, begun = b"".join(told), MessageWatch(), 0, 0
    while at < len(stream):
        some = stream[at : at + piece]
        count = watch.feed(some)
        assert 0 < count <= len(some)
        within = sum(at < end <= at + count for end in ends)
        assert within <= TURN
        assert count == len(some) or within >= TURN - 1
        at += count
        begun += within
    assert begun == len(set(ends)) - 1


@given(st.lists(st.binary(max_size=2000), max_size=5))
def test_whatever_comes_on_a_websocket_is_handed_on(pieces: list[bytes]) -> None:
    watch = MessageWatch()
    for piece in pieces:
        while piece:
            piece = piece[watch.feed(piece) :]
