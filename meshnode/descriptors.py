"""File descriptors run out: what is kept back for what must go on, and how shortage is told.

Every link, client and unit takes some. A process that has none left can neither open the files of
a unit that it accepted nor dial a peer that it lost, so clients and links of others are let in only
while some are left.
"""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors that mean: this process, or the whole system, has no descriptor left."""

KEPT_BACK = 64
"""Descriptors that accepted clients and links leave to the rest: to units that are at work, lost
peers that are dialed, name look-ups."""

KEPT_FROM_OPERATORS = KEPT_BACK // 2
"""Descriptors that clients of this machine leave: whoever has to find out why nobody can get in any
more must get in."""

KEPT_BACK_SHARE = 8
"""One in so many descriptors is kept back where a process may have so few that 64 were too many."""

SPARE = 16
"""Descriptors that a reserve holds: a node has few peers that it dials."""

NEEDED = 4
"""Descriptors that an operation takes at most: to dial a peer takes three, with the look-up of its
name."""


def raise_limit() -> int:
    """Let this process have as many descriptors as it may, and return how many it had.

    The usual 1,024 is what a shell gets, not a daemon.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def are_short(kept_back: int = KEPT_BACK) -> bool:
    """Whether no more descriptors are left than are kept back, so that nobody should be let in.

    The system gives out the lowest free number, so the next one says how many are taken at least.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        number = os.eventfd(0)
    except OSError as exc:
        if exc.errno in NONE_LEFT:
            return True
        raise
    os.close(number)
    share = limit * kept_back // (KEPT_BACK_SHARE * KEPT_BACK)
    return number >= limit - min(kept_back, share)


class DescriptorReserve:
    """Spare descriptors for operations that must not fail when all others are taken.

    For what others cannot bring about, such as dialing a peer that was lost. Threads may share one.
    """

    def __init__(self, size: int = SPARE) -> None:
        self._size = size
        self._lock = Lock()
        self._spare: list[int] = []
        self._borrowers = 0
        self._spare += _open(size)

    def __len__(self) -> int:
        """How many descriptors are in reserve now."""
        return len(self._spare)

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Have the spare ones free while the context lasts, if hardly any other is left.

        What is kept open then comes out of the reserve until there are others again.
        """
        borrows = self._borrow()
        try:
            yield
        finally:
            if borrows:
                self._take_back()

    def close(self) -> None:
        """Give all of it back to the process."""
        with self._lock:
            self._size = 0
            self._give_up()

    def _borrow(self) -> bool:
        """Free the spare ones if that is needed, otherwise take what is missing."""
        with self._lock:
            others = [] if self._borrowers else _open(NEEDED + self._size - len(self._spare))
            borrows = len(others) < NEEDED
            if not borrows:
                self._spare += others[NEEDED:]
                del others[NEEDED:]
            _close(others)
            if borrows:
                self._borrowers += 1
                self._give_up()
            return borrows

    def _take_back(self) -> None:
        with self._lock:
            self._borrowers -= 1
            if not self._borrowers:
                self._spare += _open(self._size)

    def _give_up(self) -> None:
        _close(self._spare)
        self._spare.clear()


def _open(count: int) -> list[int]:
    """Return so many new descriptors, or as many as there are."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.eventfd(0))
    except OSError as exc:
        if exc.errno not in NONE_LEFT:
            raise
    return opened


def _close(numbers: list[int]) -> None:
    for number in numbers:
        os.close(number)
