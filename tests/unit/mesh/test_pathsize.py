"""How the size of datagrams is found: by probes that arrive, given up by losses that say so."""

import math

import hypothesis.strategies as st
from hypothesis import given

from meshnode.mesh.streams.congestion import (
    BASE_SIZE,
    LARGE_SIZE,
    LOSS_EVENTS,
    PROBES,
    RETRY,
    STALLED_TIMEOUTS,
    PathSize,
)


def found(limit=LARGE_SIZE):
    path = PathSize()
    path.peer_takes(limit, 0.0)
    assert path.probe_due(0.0) == min(limit, LARGE_SIZE)
    path.probe_acked()
    return path


def test_nothing_is_probed_before_the_peer_has_said_what_it_takes():
    path = PathSize()
    assert path.next_deadline() == math.inf
    assert path.probe_due(1e9) is None


def test_a_probe_that_arrives_raises_the_size_to_what_both_take():
    assert found().size == LARGE_SIZE
    assert found(8000).size == 8000
    assert found(10**6).size == LARGE_SIZE


def test_a_receptor_peer_is_not_probed():
    path = PathSize()
    path.peer_takes(1452, 0.0)
    assert path.probe_due(100.0) is None


def test_probes_that_are_lost_are_repeated_and_then_left_for_later():
    path = PathSize()
    path.peer_takes(LARGE_SIZE, 0.0)
    for attempt in range(PROBES):
        assert path.probe_due(float(attempt)) == LARGE_SIZE
        assert path.probe_due(float(attempt)) is None
        path.probe_lost(float(attempt))
    assert path.size == BASE_SIZE
    assert path.next_deadline() == PROBES - 1 + RETRY
    assert path.probe_due(path.next_deadline()) == LARGE_SIZE


def test_a_path_that_takes_no_large_datagrams_any_more_falls_back_and_is_tried_later():
    path = found()
    for _ in range(LOSS_EVENTS):
        assert path.size == LARGE_SIZE
        path.large_lost(5.0)
    assert path.size == BASE_SIZE
    assert path.probe_due(5.0 + RETRY) == LARGE_SIZE


def test_a_path_on_which_nothing_is_acknowledged_any_more_falls_back():
    path = found()
    path.timed_out(STALLED_TIMEOUTS - 1, 5.0)
    assert path.size == LARGE_SIZE
    path.timed_out(STALLED_TIMEOUTS, 6.0)
    assert path.size == BASE_SIZE
    assert path.next_deadline() == 6.0 + RETRY


def test_losses_between_arrivals_are_only_congestion():
    path = found()
    for _ in range(100):
        path.large_lost(5.0)
        path.large_acked()
    assert path.size == LARGE_SIZE


EVENTS = st.sampled_from(["acked", "lost", "large_acked", "large_lost", "due"])


@given(st.lists(EVENTS, max_size=60))
def test_whatever_happens_the_size_is_one_that_a_probe_has_shown(events):
    path = PathSize()
    path.peer_takes(LARGE_SIZE, 0.0)
    now, probing = 0.0, False
    shown = {BASE_SIZE}
    for event in events:
        now += 30.0
        if event == "due":
            probing = path.probe_due(now) is not None or probing
        elif event == "acked":
            if probing:
                shown.add(LARGE_SIZE)
            path.probe_acked()
        elif event == "lost":
            path.probe_lost(now)
        elif event == "large_acked":
            path.large_acked()
        else:
            path.large_lost(now)
        assert path.size in shown
