"""The only code that touches unit files.

A unit is a directory ``<datadir>/<node>/<unit>`` (0700) with ``status``, ``stdin`` and ``stdout``
(0600), as receptor has it. ``status`` is replaced as a whole under a lock of the directory, so that
a reader never sees half of it; the supervisor keeps to the same rule (see work/launcher). All
functions block for as long as a small file operation takes, durable ones for as long as the disk
needs: those belong in a thread.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import string
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from meshnode.errors import UnknownUnit, WorkError
from meshnode.logs import subject_logger
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.processes import find_unit_processes
from meshnode.work.status import UnitStatus

UNIT_ID_LENGTH = 8
"""Characters of a unit ID, as receptor's: 62^8 keep it short to type and rarely taken."""

_ID_CHARACTERS = string.ascii_letters + string.digits
_UNIT_ID = re.compile(rf"[a-zA-Z0-9]{{{UNIT_ID_LENGTH}}}")
_BROKEN = ".broken"
"""Directory of what looks like a unit but cannot be read; a person may mend it and move it back."""

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR})
"""Errors that speak of the machine at this moment, and not of the unit."""

_MADE = ("stdin", "stdout", "status.tmp", "status.lock")
"""What a unit's directory holds before its first ``status``."""

_RELEASED = ".released-"
"""Prefix of a directory whose unit is gone: renaming is one step, deleting its files is several."""


class Overtaken(WorkError):
    """A supervisor has changed the unit on disk, and what it says stands."""


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """A unit found on disk."""

    unit_id: str
    status: UnitStatus


