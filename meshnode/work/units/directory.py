"""The directory of one node: made, judged, locked, and made anew should it go."""

import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from itertools import chain, count
from pathlib import Path

from meshnode import files
from meshnode.errors import WorkError
from meshnode.logs import SubjectLogger
from meshnode.ownership import NODE_DIRECTORIES, check_ownership, cleaned_place, make_private

Identity = tuple[int, int]
"""Device and inode of a directory."""


_CLEANED = (
    "units are kept in {}, where systems delete what is old, and all when they start:"
    " set datadir to a lasting directory, for instance /var/lib/meshnode"
)


class NodeDirectory:
    """``<datadir>/<node>``, as long as a node uses it."""

    def __init__(self, path: Path, log: SubjectLogger) -> None:
        self._given = path
        # Links are followed once: where they lead later is another directory.
        self._path = Path(os.path.realpath(path))
        self._log = log
        self._lock = -1
        self._identity: Identity | None = None
        self.takings = 0
        """How often a directory was taken: each may have been another one."""

    def open(self) -> tuple[str, ...]:
        """Make the directory and take it for ourselves, until :meth:`close`.

        Returns:
            What a person should look at, one line each.

        Raises:
            WorkError: that is impossible, or others may have a hand in it.
        """
        warnings = self._take()
        if place := cleaned_place(self._path):
            warnings += (_CLEANED.format(place),)
        return warnings

    def close(self) -> None:
        """Let another node have it."""
        self._identity = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def check(self) -> None:
        """Make sure that the directory is the one that was taken; one that is gone is made anew.

        Raises:
            WorkError: something else is there, or another node uses it.
        """
        if self._identity is None or self._found() == self._identity:
            return
        self._log.error(
            "%s is gone or another one: it is taken anew, and what was in it is lost to this node",
            self._path,
        )
        for warning in self._take():
            self._log.warning("%s", warning)

    def problem(self) -> str | None:
        """Return a line for a person while the directory is not the one that was taken."""
        if self._identity is None or self._found() == self._identity:
            return None
        return f"the node's directory {self._path} is gone or another one: its units are lost"

    def _found(self) -> Identity | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _take(self) -> tuple[str, ...]:
        """Make, judge and lock the directory; return what is to be warned of."""
        lock = -1
        try:
            make_private(self._path)
            judgement = check_ownership(self._given, own=NODE_DIRECTORIES)
            if judgement.refusal:
                raise WorkError(judgement.refusal)
            # The directory itself is locked: a lock file beside the units would be listed with
            # them by everything that reads receptor's tree.
            lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(lock)
        except BaseException as error:
            if lock >= 0:
                os.close(lock)
            if isinstance(error, BlockingIOError):
                raise WorkError(f"{self._path} is in use by a running node") from error
            if isinstance(error, OSError):
                text = f"cannot use {self._path} for units: {error.strerror}"
                raise WorkError(text) from error
            raise
        self.close()
        self._lock, self._identity = lock, (found.st_dev, found.st_ino)
        self.takings += 1
        return judgement.warnings


# --- The identity of a node's store of units: another directory, or an emptied one, has another
#
# A node that has submitted work asks about it after a failure. That nothing is known of it says
# something only if it is the same store that is asked. A copy of a directory is no such thing: it
# knows nothing of what came after it was made. It is known by its file, whose number and time of
# birth no copy can have; the number alone is often the same on a disk that was made the same way.

FILE = ".store"
"""Name of the file in a node's directory that holds the identity."""

_MOST = 1024
"""Bytes that the file may have; it has some 60."""

_IDENTITY = re.compile(r"[0-9a-f]{32}")

_STATX_BTIME = 0x800
_STATX_BYTES = 256
_AT_EMPTY_PATH = 0x1000


def store_identity(root: Path, log: SubjectLogger) -> str:
    """Return the identity of the store in ``root``; make one if it has none of its own.

    Blocks. Where it cannot be written, the next start has another one: whoever asks then is told
    that nothing is known.
    """
    path = root / FILE
    known = _read(path, log)
    if known is not None:
        return known
    identity = secrets.token_hex(16)
    try:
        _write(path, identity)
    except OSError as error:
        log.warning("cannot record the identity of the store: %s", files.reason(error))
    return identity


def _read(path: Path, log: SubjectLogger) -> str | None:
    try:
        data = json.loads(files.read_file(path, _MOST))
        identity, inode = data["Store"], data["Inode"]
        if not _IDENTITY.fullmatch(identity):
            raise ValueError("no identity")
        descriptor = files.open_file(path, os.O_RDONLY)
        try:
            is_copy = inode != os.fstat(descriptor).st_ino
            is_copy |= data.get("Born") not in {None, _birth(descriptor)}
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("%s cannot be read (%s): this counts as a new store", path, error)
        return None
    if is_copy:
        log.warning("%s is a copy of another store: this counts as a new one", path)
        return None
    return str(identity)


