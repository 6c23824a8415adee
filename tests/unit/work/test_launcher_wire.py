"""The launcher's messages are read as they were written; a start of any length fits its packets."""

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


TEXTS = st.text(st.characters(codec="utf-8"))
RECORDS = st.dictionaries(TEXTS, st.none() | st.integers() | TEXTS)
STARTS = st.builds(
    wire.Start,
    st.integers(min_value=1),
    TEXTS,
    # As a directory is told whose name is no UTF-8.
    st.text(st.characters(codec="utf-8") | st.sampled_from("\udc80\udcff")),
    st.lists(TEXTS, min_size=1),
    st.floats(min_value=0, allow_infinity=False),
    env=st.none() | st.dictionaries(TEXTS, TEXTS),
    cwd=st.none() | TEXTS,
    timeout=st.none() | st.floats(min_value=0, allow_infinity=False),
    output=st.none()
    | st.builds(
        wire.OutputPlan,
        st.none() | st.integers(min_value=0),
        separate=st.booleans(),
        indexed=st.booleans(),
    ),
    known=RECORDS,
    holds=st.booleans(),
)
ANSWERS = st.one_of(
    st.builds(wire.Started, STARTS, st.integers(), st.integers(), RECORDS, st.none() | RECORDS),
    st.builds(wire.Refused, STARTS, TEXTS, is_taken=st.booleans(), is_passing=st.booleans()),
    st.builds(wire.Ended, STARTS, RECORDS),
    st.builds(wire.Alone, STARTS),
    st.builds(wire.Gone, STARTS, TEXTS),
)


def fields(message: object) -> dict[str, object]:
    """Return what a message says, and what the messages in it say."""
    names = [name for kind in type(message).__mro__ for name in getattr(kind, "__slots__", ())]
    told = {name: getattr(message, name) for name in names}
    return {name: fields(value) or value for name, value in told.items()}


@given(STARTS)
def test_a_start_is_read_as_it_was_written(start: wire.Start) -> None:
    text = start.encode()
    # It is a line to a free supervisor.
    assert b"\n" not in text
    assert fields(wire.Start.parse(text)) == fields(start)


@given(ANSWERS)
def test_an_answer_is_read_as_it_was_written(answer: wire.Answer) -> None:
    read = wire.parse_answer(answer.encode())
    assert type(read) is type(answer)
    assert fields(read) == fields(answer)