class UnitStore:
    """The unit directories of one node, below ``root`` (``<datadir>/<node>``)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: int | None = None
        self._log = subject_logger("store", str(root))

    def directory(self, unit_id: str) -> Path:
        """Return the directory of a unit. The ID must be one that this store gave out."""
        return self.root / unit_id

    def stdin_path(self, unit_id: str) -> Path:
        """Return the file that holds the unit's input."""
        return self.root / unit_id / "stdin"

    def stdout_path(self, unit_id: str) -> Path:
        """Return the file that holds the unit's output."""
        return self.root / unit_id / "stdout"

    def stdout_size(self, unit_id: str) -> int:
        """Return the bytes of output so far; 0 while there is no file."""
        try:
            return os.stat(self.stdout_path(unit_id)).st_size
        except FileNotFoundError:
            return 0

    def last_written(self, unit_id: str) -> datetime:
        """Return when the unit's status was last replaced; now, where the disk does not tell."""
        try:
            seconds = os.stat(self.root / unit_id / "status").st_mtime
            return datetime.fromtimestamp(seconds, UTC)
        except (OSError, OverflowError, ValueError):
            # No such file, or a time that no calendar has.
            return datetime.now(UTC)

    def prepare(self) -> None:
        """Make ``root`` and take it for ourselves, until :meth:`close`.

        Raises:
            WorkError: that is impossible, for instance since another node uses it.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The directory itself is locked: a lock file beside the units would be listed with
            # them by everything that reads receptor's tree.
            self._lock = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise WorkError(f"{self.root} is in use by a running node") from error
        except OSError as error:
            self.close()
            raise WorkError(f"cannot use {self.root} for units: {error.strerror}") from error

    def close(self) -> None:
        """Let another node have ``root``."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def create(self, status: UnitStatus) -> str:
        """Make the directory of a new unit with all its files, and return the unit's ID.

        Raises:
            WorkError: the disk refuses; nothing is left behind.
        """
        try:
            unit_id = self._new_directory()
        except OSError as error:
            raise WorkError(f"cannot create a work unit: {error.strerror}") from error
        directory = f"{self.root}/{unit_id}"
        try:
            # All files exist from the start, so that a reader of results can watch stdout before
            # anything has run, and every mode is ours and not the command's umask's.
            for name in ("stdin", "stdout"):
                os.close(os.open(f"{directory}/{name}", os.O_CREAT | os.O_WRONLY, 0o600))
            self.write_status(unit_id, status, fresh=True)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise WorkError(f"cannot create a work unit: {error.strerror}") from error
        return unit_id

    def _new_directory(self) -> str:
        while True:
            # One question to the kernel's source of chance, not one for each character.
            number = secrets.randbelow(len(_ID_CHARACTERS) ** UNIT_ID_LENGTH)
            unit_id = _in_characters(number)
            try:
                os.mkdir(f"{self.root}/{unit_id}", 0o700)
            except FileExistsError:
                continue
            return unit_id

    def read_status(self, unit_id: str) -> UnitStatus:
        """Return the status on disk.

        Raises:
            WorkError: the file is missing, unreadable or holds no status.
        """
        # As a text: a start reads tens of thousands, and would join paths for a third of its time.
        path = f"{self.root}/{unit_id}/status"
        try:
            with open(path, "rb", buffering=0) as file:
                return UnitStatus.from_json(json.loads(file.read()))
        except OSError as error:
            raise WorkError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise WorkError(f"{path} is not JSON: {error}") from error
        except WorkError as error:
            raise WorkError(f"{path} holds no status: {error}") from error

    def write_status(
        self,
        unit_id: str,
        status: UnitStatus,
        *,
        durable: bool = False,
        fresh: bool = False,
        expected: UnitState | None = None,
    ) -> None:
        """Replace the status on disk; ``durable`` makes it survive a power cut, too.

        A ``fresh`` one is the unit's first, which nobody has been told of.

        Raises:
            OSError: the disk refuses; the old status stands.
            Overtaken: the state on disk is not the ``expected`` one; it stands, too.
        """
        directory = f"{self.root}/{unit_id}"
        text = json.dumps(status.to_disk(), separators=(",", ":")) + "\n"
        lock = self.lock(unit_id)
        try:
            if expected is not None:
                self._check_state(unit_id, expected)
            temporary = f"{directory}/status.tmp"
            descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            try:
                _write_all(descriptor, text.encode())
                # Without this, some file systems show an empty file after a power cut: a local unit
                # would be set aside then, a remote one would be lost to the node that waits for it.
                if durable or (status.remote is not None and not fresh):
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, f"{directory}/status")
            if durable:
                os.fsync(lock)
                if status.state is UnitState.PENDING:
                    # The directory itself may be new.
                    _sync_directory(self.root)
        finally:
            os.close(lock)

    def lock(self, unit_id: str) -> int:
        """Wait for the lock that nodes and supervisors hold while they replace ``status``.

        Returns:
            A descriptor of the unit's directory; closing it lets go.

        Raises:
            OSError: there is no such directory, or no descriptor is left.
        """
        descriptor = os.open(f"{self.root}/{unit_id}", os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def _check_state(self, unit_id: str, expected: UnitState) -> None:
        try:
            found = self.read_status(unit_id).state
        except WorkError as error:
            # Nobody can tell what it said; what we know is the better truth.
            self._log.warning("%s; it is written anew", error)
            return
        if found is not expected:
            raise Overtaken(f"unit {unit_id} is not {expected.label} any more, but {found.label}")

    def scan(self) -> list[StoredUnit]:
        """Return every readable unit on disk; finish what a crash cut short.

        What looks like a unit and cannot be read is set aside below ``.broken``, and never deleted.
        """
        found = []
        with os.scandir(self.root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        for name in names:
            if name.startswith(_RELEASED):
                shutil.rmtree(self.root / name, ignore_errors=True)
            elif _UNIT_ID.fullmatch(name):
                try:
                    found.append(StoredUnit(name, self.read_status(name)))
                except WorkError as error:
                    self._set_aside(name, error)
        return found

    def broken(self) -> list[str]:
        """Return the names of the units that were set aside, as they are called there."""
        try:
            return sorted(os.listdir(self.root / _BROKEN))
        except FileNotFoundError:
            return []

    def _set_aside(self, name: str, reason: WorkError) -> None:
        directory = self.root / name
        try:
            if _never_begun(directory):
                # Cut short while it was made, before anybody was told of it.
                shutil.rmtree(directory)
                return
            if isinstance(reason.__cause__, OSError) and reason.__cause__.errno in _PASSING:
                self._log.warning("unit %s is skipped until the next start: %s", name, reason)
                return
            if left := find_unit_processes(directory):
                # The supervisor will write the status anew when the command ends.
                pids = ", ".join(str(process.pid) for process in left)
                self._log.warning("unit %s runs on (PIDs %s), but %s", name, pids, reason)
                return
            (self.root / _BROKEN).mkdir(mode=0o700, exist_ok=True)
            place = self._free_place(name)
            os.rename(directory, place)
        except OSError as error:
            self._log.warning("unit %s is skipped: %s; %s", name, reason, error)
        else:
            self._log.warning("unit %s is set aside as %s: %s", name, place, reason)

    def _free_place(self, name: str) -> Path:
        # The same ID may have been broken before: IDs of released units may come again.
        places = (
            self.root / _BROKEN / (name + end) for end in chain([""], map(".{}".format, count(2)))
        )
        return next(place for place in places if not os.path.lexists(place))

    def bury(self, unit_id: str) -> Path:
        """Take a unit away in one step, and return the directory that :meth:`erase` deletes.

        Raises:
            UnknownUnit: there is no such directory.
            WorkError: the disk refuses; the unit is as it was.
        """
        grave = self.root / (_RELEASED + unit_id)
        try:
            os.rename(self.root / unit_id, grave)
        except FileNotFoundError:
            raise UnknownUnit(unit_id) from None
        except OSError as error:
            raise WorkError(f"cannot delete work unit {unit_id}: {error.strerror}") from error
        return grave

    def erase(self, grave: Path) -> None:
        """Delete the files of a buried unit; what resists is tried again at the next start."""
        try:
            shutil.rmtree(grave)
        except OSError as error:
            self._log.warning("%s could not be deleted: %s", grave, error)


def _in_characters(number: int) -> str:
    """Write a number as a unit ID."""
    characters = []
    for _ in range(UNIT_ID_LENGTH):
        number, digit = divmod(number, len(_ID_CHARACTERS))
        characters.append(_ID_CHARACTERS[digit])
    return "".join(characters)


def _never_begun(directory: Path) -> bool:
    """Whether a unit's directory holds no status and not a byte of anything else."""
    with os.scandir(directory) as entries:
        return all(entry.name in _MADE and _is_empty(entry) for entry in entries)


def _is_empty(entry: os.DirEntry[str]) -> bool:
    return entry.name == "status.tmp" or entry.stat(follow_symlinks=False).st_size == 0


WRITE_OUT = 8 * 1024 * 1024
"""Bytes after which what a file got is given to the disk, so that the sync at its end, for which
somebody waits, has little left to do."""


class UnitFile:
    """A unit's stdin or stdout as this node writes it: appending, from where the file ends."""

    def __init__(self, path: Path, *, append: bool) -> None:
        """Open ``path``; without ``append`` whatever it held is dropped. Raises OSError."""
        mode = os.O_CREAT | os.O_WRONLY | (os.O_APPEND if append else os.O_TRUNC)
        self._descriptor = os.open(path, mode, 0o600)
        self.size = os.fstat(self._descriptor).st_size
        self._given = self.size

    def write(self, data: bytes | bytearray) -> None:
        """Append all of ``data``. Raises OSError; ``size`` counts what was written."""
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            self.size += written
            view = view[written:]
        if self.size - self._given >= WRITE_OUT:
            # Of pages that are not on disk yet, this begins the writing and forgets none.
            os.posix_fadvise(
                self._descriptor, self._given, self.size - self._given, os.POSIX_FADV_DONTNEED
            )
            self._given = self.size

    def sync(self) -> None:
        """Have the disk keep what was written. Raises OSError."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