class _Statx(ctypes.Structure):
    """struct statx(2), as far as the time of birth."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("before", ctypes.c_uint8 * 76),
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * (_STATX_BYTES - 92)),
    )


def _birth(descriptor: int) -> int | None:
    """Return when a file was made, in nanoseconds; None where the file system does not tell.

    Python's os.stat does not have it on Linux.
    """
    found = _Statx()
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:
        # An older C library, or another one.
        return None
    if statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, ctypes.byref(found)) != 0:
        return None
    if not found.mask & _STATX_BTIME:
        return None
    return int(found.seconds) * 1_000_000_000 + int(found.nanoseconds)


def _write(path: Path, identity: str) -> None:
    scratch = f"{path}.tmp"
    descriptor = files.open_scratch(scratch)
    try:
        inode = os.fstat(descriptor).st_ino
        born = _birth(descriptor)
        text = json.dumps({"Store": identity, "Inode": inode, "Born": born}).encode() + b"\n"
        os.write(descriptor, text)
        os.ftruncate(descriptor, len(text))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    files.put_in_place(scratch, path)
    files.sync_directory(path.parent)


# --- Units that cannot be read: kept for a person, and named in ``status``

_BROKEN = ".broken"
"""Directory of what looks like a unit but cannot be read; a person may mend it and move it back."""

_MADE = ("stdin", "stdout", "status.tmp", "status.lock")
"""What a unit's directory holds before its first ``status``."""


class SetAside:
    """What a node's directory holds beside its units: those that were damaged when it started."""

    def __init__(self, root: Path, log: SubjectLogger) -> None:
        self._root = root
        self._log = log
        self._left: dict[str, str] = {}
        """What stays where it is and is no unit that can be read, with the reason."""
        self._cut_short: list[str] = []
        """What was deleted since it looked as if it had never been begun."""

    def unit_ids(self) -> list[str]:
        """Return the IDs of the units that were set aside, or of which nothing was left.

        One that had neither input nor output, and whose status was taken away, looks like one that
        was cut short while it was made. Nobody was told of such a one; of the other somebody may
        ask.
        """
        return [*(name.partition(".")[0] for name in self._names()), *self._cut_short]

    def _names(self) -> list[str]:
        place = self._root / _BROKEN
        try:
            return sorted(os.listdir(place)) if _is_directory(place) else []
        except OSError as error:
            self._log.warning("%s cannot be read: %s", place, error.strerror)
            return []

    def warnings(self) -> list[str]:
        """Return a line for a person about each damaged unit."""
        place = self._root / _BROKEN
        return [
            *(f"unit {name} cannot be read and is set aside in {place}" for name in self._names()),
            *(f"unit {name} is left out: {reason}" for name, reason in self._left.items()),
        ]

    def take(self, name: str, reason: WorkError) -> None:
        """Move a damaged unit away; nothing is deleted but what was never begun."""
        directory = self._root / name
        try:
            if _never_begun(directory):
                # Cut short while it was made, before anybody was told of it.
                shutil.rmtree(directory)
                self._cut_short.append(name)
                return
            if _may_mend(reason.__cause__):
                self.leave(name, f"{reason}; the next start reads it")
                return
            place = self._free_place(name)
            os.rename(directory, place)
        except OSError as error:
            self.leave(name, f"{reason}; it cannot be set aside: {error.strerror}")
        else:
            self._log.warning("unit %s is set aside as %s: %s", name, place, reason)

    def leave(self, name: str, reason: str) -> None:
        """Take note of what has a unit's name and stays where it is, unread."""
        self._left[name] = reason
        self._log.warning("unit %s is left out: %s", name, reason)

    def _free_place(self, name: str) -> Path:
        (self._root / _BROKEN).mkdir(mode=0o700, exist_ok=True)
        # The same ID may have been broken before: IDs of released units may come again.
        places = (
            self._root / _BROKEN / (name + end) for end in chain([""], map(".{}".format, count(2)))
        )
        return next(place for place in places if not os.path.lexists(place))


def _may_mend(error: BaseException | None) -> bool:
    """Whether the next start may be able to read what this one could not."""
    is_fault_of_disk = isinstance(error, OSError) and error.errno == errno.EIO
    return is_fault_of_disk or files.is_passing(error)


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _never_begun(directory: Path) -> bool:
    """Whether a unit's directory holds no status and not a byte of anything else."""
    if not _is_directory(directory):
        return False
    with os.scandir(directory) as entries:
        return all(entry.name in _MADE and _is_empty(entry) for entry in entries)


def _is_empty(entry: os.DirEntry[str]) -> bool:
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(found.st_mode) and (entry.name == "status.tmp" or found.st_size == 0)
