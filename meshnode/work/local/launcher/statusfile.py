"""A unit's status file as its supervisor changes it: merged, and replaced in one step.

Who may write it, when:

* While the unit is Pending, node and supervisors may, each under a lock of the unit's directory: it
  makes "read, look, write" one action, so that exactly one supervisor can ever take a unit from
  Pending to Running (:meth:`StatusFile.claim`), and none after the node has ended it.
* From then on the supervisor alone may, as long as it lives. It takes no lock: the command could
  hold one on the same directory, by accident or not, and an end must be recorded all the same.
* When the supervisor is gone, the node may.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time

from meshnode import files

PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED = range(5)
"""The numbers of protocol/lifecycle, which this package may not import; a test compares them."""

MAX_STATUS_BYTES = 8 * 1024 * 1024
"""Bytes of a status. The longest that is written holds a command line of 1 MiB, six bytes of JSON
for each byte; what is longer was put there by somebody else."""

LOCK_PATIENCE_SECONDS = 10.0
"""Seconds that a claim waits for the lock. Nodes and supervisors hold it for a write and a sync;
who holds it for longer is no part of meshnode."""

LOCK_RETRY_SECONDS = 0.01
"""Seconds between two tries to lock. To wait in the kernel would have no time limit, and no event
announces that the lock is free."""

SPARE_BYTES = 3072
"""Bytes that the record of an end may have more than that of a start: some 200, a detail, and who
ended the unit."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

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


def _is_kept(status: dict[str, object]) -> bool:
    """Whether the record of a unit's start must outlive a power cut.

    Otherwise its work would run twice: another node submits it again if the start is forgotten, and
    this one starts what has waited in its queue.
    """
    return bool(status.get("SubmissionKey")) or status.get("Queued") is True


class StatusFile:
    """The status of one unit.

    Args:
        unit_dir: absolute path of the unit's directory.

    Attributes:
        is_claimed: whether the disk may say that the unit is this process's.
    """

    def __init__(self, unit_dir: str) -> None:
        self._dir = unit_dir
        self._path = unit_dir + "/status"
        self._last: dict[str, object] = {}
        self._before: dict[str, object] = {}
        self.is_claimed = False

    def claim(self, changes: dict[str, object], *, durable: bool = False) -> None:
        """Take the unit out of Pending, once: merge ``changes`` into the status.

        Raises:
            NotPending: another supervisor, or the node, was first; nothing is changed.
            UnitVanished: there is no such unit any more.
            ValueError: the status cannot be read.
            OSError: it cannot be written, or somebody holds the lock.
        """
        directory = self._open_directory()
        parent = -1
        try:
            self._lock(directory)
            status = self._read()
            if status.get("State") != PENDING:
                raise NotPending("the unit has been started or has ended before")
            is_kept = _is_kept(status)
            if is_kept:
                # Opened before the claim: a lack of descriptors must not leave that half done.
                parent = os.open(os.path.dirname(self._dir), _DIRECTORY)
            self._before = status
            self._replace(status | changes, directory, durable or is_kept)
            if is_kept:
                # The unit's directory may be as new as the unit.
                sync(parent)
        finally:
            os.close(directory)
            if parent >= 0:
                os.close(parent)

    def unclaim(self) -> None:
        """Undo a claim, of a command that was not and will not be executed: it is Pending again.

        Raises:
            UnitVanished: the unit was released meanwhile.
            OSError: it cannot be written; the claim stands.
        """
        directory = self._open_directory()
        try:
            self._replace(self._before, directory, _is_kept(self._before))
            self.is_claimed = False
        finally:
            os.close(directory)

    def finish(self, changes: dict[str, object]) -> None:
        """Merge the final ``changes`` into the status and bring it to the disk.

        Raises:
            UnitVanished: the unit was released meanwhile.
            OSError: it cannot be written (yet).
        """
        if self._last.get("Job") and "Held" not in changes:
            # Nobody needs them any more, and there may be secrets among them.
            changes = {**changes, "Job": None, "Params": None}
        self._add(changes, durable=True)

    def note(self, changes: dict[str, object]) -> None:
        """Merge ``changes`` that are of use, but not needed, into the status of a running unit.

        Does not touch the room that :meth:`reserve` has taken.

        Raises:
            UnitVanished, OSError: nothing is noted.
        """
        self._add(changes, durable=False, suffix=".note")

    def reserve(self) -> None:
        """Take the room that :meth:`finish` needs, so that it succeeds on a full disk.

        If there is no room even now, the end is recorded when there is some again.
        """
        size = len(json.dumps(self._last)) + SPARE_BYTES
        try:
            fd, _ = files.open_scratch(self._path + ".tmp")
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            return
        finally:
            os.close(fd)

    def _add(self, changes: dict[str, object], *, durable: bool, suffix: str = ".tmp") -> None:
        """Replace the status by what this process wrote last, with ``changes``.

        The file is not read: nobody else may write it, and whatever the command did to it, the end
        must be recorded.
        """
        directory = self._open_directory()
        try:
            self._replace(self._last | changes, directory, durable, suffix)
        finally:
            os.close(directory)

    def _open_directory(self) -> int:
        """Return a descriptor of the unit's directory."""
        flags = _DIRECTORY | os.O_NOFOLLOW
        try:
            return os.open(self._dir, flags)
        except OSError as error:
            if error.errno in files.GONE:
                raise UnitVanished(self._dir) from None
            if error.errno != errno.EACCES:
                raise
        # The command has closed it to everybody.
        files.make_accessible(self._dir)
        return os.open(self._dir, flags)

    def _lock(self, directory: int) -> None:
        """Take the lock of the unit's directory; closing the descriptor releases it.

        The directory itself is locked: a lock file would be one more to create for each unit, which
        takes a file system longest.

        Raises:
            OSError: somebody keeps it.
        """
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    text = "is locked by another program"
                    raise BlockingIOError(errno.EAGAIN, text, self._dir) from None
                time.sleep(LOCK_RETRY_SECONDS)
            else:
                return

    def _read(self) -> dict[str, object]:
        try:
            text = files.read_file(self._path, MAX_STATUS_BYTES)
        except FileNotFoundError:
            raise UnitVanished(self._dir) from None
        try:
            status = json.loads(text)
        except RecursionError:
            raise ValueError("the status is no JSON that a node writes") from None
        if not isinstance(status, dict):
            raise ValueError("the status is no JSON object")
        return status

    def _replace(
        self, status: dict[str, object], directory: int, durable: bool, suffix: str = ".tmp"
    ) -> None:
        temporary = self._path + suffix
        try:
            # Not truncated first: the room that reserve() has taken is not given back.
            fd, was_there = files.open_scratch(temporary)
            try:
                text = json.dumps(status, separators=(",", ":")).encode()
                left = memoryview(text)
                while left:
                    left = left[os.write(fd, left) :]
                if was_there:
                    os.ftruncate(fd, len(text))
                if durable:
                    sync(fd)
            finally:
                os.close(fd)
            files.put_in_place(temporary, self._path)
            self.is_claimed = True
        except (FileNotFoundError, NotADirectoryError):
            raise UnitVanished(self._dir) from None
        if durable:
            sync(directory)
        self._last = status
