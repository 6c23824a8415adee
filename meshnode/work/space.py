"""Room on the disk that units are written to."""

import os
from pathlib import Path

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
