"""Times: text and numbers say the same, and no text stops anything."""

import contextlib
import itertools
from datetime import UTC, datetime, timedelta, timezone

import hypothesis.strategies as st
import pytest
from hypothesis import given

from meshnode.protocol.times import (
    CLOCK_AHEAD,
    CLOCKS_SHOW,
    FIRST_TIME,
    LAST_TIME,
    SECOND,
    format_time,
    latest_believed,
    parse_time,
)

ANY_TIME = st.integers(FIRST_TIME, LAST_TIME)


@given(ANY_TIME)
def test_a_time_survives_being_written(nanoseconds):
    assert parse_time(format_time(nanoseconds)) == nanoseconds


@given(st.lists(ANY_TIME, min_size=2))
def test_texts_of_the_same_offset_sort_as_their_times_do(times):
    assert [parse_time(t) for t in sorted(map(format_time, times))] == sorted(times)


@given(st.integers())
def test_every_number_has_a_text_with_a_year_of_four_digits(nanoseconds):
    text = format_time(nanoseconds)
    assert len(text) == len("2026-01-01T00:00:00.000000000Z")
    assert parse_time(text) == min(max(nanoseconds, FIRST_TIME), LAST_TIME)


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),
    st.integers(-23 * 60, 23 * 60),
)
def test_a_time_is_the_same_in_every_offset(moment, minutes):
    there = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    since = there - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_time(there.isoformat()) == since // timedelta(microseconds=1) * 1000


def test_times_are_told_apart_by_their_nanoseconds():
    # Go drops trailing zeros of the fraction, so ".5" is later than ".499999999".
    texts = [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59.9Z",
        "2026-11-21T23:27:52Z",
        "2026-11-21T23:27:52.000000001Z",
        "2026-11-22T00:27:52.499999999+01:00",
        "2026-11-21T23:27:52.5Z",
        "2026-11-21T22:27:53-01:00",
        "9999-12-31T23:59:60Z",
    ]
    for earlier, later in itertools.pairwise(texts):
        assert parse_time(earlier) < parse_time(later)


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "2026-11-21", "2026-11-21T23:27:52", "2026-13-22T03:00:00Z"),
        *("2026-11-22T03:00:00.xZ", "2026-02-30T03:00:00Z", "2026-11-22T24:00:00Z"),
        *("2026-11-22T03:60:00Z", "2026-11-22T03:00:61Z", "10000-01-01T00:00:00Z"),
        *("2026-11-22T03:00:00+24:00", "2026-11-22T03:00:00.Z", "0000-01-01T00:00:00Z"),
        "٢٠٢٦-11-21T23:27:52Z",
    ],
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match=r"time|day|year|month"):
        parse_time(text)


@given(st.text(max_size=60) | st.from_regex(r"[0-9]{4}(-[0-9]{2}){2}T[0-9:.,+-]{0,30}Z?"))
def test_any_text_is_a_time_or_refused(text):
    with contextlib.suppress(ValueError):
        assert isinstance(parse_time(text), int)


@given(st.integers(0, CLOCKS_SHOW), st.integers(0, CLOCK_AHEAD))
def test_a_clock_that_begins_in_1970_believes_those_that_are_right(wrong, later):
    assert CLOCKS_SHOW + later <= latest_believed(wrong)


@given(st.integers(CLOCKS_SHOW, LAST_TIME - CLOCK_AHEAD - SECOND))
def test_after_the_latest_time_that_is_believed_there_are_later_ones(now):
    assert latest_believed(now) < LAST_TIME
