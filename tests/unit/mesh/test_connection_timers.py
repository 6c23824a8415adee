"""How long a connection waits, and for what."""

import math

import hypothesis
import hypothesis.strategies as st
import pytest

from meshnode.mesh.streams.timers import (
    DELIVERY,
    FIRST_STREAM,
    HANDSHAKE_TIMEOUT,
    IDLE_TIMEOUT,
    KEEP_ALIVE,
    LINGER,
    POOL_IDLE,
    UNUSED,
    ConnectionTimers,
)

NEVER = -math.inf


@pytest.mark.parametrize("is_client", [True, False])
def test_a_handshake_has_its_time_and_then_a_first_stream_has(is_client):
    timers = ConnectionTimers(is_client=is_client, idle=POOL_IDLE, now=0.0)
    assert not timers.is_late(HANDSHAKE_TIMEOUT - 0.1)
    assert timers.is_late(HANDSHAKE_TIMEOUT)
    timers.ready(1.0)
    assert not timers.is_late(1e9)
    first = UNUSED if is_client else FIRST_STREAM
    assert not timers.is_idle(1.0 + first - 0.1)
    assert timers.is_idle(1.0 + first)


def test_a_connection_is_kept_while_it_has_a_stream_and_for_a_time_after_the_last():
    timers = ConnectionTimers(is_client=False, idle=LINGER, now=0.0)
    timers.ready(1.0)
    timers.used()
    assert not timers.is_idle(1e9)
    timers.unused(100.0)
    assert not timers.is_idle(100.0 + LINGER - 0.1)
    assert timers.is_idle(100.0 + LINGER)


def test_dialers_close_what_is_unused_long_before_listeners_do():
    assert 2 * UNUSED < FIRST_STREAM
    assert POOL_IDLE + FIRST_STREAM < LINGER


def test_dialers_ask_for_signs_of_life_and_both_miss_them():
    dialer = ConnectionTimers(is_client=True, idle=POOL_IDLE, now=0.0)
    listener = ConnectionTimers(is_client=False, idle=LINGER, now=0.0)
    assert not dialer.is_to_ping(KEEP_ALIVE - 0.1)
    assert dialer.is_to_ping(KEEP_ALIVE)
    assert not dialer.is_to_ping(KEEP_ALIVE + 0.1)
    assert not listener.is_to_ping(1e9)
    for timers in (dialer, listener):
        assert not timers.is_quiet(NEVER, IDLE_TIMEOUT - 0.1)
        assert timers.is_quiet(NEVER, IDLE_TIMEOUT)
        assert not timers.is_quiet(20.0, 20.0 + IDLE_TIMEOUT - 0.1)
        assert timers.is_quiet(20.0, 20.0 + IDLE_TIMEOUT)


@hypothesis.given(st.lists(st.tuples(st.floats(0, DELIVERY - 1), st.integers(0, 3)), max_size=30))
def test_streams_are_given_up_only_when_nothing_is_taken_of_them_for_long(steps):
    timers, now, left, since = ConnectionTimers(is_client=True, idle=1.0, now=0.0), 0.0, 10**6, None
    for pause, taken in steps:
        now, left = now + pause, left - taken
        gave_up = timers.waits_in_vain(left, 1, now)
        if since is None or taken:
            since = now
        assert gave_up == (now >= since + DELIVERY)
        if gave_up:
            since = now
        assert timers.next_deadline(now) <= since + DELIVERY
    assert not timers.waits_in_vain(0, 0, now + DELIVERY)
    assert not timers.waits_in_vain(left, 1, now + 3 * DELIVERY)
