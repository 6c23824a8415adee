"""Collects what a job brings back as a tar, which is the same for the same files.

It is made beside its place, and put there when all of it is on the disk: made again, after whatever
broke it off, it replaces what was there.
"""

import errno
import os
import stat
import tarfile
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Final

from meshctl.safetar import PIECE
from meshnode import files
from meshnode.work.files.finding import CHANGED, DENIED, LOOK, CannotCollect, Finder, Found
from meshnode.work.files.globs import Globs

STEP_SECONDS: Final = 0.1
"""Seconds of one step: who cancels waits no longer for a thread."""

ROOM: Final = 64 * 1024 * 1024
"""Bytes of the disk that are left to others, who record what their jobs did."""

ROOM_SHARE: Final = 0.05
"""The same as a share, for small disks."""

TRIES: Final = 3
"""Times that a file is copied which becomes shorter meanwhile."""

END: Final = bytes(2 * tarfile.BLOCKSIZE)
"""What ends a tar."""

Steps = Generator[None, None, None]
"""Work that pauses where it may be broken off."""

_FIND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Collection:
    """One collection, made step by step in threads, one after the other.

    Attributes:
        words: what there was, for a person, once it is done.
    """

    def __init__(self, work: Path, place: Path, globs: tuple[str, ...]) -> None:
        """``work`` is the directory of the job, ``place`` the file that is made of it."""
        self._work = work
        self._place = place
        self._new = f"{place}.new"
        self._globs = Globs(globs)
        self.words = ""
        self._room = 0
        self._files = 0
        self._steps = self._run()

    def step(self) -> bool:
        """Go on for a moment; return whether it is done.

        Raises:
            CannotCollect: there is too much.
            OSError: the disk refuses. After either, nothing is left of it.
        """
        until = time.monotonic() + STEP_SECONDS
        return all(time.monotonic() < until for _ in self._steps)

    def close(self) -> None:
        """End it; of what is not done nothing is left."""
        self._steps.close()

    def _run(self) -> Steps:
        try:
            root = os.open(self._work, LOOK)
        except OSError as error:
            if error.errno not in CHANGED and error.errno != errno.EACCES:
                raise
            why = "may not be read" if error.errno == errno.EACCES else "is gone"
            self.words = f"collected no files: its directory {why}"
            return
        try:
            yield from self._check_room(root)
            yield from self._make(root)
        finally:
            os.close(root)

    def _check_room(self, root: int) -> Steps:
        """Refuse to fill the disk: a file may say that it has any number of bytes."""
        needed = 0
        with closing(Finder(self._globs).find(root)) as search:
            for found in search:
                if found is not None:
                    needed += len(_header(found)) + found.size + tarfile.BLOCKSIZE
                yield
        disk = os.statvfs(self._place.parent)
        size = disk.f_blocks * disk.f_frsize
        left = int(min(ROOM, size * ROOM_SHARE))
        if needed + left > size:
            raise CannotCollect(f"they have {needed} bytes, for which the disk is too small")
        self._room = disk.f_bavail * disk.f_frsize - left
        if needed > self._room:
            raise _no_room()

    def _make(self, root: int) -> Steps:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        _drop(self._new)
        descriptor = os.open(self._new, flags, files.PRIVATE)
        try:
            finder = Finder(self._globs)
            with closing(finder.find(root)) as search:
                for found in search:
                    if found is not None:
                        yield from self._add(descriptor, finder, found)
                    yield
            if os.fstat(descriptor).st_size:
                _write(descriptor, END)
            os.fsync(descriptor)
            os.replace(self._new, self._place)
        finally:
            os.close(descriptor)
            _drop(self._new)
        count = "1 file" if self._files == 1 else f"{self._files} files"
        self.words = "; ".join((f"collected {count}", *finder.notes()))

    def _add(self, descriptor: int, finder: Finder, found: Found) -> Steps:
        """Add a member."""
        if not stat.S_ISREG(found.mode):
            self._files += stat.S_ISLNK(found.mode)
            _write(descriptor, _header(found))
            return
        try:
            source = _open(found)
        except PermissionError:
            finder.leave_out(found.name, DENIED)
            return
        if source < 0:
            return
        begin = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            for _ in range(TRIES):
                size = os.fstat(source).st_size
                if begin + size > self._room:
                    raise _no_room()
                _write(descriptor, _header(found, size))
                copied = yield from _copy(source, descriptor, size)
                if copied:
                    self._files += 1
                    return
                # It must be as long as its header says.
                os.ftruncate(descriptor, begin)
                os.lseek(descriptor, begin, os.SEEK_SET)
        finally:
            os.close(source)
        finder.leave_out(found.name, "it becomes shorter all the time")


def _header(found: Found, size: int = 0) -> bytes:
    """Return the blocks before the content of a member."""
    info = tarfile.TarInfo(found.name)
    info.size, info.mtime = size, max(found.mtime, 0)
    # Whose it is, and who else may read it, means nothing on another machine.
    info.mode = 0o755 if found.mode & stat.S_IXUSR else 0o644
    if stat.S_ISDIR(found.mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(found.mode):
        info.type, info.linkname = tarfile.SYMTYPE, found.target
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _open(found: Found) -> int:
    """Open a file; -1 if it is none any more. Raises OSError."""
    try:
        place = os.open(found.base, _FIND, dir_fd=found.at)
    except OSError as error:
        if error.errno in CHANGED:
            return -1
        raise
    try:
        # Only now: to open a pipe or a device does something.
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return -1
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)


def _copy(source: int, descriptor: int, size: int) -> Generator[None, None, bool]:
    """Copy so many bytes, padded to whole blocks; return False if there are fewer."""
    position = 0
    while position < size:
        piece = os.pread(source, min(size - position, PIECE), position)
        if not piece:
            return False
        _write(descriptor, piece)
        position += len(piece)
        yield
    _write(descriptor, bytes(-size % tarfile.BLOCKSIZE))
    return True


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _drop(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _no_room() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
