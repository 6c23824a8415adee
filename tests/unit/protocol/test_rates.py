"""Rates: never more than at once and in the long run together, and all of that to be had."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from meshnode.protocol.rates import NamedBuckets, TokenBucket

STEPS = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 20)), max_size=60)
"""Seconds that pass, and how much is asked for then."""


@given(STEPS)
def test_no_more_is_had_than_at_once_and_in_the_time_since(steps):
    bucket, now, had = TokenBucket(rate=2, burst=10, now=0), 0.0, 0.0
    for pause, amount in steps:
        now += pause
        if bucket.take(now, amount):
            had += amount
        assert had <= 10 + 2 * now + 1e-6
        assert 0 <= bucket.left(now) <= 10


@given(STEPS, st.floats(0, 10))
def test_what_is_kept_is_left_to_others(steps, keep):
    bucket, now = TokenBucket(rate=2, burst=10, now=0), 0.0
    for pause, amount in steps:
        now += pause
        left = bucket.left(now)
        assert bucket.take(now, amount, keep=keep) == (left >= amount + keep)


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abc"), st.floats(0, 4)), max_size=60))
def test_each_name_has_its_own_pace(steps):
    paces, now, had = NamedBuckets(burst=6), 0.0, dict.fromkeys("abc", 0.0)
    for pause, name, seconds in steps:
        now += pause
        allowed = paces.when(name, now, seconds) <= now
        assert paces.take(name, now, seconds) == allowed
        had[name] += seconds if allowed else 0
        assert had[name] <= 6 + now + 1e-6


def test_when_it_is_said_to_be_time_it_is():
    paces = NamedBuckets(burst=2)
    while paces.take("a", 0.0, 0.3):
        pass
    due = paces.when("a", 0.0, 0.3)
    assert due == pytest.approx(0.1)
    assert paces.take("a", due, 0.3)


def test_names_that_take_nothing_more_are_forgotten():
    paces = NamedBuckets(burst=10)
    for number in range(100_000):
        paces.take(f"n{number}", number / 100, 1.0)
    assert len(paces) < 1000
