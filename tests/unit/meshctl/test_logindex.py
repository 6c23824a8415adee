"""Lines of a unit's output in the order in which they came, whatever the index says."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.api import logindex
from meshctl.api.logindex import (
    INDEX,
    RECORD_BYTES,
    STDERR,
    STDOUT,
    STREAMS,
    IndexReader,
    Line,
    LogLines,
    Record,
)

Piece = tuple[str, bytes]

TEXTS = st.text("ab\n\r\0", min_size=1, max_size=12).map(str.encode)
PIECES = st.lists(st.tuples(st.sampled_from(STREAMS), TEXTS), max_size=12)
TIMES = st.integers(0, 2**63 - 1)


def written(pieces: list[Piece], times: list[int]) -> dict[str, bytes]:
    """Return the files that these pieces make, which came at these times."""
    files = {STDOUT: b"", STDERR: b"", INDEX: b""}
    for (stream, text), time in zip(pieces, times, strict=True):
        files[stream] += text
        files[INDEX] += Record(time, stream, len(files[stream])).encode()
    return files


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Piece], list[int]]:
    pieces = draw(PIECES)
    return pieces, draw(st.lists(TIMES, min_size=len(pieces), max_size=len(pieces)))


@st.composite
def feedings(draw: st.DrawFn, files: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Return one way to read these files: in parts of any size, in any order."""
    left = {name: data for name, data in files.items() if data}
    parts = []
    while left:
        name = draw(st.sampled_from(sorted(left)))
        size = draw(st.integers(1, len(left[name])))
        parts.append((name, left[name][:size]))
        left[name] = left[name][size:]
        left = {name: data for name, data in left.items() if data}
    return parts


def lines_of(parts: list[tuple[str, bytes]], **options: bool) -> list[Line]:
    log = LogLines(**options)
    lines = [line for source, data in parts for line in log.feed(source, data)]
    return lines + log.finish()


def expected(pieces: list[Piece], times: list[int]) -> list[Line]:
    """Return the lines, found byte by byte: a line came when its last byte came."""
    lines = []
    begun: dict[str, tuple[int, int, bytes]] = {}
    for number, ((stream, text), time) in enumerate(zip(pieces, times, strict=True)):
        for byte in text:
            _, _, before = begun.get(stream, (0, 0, b""))
            line = before + bytes([byte])
            if byte == ord("\n"):
                lines.append(Line(stream, line, time))
                begun.pop(stream, None)
            else:
                begun[stream] = (number, time, line)
    for stream, (_, time, line) in sorted(begun.items(), key=lambda one: one[1][0]):
        lines.append(Line(stream, line, time))
    return lines


@given(st.data(), runs())
def test_lines_come_in_the_order_and_at_the_time_of_their_last_byte_however_files_are_read(
    data: st.DataObject, run: tuple[list[Piece], list[int]]
) -> None:
    pieces, times = run
    parts = data.draw(feedings(written(pieces, times)))
    assert lines_of(parts) == expected(pieces, times)


@given(st.data(), runs())
def test_whatever_is_cut_off_of_any_file_no_other_byte_is_lost_and_what_has_a_time_has_its_own(
    data: st.DataObject, run: tuple[list[Piece], list[int]]
) -> None:
    """After a power cut the index may be longer or shorter than what was printed."""
    pieces, times = run
    files = written(pieces, times)
    cut = {name: file[: data.draw(st.integers(0, len(file)))] for name, file in files.items()}
    lines = lines_of(data.draw(feedings(cut)))
    for stream in STREAMS:
        mine = [line for line in lines if line.stream == stream]
        assert b"".join(line.text for line in mine) == cut[stream]
        ends = accumulate(len(line.text) for line in mine)
        whole = [one for one in expected(pieces, times) if one.stream == stream]
        known = dict(zip(accumulate(len(one.text) for one in whole), whole, strict=True))
        for line, end in zip(mine, ends, strict=True):
            if line.text.endswith(b"\n") and line.time is not None:
                assert known[end] == line


