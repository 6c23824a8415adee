"""Any bytes in any pieces become requests, payload or error texts."""

import contextlib
import itertools
import json
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.protocol.control import (
    MAX_ERROR,
    MAX_LINE,
    LineReader,
    LineTooLong,
    MalformedRequest,
    NotText,
    Request,
    encode_error,
    encode_reply,
    greeting,
    is_header,
    is_http,
    parse_line,
)


def lines_of(pieces: list[bytes]) -> list[bytes]:
    reader = LineReader()
    lines = []
    for piece in [*filter(None, pieces), b""]:
        reader.feed(piece)
        while (line := reader.next_line()) is not None:
            lines.append(line)
    assert reader.at_end
    return lines


def test_carriage_returns_are_dropped_and_empty_lines_skipped() -> None:
    assert lines_of([b"\n\r\nsta\rtus\r\n\n ping\n"]) == [b"status", b" ping"]


def test_a_last_line_without_newline_counts_at_the_end_only() -> None:
    reader = LineReader()
    reader.feed(b"status")
    assert reader.next_line() is None
    assert not reader.at_end
    reader.feed(b"")
    assert reader.next_line() == b"status"
    assert reader.next_line() is None
    assert reader.at_end


def test_a_carriage_return_alone_at_the_end_is_no_line() -> None:
    assert lines_of([b"\r"]) == []


@given(st.binary(max_size=200), st.data())
def test_any_split_of_the_bytes_gives_the_same_lines(data: bytes, choose: st.DataObject) -> None:
    cuts = sorted(choose.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    bounds = [0, *cuts, len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds)]
    expected = [line for part in data.split(b"\n") if (line := part.replace(b"\r", b""))]
    assert lines_of(pieces) == expected


@given(st.binary(max_size=100), st.integers(1, 7))
def test_nothing_past_the_newline_is_lost(payload: bytes, step: int) -> None:
    reader = LineReader()
    reader.feed(b"work submit foo echo\r\n" + payload)
    assert reader.next_line() == b"work submit foo echo"
    taken = b""
    while piece := reader.take(step):
        assert len(piece) <= step
        taken += piece
    assert taken == payload


def test_lines_go_on_after_payload_was_taken() -> None:
    reader = LineReader()
    reader.feed(b"a\nbc")
    assert reader.next_line() == b"a"
    assert reader.next_line() is None
    assert reader.take(1) == b"b"
    reader.feed(b"\nd")
    assert reader.next_line() == b"c"


def test_the_longest_line_is_taken_and_one_byte_more_is_not() -> None:
    reader = LineReader()
    reader.feed(b"x" * MAX_LINE + b"\n")
    assert reader.next_line() == b"x" * MAX_LINE
    reader.feed(b"x" * (MAX_LINE + 1) + b"\n")
    with pytest.raises(LineTooLong):
        reader.next_line()


def test_a_line_without_end_is_refused_before_its_newline_comes() -> None:
    reader = LineReader()
    reader.feed(b"x" * (MAX_LINE + 1))
    with pytest.raises(LineTooLong, match=str(MAX_LINE)):
        reader.next_line()


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"status", Request("status", "")),
        (b"STATUS", Request("status", "")),
        (b"ping  bar ", Request("ping", " bar ")),
        (b" ", Request("", "")),
        (b"work submit foo echo a b  c", Request("work", "submit foo echo a b  c")),
        ('ping büro "${x^^}"'.encode(), Request("ping", 'büro "${x^^}"')),
        (b'{"command":"Status"}', Request("Status", {"command": "Status"})),
        (b'{"command":"a","command":"b"}', Request("b", {"command": "b"})),
        (b'{"command":"x","n":1e3}', Request("x", {"command": "x", "n": 1000.0})),
        (b'[{"command":"x"}]', Request('[{"command":"x"}]', "")),
    ],
)
def test_requests_are_read(line: bytes, request_: Request) -> None:
    assert parse_line(line) == request_


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "unexpected end of JSON input"),
        (b'{"a": ', "unexpected end of JSON input"),
        (b'{"a', "unexpected end of JSON input"),
        (b"{}", "JSON did not contain a command"),
        (b'{"command":1}', "command must be a string"),
        (b'{"command":null}', "command must be a string"),
        (b"{a}", "invalid JSON at column 2: Expecting property name enclosed in double quotes"),
        (b'{"command":"x"} y', "invalid JSON at column 17: Extra data"),
        (b'{"command":"x\x01"}', "invalid JSON at column 14: Invalid control character at"),
        (b'{"command":"x","n":NaN}', "invalid JSON: NaN is no value"),
        (b'{"command":"x","n":-Infinity}', "invalid JSON: -Infinity is no value"),
        (b'{"command":"x","n":1e999}', "invalid JSON: a number is out of range"),
        (b'{"command":"x","n":' + b"9" * 5000 + b"}", "invalid JSON: a number is out of range"),
        (b'{"command":"\\ud800"}', "invalid JSON: half of a surrogate pair"),
        (b'{"a":' + b"[" * 100_000, "invalid JSON: nested too deep"),
        (b'{"a":' * 100_000, "invalid JSON: nested too deep"),
        (b"ping \xff", "byte 6 of the line is not UTF-8"),
        (b'{"command":"\xff"}', "byte 13 of the line is not UTF-8"),
    ],
)
def test_what_is_no_request_is_named(line: bytes, complaint: str) -> None:
    with pytest.raises(MalformedRequest, match=re.escape(complaint)):
        parse_line(line)


