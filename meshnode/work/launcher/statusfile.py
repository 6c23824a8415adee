"""A unit's status file as its supervisor changes it: locked, merged, replaced in one step.

The lock makes "read, look, write" one action among the supervisor and the node, so that exactly one
supervisor can ever take a unit from Pending to Running (:meth:`StatusFile.claim`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os

PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED = range(5)
"""The numbers of protocol/lifecycle, which this package may not import; a test compares them."""

FILE_MODE = 0o600
"""Status and stdout may hold what only the node's user should see."""

READ_BYTES = 8192
"""Bytes asked for in one read of the status file."""

SPARE_BYTES = 1024
"""What the record of an end may have more than that of a start: some 200 bytes and a detail."""

_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class UnitVanished(Exception):
    """The unit's directory or status file is gone: it was released."""


class NotPending(Exception):
    """The unit has been started or ended already; the text says so."""


def sync(fd: int) -> None:
    """Bring a file or directory to the disk, where its file system knows how to.

    Raises:
        OSError: the disk failed or is full.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems have no such call; a unit there must still end.
        if error.errno not in _NO_SYNC:
            raise


class StatusFile:
    """The status of one unit.

    Args:
        unit_dir: absolute path of the unit's directory.
    """

    def __init__(self, unit_dir: str) -> None:
        self._dir = unit_dir
        self._path = unit_dir + "/status"
        self._last: dict[str, object] = {}

    def claim(self, changes: dict[str, object], *, durable: bool = False) -> None:
        """Take the unit out of Pending, once: merge ``changes`` into the status.

        Raises:
            NotPending: another supervisor, or the node, was first; nothing is changed.
            UnitVanished: there is no such unit any more.
            ValueError: the status cannot be read.
            OSError: it cannot be written.
        """
        directory = self._lock()
        try:
            status = self._read()
            if status.get("State") != PENDING:
                raise NotPending("the unit has been started or has ended before")
            # Work that another node has submitted comes again if its start is forgotten.
            submitted = bool(status.get("SubmissionKey"))
            self._replace(status | changes, directory, durable or submitted)
            if submitted:
                # The unit's directory may be as new as the unit.
                self._sync_parent()
        finally:
            os.close(directory)

    def finish(self, changes: dict[str, object]) -> None:
        """Merge the final ``changes`` into the status and bring it to the disk.

        Raises:
            UnitVanished: the unit was released meanwhile.
            OSError: it cannot be written (yet).
        """
        directory = self._lock()
        try:
            try:
                status = self._read()
            except ValueError:
                # Somebody damaged the file while the command ran. What this process wrote last is
                # the better truth, and the end must be recorded.
                status = self._last
            self._replace(status | changes, directory, durable=True)
        finally:
            os.close(directory)

    def note(self, changes: dict[str, object]) -> None:
        """Merge ``changes`` that are of use, but not needed, into the status of a running unit.

        Does not touch the room that :meth:`reserve` has taken.

        Raises:
            UnitVanished, ValueError, OSError: nothing is noted.
        """
        directory = self._lock()
        try:
            self._replace(self._read() | changes, directory, durable=False, suffix=".note")
        finally:
            os.close(directory)

    def reserve(self) -> None:
        """Take the room that :meth:`finish` will need: it must succeed on a disk that is full.

        Where there is no room even now, the end is recorded when there is some again.
        """
        size = len(json.dumps(self._last)) + SPARE_BYTES
        try:
            fd = os.open(self._path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            return
        finally:
            os.close(fd)

    def _lock(self) -> int:
        """Return a descriptor of the directory that holds the lock; closing it lets go.

        The directory is the lock: a file for it would be one more to create for each unit, and that
        is what a file system takes longest for.
        """
        try:
            fd = os.open(self._dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UnitVanished(self._dir) from None
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def _sync_parent(self) -> None:
        parent = os.open(os.path.dirname(self._dir), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync(parent)
        finally:
            os.close(parent)

    def _read(self) -> dict[str, object]:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UnitVanished(self._dir) from None
        try:
            text = b""
            while piece := os.read(fd, READ_BYTES):
                text += piece
        finally:
            os.close(fd)
        status = json.loads(text)
        if not isinstance(status, dict):
            raise ValueError("the status is no JSON object")
        return status

    def _replace(
        self, status: dict[str, object], directory: int, durable: bool, suffix: str = ".tmp"
    ) -> None:
        temporary = self._path + suffix
        # Not truncated first: the room that reserve() has taken is not given back.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(temporary, flags, FILE_MODE)
            try:
                text = json.dumps(status, separators=(",", ":")).encode()
                left = memoryview(text)
                while left:
                    left = left[os.write(fd, left) :]
                os.ftruncate(fd, len(text))
                if durable:
                    sync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, self._path)
        except FileNotFoundError:
            raise UnitVanished(self._dir) from None
        if durable:
            sync(directory)
        self._last = status
