"""Tests of what happens when descriptors run out, in this very process."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

LEAST = 256
"""Descriptors that a process in a test may have at least: pytest takes some."""


def next_number() -> int:
    """Return the lowest descriptor that is free."""
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


@contextmanager
def descriptors_left(count: int, limit: int = LEAST) -> Iterator[ExitStack]:
    """Leave this process ``count`` of ``limit`` descriptors for as long as the context lasts.

    Yields the stack that holds what takes all others: closing it gives all back.
    """
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as taken:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        opened = list(_all_that_is_left())
        for number in opened[len(opened) - count :]:
            os.close(number)
        for number in opened[: len(opened) - count]:
            taken.callback(os.close, number)
        yield taken


def _all_that_is_left() -> Iterator[int]:
    while True:
        try:
            yield os.open(os.devnull, os.O_RDONLY)
        except OSError as exc:
            if exc.errno == errno.EMFILE:
                return
            raise
