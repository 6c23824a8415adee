"""Pauses between attempts to dial."""

from meshnode.mesh.peers.linklog import REDIAL_FIRST, REDIAL_JITTER, REDIAL_MOST, redial_delay


def test_pauses_grow_to_their_bound_and_never_vanish():
    for failures in (1, 2, 5, 10, 1000, 10**9):
        for _ in range(20):
            assert REDIAL_FIRST * (1 - REDIAL_JITTER) <= redial_delay(failures) <= REDIAL_MOST
    assert redial_delay(1) <= REDIAL_FIRST
    assert redial_delay(100) >= REDIAL_MOST * (1 - REDIAL_JITTER)
