"""File descriptors run out: what is kept back for what must go on, and how shortage is told.

Every link, client and unit takes some. A process that has none left can neither open the files of
a unit that it accepted nor dial a peer that it lost, so clients and links of others are let in only
while some are left.
"""

import errno
import fcntl
import os
import resource
from collections.abc import Callable
from threading import Lock
from typing import Final, TypeVar

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
"""Descriptors that a reserve holds: some units' files may be opened at the same time, each
operation takes no more than three at once."""

T = TypeVar("T")


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

    For what was accepted already, such as the files of a unit. Threads may share a reserve.
    """

    def __init__(self, size: int = SPARE) -> None:
        self._size = size
        self._lock = Lock()
        self._spare: list[int] = []
        self._fill()

    def __len__(self) -> int:
        """How many descriptors are in reserve now."""
        return len(self._spare)

    def call(self, operation: Callable[[], T]) -> T:
        """Return what ``operation`` returns; if it finds no descriptor, it is called once more.

        The spare ones are free for the second call. What it keeps open comes out of the reserve
        until there are others again.

        Raises:
            OSError: the operation's, also if the reserve was not enough.
        """
        with self._lock:
            if len(self._spare) < self._size:
                self._fill()
        try:
            return operation()
        except OSError as exc:
            if exc.errno not in NONE_LEFT:
                raise
        with self._lock:
            self._give_up()
            try:
                return operation()
            finally:
                self._fill()

    def close(self) -> None:
        """Give all of it back to the process."""
        with self._lock:
            self._size = 0
            self._give_up()

    def _fill(self) -> None:
        """Take what is missing, as far as there is any."""
        try:
            while len(self._spare) < self._size:
                self._spare.append(self._another())
        except OSError as exc:
            if exc.errno not in NONE_LEFT:
                raise

    def _another(self) -> int:
        if self._spare:
            return fcntl.fcntl(self._spare[0], fcntl.F_DUPFD_CLOEXEC, 0)
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_up(self) -> None:
        while self._spare:
            os.close(self._spare.pop())