@given(st.one_of(st.binary(min_size=1), st.binary().map(lambda tail: b"{" + tail)))
def test_any_line_is_a_request_or_malformed(line: bytes) -> None:
    with contextlib.suppress(MalformedRequest):
        assert isinstance(parse_line(line), Request)


@given(
    st.dictionaries(
        st.text(), st.one_of(st.text(), st.integers(), st.none(), st.lists(st.text())), max_size=5
    )
)
def test_replies_are_one_line_that_reads_back(reply: dict[str, object]) -> None:
    line = encode_reply(reply)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    assert json.loads(line) == reply


def test_replies_are_compact_sorted_and_in_plain_utf8() -> None:
    assert (
        encode_reply({"TimeStr": "1µs <&>", "From": "a\nb"})
        == '{"From":"a\\nb","TimeStr":"1µs <&>"}\n'.encode()
    )


def test_half_a_surrogate_pair_from_a_peer_does_not_stop_a_reply() -> None:
    assert encode_reply({"x": "\ud800"}) == b'{"x":"?"}\n'


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_an_error_is_one_line_whatever_its_text(text: str) -> None:
    line = encode_error(text)
    assert line.startswith(b"ERROR: ")
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert b"\r" not in line


def test_the_greeting_names_the_node() -> None:
    assert greeting("büro") == "Receptor Control, node büro\n".encode()


def test_an_error_repeats_no_more_of_a_clients_text_than_a_person_reads() -> None:
    line = encode_error("unknown work type " + "\x01" * MAX_LINE)
    assert line.startswith(b"ERROR: unknown work type \\x01")
    assert len(line) < 5 * MAX_ERROR


def test_a_long_line_is_copied_once_and_no_more() -> None:
    reader = LineReader()
    for _ in range(MAX_LINE // 1024):
        reader.feed(b"x" * 1024)
        assert reader.next_line() is None
    reader.feed(b"\nrest")
    tracemalloc.start()
    line = reader.next_line()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert line == b"x" * MAX_LINE
    assert peak < 1.1 * MAX_LINE
    assert reader.pending == len(b"rest")


@given(st.integers(1, 50_000), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_blank_lines_before_a_command_leave_nothing(count: int, blank: bytes) -> None:
    reader = LineReader()
    reader.feed(blank * count + b"status\n")
    assert reader.next_line() == b"status"
    assert reader.pending == 0


def test_a_line_that_is_no_text_is_told_from_one_that_is_no_request() -> None:
    with pytest.raises(NotText):
        parse_line(b"\x00\x01\x21\x12\xa4\x42")
    with pytest.raises(MalformedRequest) as caught:
        parse_line(b"{}")
    assert not isinstance(caught.value, NotText)


METHOD = st.text(alphabet="ABCXYZabcxyz0189!#$%&'*+-.^_`|~", min_size=1, max_size=12)
TARGET = st.text(alphabet=st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=80)
VERSION = st.sampled_from(["HTTP/0.9", "HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3"])


@given(METHOD, TARGET, VERSION)
def test_every_request_line_of_http_is_known(method: str, target: str, version: str) -> None:
    assert is_http(f"{method} {target} {version}".encode())


@pytest.mark.parametrize(
    "line",
    [
        b"status",
        b"ping HTTP/1.1",
        b"work submit foo echo -- HTTP/1.1",
        b"work results GET HTTP/1",
        b'{"command":"work","x":"GET / HTTP/1.1"}',
        b"GET / HTTP/1.1 ",
    ],
)
def test_a_command_is_not_taken_for_http(line: bytes) -> None:
    assert not is_http(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"Host: localhost:7323", True),
        (b"User-Agent: Mozilla/5.0", True),
        (b"X-A:", True),
        (b"work list", False),
        (b"ping a: b", False),
        (b'{"command": "status"}', False),
        (b"a:b", False),
    ],
)
def test_headers_are_known(line: bytes, expected: bool) -> None:
    assert is_header(line) == expected
