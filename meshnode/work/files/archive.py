"""The tar of what a job brings back, while it is made, and how much of its disk it may take.

It is made beside its place, and put there when all of it is on the disk: made again, after whatever
broke it off, it replaces what was there. All of this blocks.
"""

import errno
import os
import stat
import tarfile
from pathlib import Path
from typing import Final

from meshnode import files
from meshnode.errors import WorkError

ROOM: Final = 64 * 1024 * 1024
"""Bytes of the disk that are left to others, who record what their jobs did."""

ROOM_SHARE: Final = 0.05
"""The same as a share, for small disks."""

END: Final = bytes(2 * tarfile.BLOCKSIZE)
"""What ends a tar."""


class CannotCollect(WorkError):
    """The files cannot be brought back, or are more than may be."""


class Room:
    """What is left for a tar on its disk: a file may say that it has any number of bytes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        disk = os.statvfs(directory)
        self._size = disk.f_blocks * disk.f_frsize
        self._left = int(min(ROOM, self._size * ROOM_SHARE))

    def check(self, whole: int, more: int) -> None:
        """Refuse to fill the disk with ``more`` bytes, of a tar that will have ``whole``.

        Raises:
            CannotCollect: it could never have them.
            OSError: it has no room now.
        """
        if whole + self._left > self._size:
            raise CannotCollect(f"they have {whole} bytes, for which the disk is too small")
        disk = os.statvfs(self._directory)
        if more > disk.f_bavail * disk.f_frsize - self._left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Archive:
    """One tar. Close it: of one that is not finished nothing is left.

    Attributes:
        size: bytes of it so far.
    """

    def __init__(self, place: Path) -> None:
        """Begin it. Raises OSError."""
        self._place = place
        self._new = f"{place}.new"
        _drop(self._new)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._new, flags, files.PRIVATE)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes of a header or of content."""
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            self.size += written
            view = view[written:]

    def pad(self) -> None:
        """Fill up the last block, after the content of a member."""
        self.write(bytes(-self.size % tarfile.BLOCKSIZE))

    def cut(self, size: int) -> None:
        """Go back to a size that it had."""
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)
        self.size = size

    def finish(self) -> None:
        """Put it in its place, when all of it is on the disk; without a member it is empty."""
        if self.size:
            self.write(END)
        os.fsync(self._descriptor)
        os.replace(self._new, self._place)

    def close(self) -> None:
        """End it."""
        os.close(self._descriptor)
        _drop(self._new)


def member_header(name: str, mode: int, mtime: int, *, size: int = 0, target: str = "") -> bytes:
    """Return the blocks before the content of a member; ``mode`` has its type, as in stat(2)."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, max(mtime, 0)
    # Whose it is, and who else may read it, means nothing on another machine.
    info.mode = 0o755 if mode & stat.S_IXUSR else 0o644
    if stat.S_ISDIR(mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(mode):
        info.type, info.linkname = tarfile.SYMTYPE, target
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def collected(count: int) -> str:
    """Return for a person how many files there were."""
    return f"collected {'1 file' if count == 1 else f'{count} files'}"


def _drop(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
