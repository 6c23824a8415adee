"""What the machine lacks at this moment: waited for, and told from faults that last.

A process, a descriptor, memory: a unit that was accepted does not fail for want of one. It says so
in its detail, and what it needs is tried again.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from meshnode import files
from meshnode.errors import WorkError
from meshnode.resources import NoThread, in_thread

FIRST_PAUSE = 0.1
PAUSE_GROWTH = 2.0
LONGEST_PAUSE = 15.0
"""Seconds between tries: at first as short as what ends by itself, then such that thousands of
waiting units do not keep a machine busy that has nothing to spare. No event says that a process or
a descriptor can be had again."""


T = TypeVar("T")


async def in_thread_or_here(function: Callable[..., T], *args: object) -> T:
    """Return what a function returns that waits for the disk; it is called in a thread.

    Where the system starts none, it is called here: that holds everybody up for a write or a sync,
    and what was accepted is recorded all the same.

    Raises:
        Exception: whatever the function raises.
    """
    try:
        return await in_thread(function, *args)
    except NoThread:
        return function(*args)


def shortage_of(error: OSError) -> str:
    """Return in words for a person what the machine lacks, by an error that says so."""
    return _SHORTAGES.get(error.errno or 0) or f"the disk ({files.reason(error)})"


_SHORTAGES = {
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk space",
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "file descriptors",
    errno.ENOMEM: "memory",
}


class NotNow(WorkError):
    """The machine lacks something; nothing has happened, and the same may be tried again."""


class Pauses:
    """The pauses between tries of one thing, each longer than the one before."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    async def take(self) -> None:
        """Wait until the next try."""
        await trio.sleep(self._next)
        self._next = min(self._next * PAUSE_GROWTH, LONGEST_PAUSE)


class Telling:
    """Tells a reason once, however often it is met in a row."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told = ""

    def __call__(self, reason: str) -> None:
        """Tell a reason, unless it was the last one told."""
        if reason != self._told:
            self._told = reason
            self._tell(reason)


# --- Room on the disk that units are written to

LOW_BYTES = 1 << 30
"""Free bytes below which a disk of any size is short: payloads and outputs of a gigabyte are
usual."""

LOW_SHARE = 0.05
"""Share of a disk below which a small one is short, although it never had a gigabyte to spare."""

LOW_FILES = 10_000
"""Files that a disk of any size should still take: a unit has six."""

KEPT_BYTES = 64 << 20
"""Free bytes that results of other nodes leave to payloads, outputs and records of this one."""

KEPT_SHARE = 0.01
"""The same as a share of a small disk."""

FREE_SIZE = 1 << 20
"""Bytes of results that a unit may have in any case: most have no more, and must not wait."""

_MIB = 1 << 20


def shortages(directory: Path) -> list[str]:
    """Return a line for a person for each thing that units will soon lack on their disk."""
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        return [f"the space left in {directory} is unknown: {error.strerror}"]
    found = []
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if free < min(LOW_BYTES, size * LOW_SHARE):
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


def has_room(directory: Path, size: int) -> bool:
    """Whether results of another node may go on, of which there are ``size`` bytes by now.

    Raises:
        OSError: nobody can tell.
    """
    if size < FREE_SIZE:
        return True
    disk = os.statvfs(directory)
    free, whole = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    return free >= min(KEPT_BYTES, whole * KEPT_SHARE)
