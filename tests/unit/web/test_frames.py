"""What a client of HTTP/2 may send for nothing."""

import h2.config
import h2.connection
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.web.frames import BURST, RATE, FrameWatch, TooManyFrames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9


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
        frame(HEADERS, b"x", 5) + frame(RST, b"\0\0\0\x08"),
    ],
)
def test_frames_that_carry_nothing_are_bounded(flood: bytes) -> None:
    watch = FrameWatch(0.0)
    watch.feed(PREFACE + flood * BURST, 0.0)
    watch.feed(flood * RATE, 1.0)
    with pytest.raises(TooManyFrames):
        watch.feed(flood, 1.0)


@pytest.mark.parametrize(
    "honest",
    [frame(DATA, b"x" * 100), frame(DATA, flags=1), frame(WINDOW, bytes(4)), frame(HEADERS, b"x")],
)
def test_frames_that_a_transfer_takes_are_not_counted(honest: bytes) -> None:
    FrameWatch(0.0).feed(PREFACE + honest * (2 * BURST), 0.0)


@given(st.data())
def test_frames_are_counted_the_same_however_their_bytes_come(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([DATA, RST, PING, WINDOW]), max_size=30))
    stream = PREFACE + b"".join(frame(kind, bytes(kind)) for kind in kinds)
    empty = sum(kind in {DATA, RST, PING} for kind in kinds)
    watch = FrameWatch(0.0)
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, 40))
        watch.feed(stream[at : at + step], 0.0)
        at += step
    watch.feed(frame(PING, bytes(8)) * (BURST - empty), 0.0)
    with pytest.raises(TooManyFrames):
        watch.feed(frame(PING, bytes(8)), 0.0)


@given(st.binary(max_size=2000))
def test_any_bytes_are_counted_or_too_many(data: bytes) -> None:
    FrameWatch(0.0).feed(data, 0.0)


def test_what_a_client_sends_is_understood() -> None:
    client = h2.connection.H2Connection(h2.config.H2Configuration())
    client.initiate_connection()
    watch = FrameWatch(0.0)
    watch.feed(client.data_to_send(), 0.0)
    for _ in range(BURST - 1):  # beside its settings
        client.ping(b"12345678")
    watch.feed(client.data_to_send(), 0.0)
    client.ping(b"12345678")
    with pytest.raises(TooManyFrames):
        watch.feed(client.data_to_send(), 0.0)