@given(st.binary(max_size=200), st.binary(max_size=60), st.binary(max_size=60), st.data())
def test_any_bytes_as_an_index_lose_and_invent_no_byte_of_the_output(
    index: bytes, stdout: bytes, stderr: bytes, data: st.DataObject
) -> None:
    files = {INDEX: index, STDOUT: stdout, STDERR: stderr}
    lines = lines_of(data.draw(feedings(files)))
    for stream in STREAMS:
        mine = b"".join(line.text for line in lines if line.stream == stream)
        assert mine == files[stream]


@given(runs(), st.binary(max_size=100))
def test_what_stands_behind_a_record_that_goes_back_is_ignored(
    run: tuple[list[Piece], list[int]], rest: bytes
) -> None:
    files = written(*run)
    reader = IndexReader()
    records = reader.feed(files[INDEX])
    assert b"".join(record.encode() for record in records) == files[INDEX]
    assert reader.feed(bytes(RECORD_BYTES)) == []
    assert reader.is_broken
    assert reader.feed(rest) == []


@given(st.lists(TEXTS, max_size=8))
def test_a_unit_without_an_index_has_its_lines_as_they_are_read(texts: list[bytes]) -> None:
    lines = lines_of([(STDOUT, text) for text in texts], has_index=False)
    assert [line.text for line in lines] == b"".join(texts).splitlines(keepends=True) or any(
        b"\r" in text for text in texts
    )
    assert b"".join(line.text for line in lines) == b"".join(texts)
    assert {line.time for line in lines} <= {None}


@given(st.data(), runs())
def test_who_reads_only_what_is_awaited_gets_each_line_and_holds_one_part_of_a_file(
    data: st.DataObject, run: tuple[list[Piece], list[int]]
) -> None:
    pieces, times = run
    files = written(pieces, times)
    log = LogLines()
    lines: list[Line] = []
    size = data.draw(st.integers(1, 40))
    while (source := log.awaits) is not None and files[source]:
        part, files[source] = files[source][:size], files[source][size:]
        lines += log.feed(source, part)
        assert all(log.waiting(stream) <= size for stream in STREAMS)
    # All of the index was read, and whatever it is about.
    assert not any(files.values())
    assert lines + log.finish() == expected(pieces, times)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_line_that_is_too_long_comes_in_pieces_that_say_so(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(logindex, "MAX_LINE", 10)
    text = b"x" * 25 + b"\n" + b"y" * 10 + b"\nz"
    log = LogLines()
    lines = log.feed(INDEX, Record(5, STDOUT, len(text)).encode())
    for at in range(0, len(text), size):
        lines += log.feed(STDOUT, text[at : at + size])
    told = [(line.text, line.is_begin) for line in lines + log.finish()]
    assert told == [
        (b"x" * 10, True),
        (b"x" * 10, False),
        (b"xxxxx\n", False),
        (b"y" * 10, True),
        (b"\n", False),
        (b"z", True),
    ]


@given(st.data(), runs())
def test_who_begins_in_the_middle_of_the_streams_gets_the_rest_with_its_times(
    data: st.DataObject, run: tuple[list[Piece], list[int]]
) -> None:
    """Streams are read from a later byte on, the index from its begin."""
    pieces, times = run
    files = written(pieces, times)
    starts = {stream: data.draw(st.integers(0, len(files[stream]))) for stream in STREAMS}
    log = LogLines(starts=starts)
    lines = log.feed(INDEX, files[INDEX])
    for stream in STREAMS:
        lines += log.feed(stream, files[stream][starts[stream] :])
    lines += log.finish()
    every = expected(pieces, times)
    for stream in STREAMS:
        mine = [line for line in lines if line.stream == stream]
        assert b"".join(line.text for line in mine) == files[stream][starts[stream] :]
        # All but the first, which may be cut, are lines of the whole.
        whole = [line for line in every if line.stream == stream]
        assert mine[1:] == whole[len(whole) - len(mine) + 1 :]
