"""What the machine lacks at the moment: processes, descriptors, memory, room on the disk.

A unit that was accepted does not fail for want of one. Its detail says what it waits for, and what
needs it is tried again.
"""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from meshnode import files
from meshnode.errors import CommandError, WorkError
from meshnode.logs import SubjectLogger
from meshnode.resources import NoThread, in_thread

FIRST_PAUSE = 0.1
PAUSE_GROWTH = 2.0
LONGEST_PAUSE = 15.0
"""Seconds between tries. Short at first, since most shortages end soon; then long enough that
thousands of waiting units do not load the machine. No event announces a free process or
descriptor."""


T = TypeVar("T")


async def in_thread_or_here(function: Callable[..., T], *args: object) -> T:
    """Call a function that waits for the disk in a thread, and return what it returns.

    If the system starts no thread, it is called in the loop. That delays everybody for a write or a
    sync, but what was accepted gets recorded.

    Raises:
        Exception: whatever the function raises.
    """
    try:
        return await in_thread(function, *args)
    except NoThread:
        return function(*args)


def shortage_of(error: OSError) -> str:
    """Return for a person what the machine lacks, according to an error."""
    return _SHORTAGES.get(error.errno or 0) or f"the disk ({files.reason(error)})"


_SHORTAGES = {
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk space",
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "file descriptors",
    errno.ENOMEM: "memory",
}


LACKS = files.PASSING | _SHORTAGES.keys()
"""Errors that say what the machine lacks at this moment, the disk's room included."""


class NotNow(WorkError):
    """The machine lacks something now. Nothing has happened; the same may be tried again."""


class NotRecorded(CommandError):
    """The end that was asked for has come, but the disk does not take its record now."""


def is_lack(error: BaseException | None) -> bool:
    """Whether an error, or what has caused it, is that the machine lacks something now."""
    while error is not None:
        if isinstance(error, NotNow) or (isinstance(error, OSError) and error.errno in LACKS):
            return True
        error = error.__cause__
    return False


class Pauses:
    """The pauses between tries of one thing, each longer than the one before."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    async def take(self) -> None:
        """Wait until the next try."""
        await trio.sleep(self._next)
        self._grow()

    async def take_unless(self, event: trio.Event) -> bool:
        """Wait until the next try, or the event; return whether it has come."""
        with trio.move_on_after(self._next):
            await event.wait()
        self._grow()
        return event.is_set()

    def _grow(self) -> None:
        self._next = min(self._next * PAUSE_GROWTH, LONGEST_PAUSE)


class LogOnce:
    """Logs a reason once, however often it comes in a row."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._last = ""

    def __call__(self, reason: str) -> None:
        """Log a reason, unless it was the last one."""
        if reason != self._last:
            self._last = reason
            self._log(reason)


# --- room on the disk of the units ----------------------------------------------------------------

LOW_BYTES = 1 << 30
"""A disk with at least so many free bytes is never short: payloads and outputs of a gigabyte are
usual."""

LOW_SHARE = 0.05
"""A disk with at least this share free is never short, however small it is. One that has less than
this and less than LOW_BYTES is short; of inodes the same is true with LOW_FILES."""

LOW_FILES = 10_000
"""A disk with at least so many free inodes is never short of them; a unit takes six."""

KEPT_BYTES = 64 << 20
"""Free bytes that results of other nodes leave to the units of this node."""

KEPT_SHARE = 0.01
"""The same as a share, for small disks."""

FREE_SIZE = 1 << 20
"""Bytes of results that a unit may store in any case; most units have no more."""

_MIB = 1 << 20


def shortages(directory: Path) -> list[str]:
    """Return a line for a person for each thing that the disk of the units is short of."""
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        return [f"the space left in {directory} is unknown: {error.strerror}"]
    found = []
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if _is_low(disk):
        found.append(
            f"{directory} has {free // _MIB} MiB left of {size // _MIB} MiB: units will fail"
        )
    # File systems that make inodes as they need them (btrfs) say that there are none at all.
    if disk.f_files and disk.f_favail < min(LOW_FILES, disk.f_files * LOW_SHARE):
        found.append(
            f"{directory} has inodes for {disk.f_favail} more files of {disk.f_files}: "
            "units will fail"
        )
    return found


def is_low(directory: Path) -> bool:
    """Whether the disk has less room than what is no unit's, and can come again, is to leave it.

    Raises:
        OSError: the disk does not say how full it is.
    """
    return _is_low(os.statvfs(directory))


def _is_low(disk: os.statvfs_result) -> bool:
    return disk.f_bavail < min(LOW_BYTES / disk.f_frsize, disk.f_blocks * LOW_SHARE)


def has_room(directory: Path, size: int) -> bool:
    """Whether more results of another node may be stored after ``size`` bytes.

    Raises:
        OSError: the disk does not say how full it is.
    """
    if size < FREE_SIZE:
        return True
    disk = os.statvfs(directory)
    free, whole = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    return free >= min(KEPT_BYTES, whole * KEPT_SHARE)


async def check_fits(directory: Path, size: int) -> None:
    """Return if the disk has room for so many bytes more, as far as anybody can say before.

    Of what is small nobody asks: it is taken in as long as there is any room.

    Raises:
        NotNow: it has less.
    """
    if size < FREE_SIZE:
        return
    try:
        disk = await in_thread_or_here(os.statvfs, directory)
    except OSError:
        # Whoever writes there is told what is wrong.
        return
    free = disk.f_bavail * disk.f_frsize
    if size > free:
        raise NotNow(f"{size} bytes do not fit on the disk of this node, which has {free} left")


async def patiently(log: SubjectLogger, look: Callable[[], T]) -> T:
    """Look for processes in a thread; try again while the machine lacks descriptors."""
    pauses = Pauses()
    log_once = LogOnce(partial(log.warning, "cannot look for its processes yet: %s"))
    while True:
        try:
            return await in_thread(look)
        except OSError as error:
            log_once(error.strerror or str(error))
        await pauses.take()
