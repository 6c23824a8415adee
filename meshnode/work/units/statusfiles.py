"""The status files of units: read, and replaced as a whole by whoever may write them.

A reader never sees half of a status. Who may write it when is the rule of
:mod:`meshnode.work.local.launcher.statusfile`, which supervisors keep to as well. All of it blocks.
"""

import errno
import fcntl
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from meshnode import files
from meshnode.errors import WorkError
from meshnode.logs import subject_logger
from meshnode.protocol.lifecycle import UnitState
from meshnode.resources import NONE_LEFT, DescriptorReserve
from meshnode.work.local.launcher.statusfile import MAX_STATUS_BYTES
from meshnode.work.units.status import UnitStatus

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a disk answers that is full, or on which this user may not have more."""

T = TypeVar("T")


class Overtaken(WorkError):
    """A supervisor has changed the unit on disk, and what it says stands."""


class Locked(WorkError):
    """Somebody holds the lock of a unit that is not started yet; it may be a supervisor."""


class StatusFiles:
    """The status of each unit below ``root``.

    ``reserve`` holds descriptors for the files of units that were accepted.
    """

    def __init__(self, root: Path, reserve: DescriptorReserve) -> None:
        self.root = root
        self._reserve = reserve
        self._log = subject_logger("store", str(root))

    def read_status(self, unit_id: str) -> UnitStatus:
        """Return the status on disk.

        Raises:
            WorkError: the file is missing, unreadable or holds no status.
        """
        return self._status_of(unit_id, self._with_reserve)

    def _status_of(self, unit_id: str, call: Callable[[Callable[[], bytes]], bytes]) -> UnitStatus:
        # As a text: a start reads tens of thousands, and would join paths for a third of its time.
        path = f"{self.root}/{unit_id}/status"
        try:
            text = call(lambda: files.read_file(path, MAX_STATUS_BYTES))
            return UnitStatus.from_json(json.loads(text))
        except OSError as error:
            raise WorkError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise WorkError(f"{path} is not JSON: {error}") from error
        except WorkError as error:
            raise WorkError(f"{path} holds no status: {error}") from error

    def write_first(self, unit_id: str, status: UnitStatus) -> None:
        """Write the status of a unit that nobody has been told of. Raises OSError."""
        path = f"{self.root}/{unit_id}/status"
        descriptor = files.make_file(path + ".tmp")
        try:
            _write_all(descriptor, _to_text(status))
        finally:
            os.close(descriptor)
        os.rename(path + ".tmp", path)

    def write_status(
        self,
        unit_id: str,
        status: UnitStatus,
        *,
        durable: bool = False,
        expected: UnitState | None = None,
    ) -> None:
        """Replace the status on disk; ``durable`` makes it survive a power cut, too.

        Raises:
            OSError: the disk refuses; the old status stands.
            Locked: somebody may be about to start the unit.
            Overtaken: the state on disk is not the ``expected`` one; it stands, too.
        """
        text = _to_text(status)
        # Without a sync, some file systems show an empty file after a power cut: a local unit
        # would be set aside then, a remote one would be lost to the node that waits for it.
        synced = durable or status.remote is not None
        self._with_reserve(
            lambda: self._write(unit_id, status.state, text, synced, durable, expected)
        )

    def _write(
        self,
        unit_id: str,
        state: UnitState,
        text: bytes,
        synced: bool,
        durable: bool,
        expected: UnitState | None,
    ) -> None:
        directory = None
        if durable or expected is not None:
            directory = self._open_directory(unit_id)
        try:
            # Lock, look, write, in this order: a supervisor that claims the unit meanwhile either
            # has written its claim before the look, or finds what is written here.
            if directory is not None and expected is not None:
                if expected is UnitState.PENDING:
                    self._lock_pending(directory, unit_id)
                self._check_state(unit_id, expected)
            self._replace(unit_id, text, synced, is_end=state.is_final)
            if directory is not None and durable:
                os.fsync(directory)
                if state is UnitState.PENDING:
                    # The directory itself may be new.
                    files.sync_directory(self.root)
        finally:
            if directory is not None:
                os.close(directory)

    def _replace(self, unit_id: str, text: bytes, synced: bool, *, is_end: bool) -> None:
        path = f"{self.root}/{unit_id}/status"
        try:
            descriptor, was_there = files.open_scratch(path + ".tmp")
            try:
                # Not emptied first: a supervisor has taken the room that an end needs.
                _write_all(descriptor, text)
                if was_there:
                    os.ftruncate(descriptor, len(text))
                if synced:
                    # Before the rename: after a power cut, the name would lead to an empty file.
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            files.put_in_place(path + ".tmp", path)
        except OSError as error:
            if not (is_end and error.errno in _NO_ROOM):
                raise
            files.overwrite(path, text)
            with suppress(OSError):
                os.unlink(path + ".tmp")

    def _open_directory(self, unit_id: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(f"{self.root}/{unit_id}", flags)

    def _lock_pending(self, directory: int, unit_id: str) -> None:
        """Take the lock that supervisors hold while they start a unit; closing it lets go."""
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(f"work unit {unit_id} is locked by another program") from None

    def _check_state(self, unit_id: str, expected: UnitState) -> None:
        try:
            # Without the reserve: whoever writes has it already.
            found = self._status_of(unit_id, lambda read: read()).state
        except WorkError as error:
            if isinstance(error.__cause__, OSError) and files.is_passing(error.__cause__):
                # The file may say anything, and must not be written over unread.
                raise error.__cause__ from error
            # Nobody can tell what it said. What is in memory is better.
            self._log.warning("%s; it is written anew", error)
            return
        if found is not expected:
            raise Overtaken(f"unit {unit_id} is not {expected.label} any more, but {found.label}")

    def _with_reserve(self, act: Callable[[], T]) -> T:
        """Do something to the files of an accepted unit, with spare descriptors if there are no
        others.

        ``act`` is called a second time if the first call finds none.
        """
        try:
            return act()
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
        with self._reserve.at_hand():
            return act()


# Made once: json.dumps with these arguments would make one for each status.
_to_json = json.JSONEncoder(separators=(",", ":")).encode


def _to_text(status: UnitStatus) -> bytes:
    """Return what stands in the file. Raises OSError if that is more than a file may have."""
    text = (_to_json(status.to_disk()) + "\n").encode()
    if len(text) > MAX_STATUS_BYTES:
        raise OSError(errno.EFBIG, f"the status has more than {MAX_STATUS_BYTES} bytes")
    return text


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
