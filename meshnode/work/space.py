"""Room on the disk that units are written to."""

import os
from pathlib import Path

LOW_BYTES = 1 << 30
"""Free bytes below which a disk of any size is short: payloads and outputs of a gigabyte are
usual."""

LOW_SHARE = 0.05
"""Share of a disk below which a small one is short, although it never had a gigabyte to spare."""

_MIB = 1 << 20


def low_space(directory: Path) -> str | None:
    """Return a line for a person while there is little room for units, else None."""
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        return f"the space left in {directory} is unknown: {error.strerror}"
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if free >= min(LOW_BYTES, size * LOW_SHARE):
        return None
    return f"{directory} has {free // _MIB} MiB left of {size // _MIB} MiB: units will fail"
