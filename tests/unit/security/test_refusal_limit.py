"""Nobody fills the audit log with what they are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.security.identity import Identity, MeshClient, TcpClient, UnixClient, UnknownClient
from meshnode.security.refusallimit import LINES_A_MINUTE, MINUTE, MOST_CLIENTS, RefusalLimit

SAME = [
    (UnixClient(1000, 1000, 1), UnixClient(1000, 100, 2, "ann")),
    (MeshClient("bar", "a"), MeshClient("bar", "b", UnixClient(1, 1, 1))),
    (TcpClient("10.0.0.7:1"), TcpClient("10.0.0.7:2")),
    (TcpClient("[::1]:1"), TcpClient("[::1]:2")),
    (UnknownClient(), None),
]


@pytest.mark.parametrize(("one", "again"), SAME)
def test_a_client_that_comes_again_has_no_more_lines(
    one: Identity | None, again: Identity | None
) -> None:
    limit = RefusalLimit()
    assert all(limit.admits(one, 0.0) for _ in range(LINES_A_MINUTE))
    assert not limit.admits(again, 1.0)


def test_a_loud_client_takes_no_line_of_another_one() -> None:
    limit = RefusalLimit()
    for _ in range(10 * LINES_A_MINUTE):
        limit.admits(MeshClient("loud"), 0.0)
    for other in (MeshClient("bar"), UnixClient(0, 0, 1), TcpClient("10.0.0.7:1")):
        assert limit.admits(other, 1.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 2 * MOST_CLIENTS), st.integers(0, 3 * LINES_A_MINUTE)), max_size=40
    ),
    st.lists(st.floats(-1e6, 1e6), min_size=40, max_size=40),
)
def test_each_refusal_has_a_line_or_is_counted_and_there_are_not_too_many(
    asked: list[tuple[int, int]], times: list[float]
) -> None:
    limit = RefusalLimit()
    told = written = 0
    for (client, count), now in zip(asked, times, strict=False):
        told += sum(left_out for _, left_out in limit.over(now))
        lines = sum(limit.admits(MeshClient(f"node{client}"), now) for _ in range(count))
        assert lines <= LINES_A_MINUTE
        written += lines
    told += sum(left_out for _, left_out in limit.over(0.0, all_of_them=True))
    assert told + written == sum(count for (_, count), _ in zip(asked, times, strict=False))
    assert list(limit.over(0.0, all_of_them=True)) == []


def test_a_crowd_has_no_more_lines_than_are_promised() -> None:
    limit = RefusalLimit()
    lines = sum(limit.admits(MeshClient(f"node{n % 5000}"), 0.0) for n in range(50_000))
    assert lines <= (MOST_CLIENTS + 1) * LINES_A_MINUTE


@pytest.mark.parametrize("later", [MINUTE, 10 * MINUTE, -1.0])
def test_a_minute_is_over_also_when_the_clock_was_set_back(later: float) -> None:
    limit = RefusalLimit()
    bar = MeshClient("bar")
    for _ in range(LINES_A_MINUTE + 5):
        limit.admits(bar, 0.0)
    assert list(limit.over(1.0)) == []
    assert list(limit.over(later)) == [(bar, 5)]
    assert limit.admits(bar, later)
