"""Durations: what Go reads is read, what Go refuses is refused, what Go prints is printed."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import CommandError
from meshnode.protocol.times import InvalidDuration, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("5s", 5.0),
        ("1h30m", 5400.0),
        ("-1.5s", -1.5),
        ("+250ms", 0.25),
        (".5h", 1800.0),
        ("1.h", 3600.0),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("10μs", 1e-5),
        ("1m1m", 120.0),
    ],
)
def test_what_go_reads_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("bogus", 'time: invalid duration "bogus"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("--5s", 'time: invalid duration "--5s"'),
        ('"', r'time: invalid duration "\""'),
        ("٣s", 'time: invalid duration "٣s"'),
        ("300y", 'time: unknown unit "y" in duration "300y"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1h 30m", 'time: unknown unit "h " in duration "1h 30m"'),
        ("5", 'time: missing unit in duration "5"'),
        ("1h5", 'time: missing unit in duration "1h5"'),
        ("2562048h", 'time: invalid duration "2562048h"'),
        ("9" * 400 + "h", f'time: invalid duration "{"9" * 400}h"'),
    ],
)
def test_what_go_refuses_is_refused_in_its_words(text: str, complaint: str) -> None:
    with pytest.raises(InvalidDuration, match=re.escape(complaint)):
        parse_duration(text)


def test_a_bad_duration_is_a_clients_mistake_and_a_value_error() -> None:
    assert issubclass(InvalidDuration, CommandError)
    assert issubclass(InvalidDuration, ValueError)


@given(st.text(max_size=30))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    with contextlib.suppress(InvalidDuration):
        assert parse_duration(text) is not None


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (999, "999ns"),
        (1000, "1µs"),
        (312_513, "312.513µs"),
        (263_610, "263.61µs"),
        (2_000_000, "2ms"),
        (999_999_999, "999.999999ms"),
        (1_000_000_000, "1s"),
        (1_500_000_000, "1.5s"),
        (1_000_000_001, "1.000000001s"),
        (60_000_000_000, "1m0s"),
        (3_600_000_000_000, "1h0m0s"),
        (-7_200_500_000_000, "-2h0m0.5s"),
        (-1_500, "-1.5µs"),
    ],
)
def test_durations_print_as_go_prints_them(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


@given(st.integers(min_value=-(2**62), max_value=2**62))
def test_what_is_printed_reads_back_to_the_microsecond(nanoseconds: int) -> None:
    expected = nanoseconds / 1e9
    assert parse_duration(format_duration(nanoseconds)) == pytest.approx(
        expected, abs=1e-6, rel=1e-9
    )
