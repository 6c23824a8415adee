"""A histogram counts each value once, in the range that it falls into."""

from hypothesis import given
from hypothesis import strategies as st

from meshnode.histogram import LOOP_SECONDS, WORK_SECONDS, Histogram

BOUNDS = st.lists(st.floats(-1e6, 1e6), min_size=1, unique=True).map(sorted)


@given(BOUNDS, st.lists(st.floats(-2e6, 2e6)))
def test_each_range_counts_all_values_up_to_its_end(bounds, values):
    histogram = Histogram(bounds)
    for value in values:
        histogram.note(value)
    found = histogram.distribution()
    assert found.cumulative[:-1] == tuple(
        sum(value <= bound for value in values) for bound in bounds
    )
    assert found.count == len(values)
    assert found.total == sum(values)


@given(st.sampled_from([LOOP_SECONDS, WORK_SECONDS]))
def test_the_ranges_rise(bounds):
    assert list(bounds) == sorted(set(bounds))


def test_what_was_read_does_not_change_with_what_comes_later():
    histogram = Histogram((1.0,))
    before = histogram.distribution()
    histogram.note(0.5)
    assert before.count == 0
    assert histogram.distribution().count == 1
