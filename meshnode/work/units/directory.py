"""The directory of one node: made, checked, locked, and made again if it vanishes."""

import ctypes
import fcntl
import json
import os
import re
import secrets
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
        # Links are followed once: later they may lead to another directory.
        self._path = Path(os.path.realpath(path))
        self._log = log
        self._lock = -1
        self._identity: Identity | None = None
        self.takings = 0
        """How often a directory was taken; each may have been another one."""

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
        """Make sure that the directory is the one that was taken; one that is gone is made again.

        Raises:
            WorkError: something else is there, or another node uses it.
        """
        if self._identity is None or self._found() == self._identity:
            return
        self._log.error(
            "%s is gone or another one: it is taken again, and this node has lost what was in it",
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
        """Make, check and lock the directory; return warnings."""
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
    descriptor, _ = files.open_scratch(scratch)
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
