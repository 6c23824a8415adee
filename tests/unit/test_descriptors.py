"""What is kept back when descriptors run out, in a process whose limit is really reached."""

import os
import resource

import pytest
from descriptor_limits import LEAST, descriptors_left, next_number

from meshnode.resources import (
    KEPT_BACK,
    KEPT_BACK_SHARE,
    NEEDED,
    DescriptorReserve,
    raise_limit,
    to_spare,
)

SCATTERED = 4
"""Descriptors with high numbers that whoever started the tests may have left us."""


def open_some(count: int) -> list[int]:
    """Open files, all or none."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for number in opened:
            os.close(number)
        raise
    return opened


def close_all(numbers: list[int]) -> None:
    for number in numbers:
        os.close(number)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(LEAST, LEAST // KEPT_BACK_SHARE), (4 * KEPT_BACK_SHARE * KEPT_BACK, KEPT_BACK)],
)
def test_descriptors_are_short_while_no_more_are_left_than_are_kept_back(limit, kept):
    assert to_spare() > 0
    with descriptors_left(kept - SCATTERED, limit):
        assert to_spare() <= 0
        held = open_some(kept - SCATTERED)
        assert to_spare() <= 0
        close_all(held)
    with descriptors_left(kept + SCATTERED, limit):
        assert to_spare() > 0


def test_an_operation_has_the_reserve_when_there_are_no_others():
    reserve = DescriptorReserve(8)
    with descriptors_left(0) as taken:
        with pytest.raises(OSError, match="Too many open files"):
            open_some(1)
        with reserve.at_hand():
            assert len(reserve) == 0
            held = open_some(3)
        assert len(reserve) == 5
        with reserve.at_hand(), reserve.at_hand():
            held += open_some(5)
            with pytest.raises(OSError, match="Too many open files"):
                open_some(1)
        assert len(reserve) == 0
        # It is filled again with what is left beside what an operation needs.
        close_all(held[:6])
        with reserve.at_hand():
            close_all(open_some(NEEDED))
        assert len(reserve) == 6 - NEEDED
        taken.close()
        with reserve.at_hand():
            assert len(reserve) == 8
        close_all(held[6:])
    reserve.close()


def test_the_reserve_is_not_touched_while_there_are_others():
    reserve = DescriptorReserve(8)
    with reserve.at_hand():
        assert len(reserve) == 8
    reserve.close()


def test_an_operation_that_fails_leaves_the_reserve_as_it_was():
    with descriptors_left(8):
        reserve = DescriptorReserve(8)
        with pytest.raises(OSError, match="Too many open files"), reserve.at_hand():
            open_some(9)
        assert len(reserve) == 8
        reserve.close()


def test_nothing_is_taken_back_while_another_operation_has_it():
    reserve = DescriptorReserve(8)
    with descriptors_left(0):
        with reserve.at_hand():
            with reserve.at_hand():
                pass
            assert len(reserve) == 0
        assert len(reserve) == 8
    reserve.close()


def test_a_closed_reserve_holds_nothing_and_takes_nothing():
    first = next_number()
    reserve = DescriptorReserve(4)
    assert next_number() == first + 4
    reserve.close()
    with reserve.at_hand():
        assert next_number() == first


def test_a_reserve_that_finds_no_descriptor_at_its_start_is_filled_later():
    with descriptors_left(1) as taken:
        reserve = DescriptorReserve(4)
        assert len(reserve) == 1
        taken.close()
        with reserve.at_hand():
            assert len(reserve) == 4
    reserve.close()


def test_the_limit_is_raised_to_what_the_process_may_have():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
        assert raise_limit() == before[1] - 1
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
