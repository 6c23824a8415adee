"""What has come of a unit's files, until all of it is here.

It lies in a directory of its own beside the places of the files, by the name of the unit: who is
interrupted, killed or cut off finds it again, and goes on with it. So a part must be known to be
one of the same tar, and to be on the disk as it was written: one from before the machine was
restarted is not gone on with. Nobody else may have made that directory.
"""

import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from meshctl.api.errors import AWAY

PREFIX = ".fetching-"
"""Begins the name of such a directory; that of the unit follows."""

_TAR, _OF, _FILES = "tar", "of", "files"
_UNIT = re.compile(r"[A-Za-z0-9]{1,64}")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Part:
    """The first bytes of a tar, and room to unpack it in.

    Attributes:
        size: How many bytes have come.
        descriptor: The file that has them.
    """

    def __init__(self, directory: Path, descriptor: int, *, stays: bool) -> None:
        self._directory = directory
        self._stays = stays
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def write(self, piece: bytes) -> None:
        """Write what comes next. Raises OSError."""
        view = memoryview(piece)
        while view:
            written = os.pwrite(self.descriptor, view, self.size)
            self.size += written
            view = view[written:]

    def new_directory(self) -> Path:
        """Return an empty directory, beside the places of the files. Raises OSError."""
        place = self._directory / _FILES
        # Who went before was killed while it unpacked.
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def close(self, *, keep: bool) -> None:
        """Leave it to be gone on with, or remove it."""
        if keep and self._stays and self.size:
            shutil.rmtree(self._directory / _FILES, ignore_errors=True)
        else:
            shutil.rmtree(self._directory, ignore_errors=True)
        # Not before: who waits for the lock must not have it removed.
        os.close(self.descriptor)


@contextmanager
def part_of(place: Path, unit_id: str, size: int, status: Mapping[str, Any]) -> Iterator[Part]:
    """Give what has come of a unit's files to ``place``, of ``size`` bytes.

    It stays if the node is away or we are interrupted, and is removed in any other case.

    Raises:
        OSError: there is no room for it.
    """
    place.mkdir(parents=True, exist_ok=True)
    part = _kept(place, unit_id, size, status) or _passing(place)
    keep = False
    try:
        yield part
    except BaseException as error:
        keep = isinstance(error, AWAY) or not isinstance(error, Exception)
        raise
    finally:
        part.close(keep=keep)


def bytes_kept(place: Path, unit_id: str) -> int:
    """Return how many bytes of a unit's files are kept to go on with."""
    try:
        return os.lstat(place / f"{PREFIX}{unit_id}" / _TAR).st_size
    except (OSError, ValueError):
        return 0


def _passing(place: Path) -> Part:
    """Return a part that nobody goes on with."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    try:
        descriptor = os.open(directory / _TAR, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Part(directory, descriptor, stays=False)


def _kept(place: Path, unit_id: str, size: int, status: Mapping[str, Any]) -> Part | None:
    """Return the part that stays; None if it is not ours, or another process is at it."""
    # A node names the units of a batch, and is not trusted with a path.
    if not _UNIT.fullmatch(unit_id):
        return None
    directory = place / f"{PREFIX}{unit_id}"
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return None
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(directory / _TAR, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had it until now may have removed it.
        if not os.path.samestat(os.fstat(descriptor), os.lstat(directory / _TAR)):
            raise FileNotFoundError
        _begin_anew_unless(directory, descriptor, size, _described(unit_id, size, status))
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return Part(directory, descriptor, stays=True)


def _begin_anew_unless(directory: Path, descriptor: int, size: int, of: str) -> None:
    """Empty a part that is of something else, and say what it is of from now on."""
    about = directory / _OF
    try:
        is_same = bool(of) and about.read_text(errors="replace") == of
    except OSError:
        is_same = False
    if not is_same or os.fstat(descriptor).st_size > size:
        # In this order: a part that says what it is of has nothing else in it.
        os.ftruncate(descriptor, 0)
        about.unlink(missing_ok=True)
        about.write_text(of)


def _described(unit_id: str, size: int, status: Mapping[str, Any]) -> str:
    """Return what a part is of; empty where it could not be gone on with."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        return ""
    return json.dumps([unit_id, size, status.get("Created"), status.get("Finished"), boot])
