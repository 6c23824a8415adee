"""What a process runs out of: file descriptors, threads, memory.

*Descriptors.* Every link, client and unit takes some. A process that has none left can neither open
the files of a unit that it accepted nor dial a peer that it lost. So clients and links of others
are let in only while some are left (:func:`to_spare`), and a few are in reserve for dialing
(:class:`DescriptorReserve`).

*Threads.* The system may refuse one; :func:`in_thread` waits for it, or says so in an error of its
own.

*Memory.* The C library keeps what was freed for what may come. After thousands of connections that
is most of what they took, and the node would look for ever as it did in its worst minute. So it is
asked to give that back (:class:`MemoryTrimmer`). What there are thousands of has locks that are
only there while they are held (:class:`BriefLock`).
"""

import ctypes
import errno
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from types import TracebackType
from typing import Final, TypeVar

import trio

NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors of a process, or a system, that has no descriptor left."""

KEPT_BACK = 64
"""Descriptors that accepted clients and links leave to the rest: running units, dials, look-ups."""

KEPT_FROM_OPERATORS = KEPT_BACK // 2
"""Descriptors that clients of this machine leave: an operator must get in to find out what is
wrong."""

KEPT_BACK_SHARE = 8
"""At most one in so many descriptors is kept back, where a process may have few."""

SPARE = 16
"""Descriptors in reserve: a node dials few peers."""

NEEDED = 4
"""Descriptors that one operation takes at most: a dial takes three, with the look-up of a name."""


def raise_limit() -> int:
    """Let this process have as many descriptors as it may, and return how many it had.

    The usual 1,024 is what a shell gets, not a daemon.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def to_spare(kept_back: int = KEPT_BACK) -> int:
    """Return how many descriptors are left beyond those that are kept back, at the very most.

    The system gives out the lowest free number, so the next one says how many are taken at least.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 30
    try:
        number = os.eventfd(0)
    except OSError as exc:
        if exc.errno in NONE_LEFT:
            return 0
        raise
    os.close(number)
    share = limit * kept_back // (KEPT_BACK_SHARE * KEPT_BACK)
    return limit - min(kept_back, share) - number


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


# --- Threads -------------------------------------------------------------------------------------

RETRY: Final = 0.1
"""Seconds before a thread is asked for again: nothing reports one that has ended."""

_NONE_LEFT: Final = "can't start new thread"
"""All that Python says when the system refuses a thread."""

T = TypeVar("T")


class NoThread(OSError):
    """The system starts no thread now: too many processes, or too little memory."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "no thread can be started now")


async def in_thread(
    function: Callable[..., T],
    *args: object,
    wait: float = 0.0,
    abandon: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """Return what a function returns that is called in a thread.

    Args:
        function: May block.
        args: What it is called with.
        wait: Seconds for which a thread is waited for where there is none.
        abandon: Whether a cancelled call is left to end by itself.
        limiter: Bounds the threads of one purpose; without one, trio's for all.

    Raises:
        NoThread: there is still none.
        Exception: whatever the function raises.
    """
    until = trio.current_time() + wait
    while True:
        try:
            return await trio.to_thread.run_sync(
                function, *args, abandon_on_cancel=abandon, limiter=limiter
            )
        except RuntimeError as exc:
            if _NONE_LEFT not in str(exc):
                raise
            if trio.current_time() >= until:
                raise NoThread from exc
        await trio.sleep(RETRY)


# --- Memory --------------------------------------------------------------------------------------

WORTH_IT = 16 * 1024 * 1024
"""Bytes that must have been freed for the library to be asked: it takes some milliseconds."""


class MemoryTrimmer:
    """Counts what is freed, and returns it to the system when that is worth it."""

    def __init__(self, spawn: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        self._spawn = spawn
        self._freed = 0

    def freed(self, size: int) -> None:
        """Note that about so many bytes are free."""
        self._freed += size
        if self._freed >= WORTH_IT:
            self._freed = 0
            self._spawn(trim_memory)


async def trim_memory() -> None:
    """Have the C library return what it keeps to the system, if it is one that can."""
    await trio.to_thread.run_sync(_trim)


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # others than the GNU library keep little, and have no such function
        trim(0)


class BriefLock:
    """A lock, for ``async with``, that has a trio.Lock only while somebody holds it or waits.

    With two trio.Locks instead, each of 10,000 finished units takes 1.66 KB and not 1.05 KB
    (``python -m bench --only finished``).
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock: trio.Lock | None = None

    async def __aenter__(self) -> None:
        if self._lock is None:
            self._lock = trio.Lock()
        await self._lock.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._lock is not None
        self._lock.release()
        # Whoever waited holds it by now.
        if not self._lock.locked():
            self._lock = None
