"""Collects what a job on this machine brings back, as a tar: the same for the same files."""

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
from meshnode.work.files.archive import Archive, Room, collected, member_header
from meshnode.work.files.finding import CHANGED, DENIED, LOOK, Finder, Found
from meshnode.work.files.globs import Globs

STEP_SECONDS: Final = 0.1
"""Seconds of one step: who cancels waits no longer for a thread."""

TRIES: Final = 3
"""Times that a file is copied which becomes shorter meanwhile."""

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
        self._globs = Globs(globs)
        self.words = ""
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
            room = Room(self._place.parent)
            yield from self._check_room(root, room)
            yield from self._make(root, room)
        finally:
            os.close(root)

    def _check_room(self, root: int, room: Room) -> Steps:
        needed = 0
        with closing(Finder(self._globs).find(root)) as search:
            for found in search:
                if found is not None:
                    needed += len(_header(found)) + found.size + tarfile.BLOCKSIZE
                yield
        room.check(needed, needed)

    def _make(self, root: int, room: Room) -> Steps:
        archive = Archive(self._place)
        try:
            finder = Finder(self._globs)
            with closing(finder.find(root)) as search:
                for found in search:
                    if found is not None:
                        yield from self._add(archive, room, finder, found)
                    yield
            archive.finish()
        finally:
            archive.close()
        self.words = "; ".join((collected(self._files), *finder.notes.lines()))

    def _add(self, archive: Archive, room: Room, finder: Finder, found: Found) -> Steps:
        """Add a member."""
        if not stat.S_ISREG(found.mode):
            self._files += stat.S_ISLNK(found.mode)
            archive.write(_header(found))
            return
        try:
            source = _open(found)
        except PermissionError:
            finder.notes.leave_out(found.name, DENIED)
            return
        if source < 0:
            return
        begin = archive.size
        try:
            for _ in range(TRIES):
                size = os.fstat(source).st_size
                room.check(begin + size, size)
                archive.write(_header(found, size))
                copied = yield from _copy(source, archive, size)
                if copied:
                    self._files += 1
                    return
                # It must be as long as its header says.
                archive.cut(begin)
        finally:
            os.close(source)
        finder.notes.leave_out(found.name, "it becomes shorter all the time")


def _header(found: Found, size: int = 0) -> bytes:
    return member_header(found.name, found.mode, found.mtime, size=size, target=found.target)


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


def _copy(source: int, archive: Archive, size: int) -> Generator[None, None, bool]:
    """Copy so many bytes, padded to whole blocks; return False if there are fewer."""
    position = 0
    while position < size:
        piece = os.pread(source, min(size - position, PIECE), position)
        if not piece:
            return False
        archive.write(piece)
        position += len(piece)
        yield
    archive.pad()
    return True
