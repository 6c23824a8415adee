"""The only code that touches unit files.

A unit is a directory ``<datadir>/<node>/<unit>`` (0700) with ``status``, ``stdin`` and ``stdout``
(0600), as receptor has it. ``status`` is replaced as a whole, so that a reader never sees half of
it, and by whom and when is a rule that supervisors keep to as well (launcher/statusfile.py). All
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
import stat
import string
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from meshnode import files
from meshnode.errors import UnknownUnit, WorkError
from meshnode.logs import subject_logger
from meshnode.protocol.lifecycle import UnitState
from meshnode.resources import NONE_LEFT, DescriptorReserve
from meshnode.work.local.launcher.statusfile import MAX_STATUS_BYTES
from meshnode.work.local.processes import ProcessId, UnitProcesses
from meshnode.work.units.directory import NodeDirectory, SetAside
from meshnode.work.units.intake import UnitFile
from meshnode.work.units.status import UnitStatus

UNIT_ID_LENGTH = 8
"""Characters of a unit ID, as receptor's: 62^8 keep it short to type and rarely taken."""

_ID_CHARACTERS = string.ascii_letters + string.digits
_UNIT_ID = re.compile(rf"[a-zA-Z0-9]{{{UNIT_ID_LENGTH}}}")

UNKNOWN_TYPE = "unknown"
"""Work type of a unit of which not even that can be read."""

RELEASED = ".released-"
"""Prefix of a directory whose unit is gone: renaming is one step, deleting its files is several."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a disk answers that is full, or on which this user may not have more."""


T = TypeVar("T")


class Overtaken(WorkError):
    """A supervisor has changed the unit on disk, and what it says stands."""


class Locked(WorkError):
    """Somebody holds the lock of a unit that is not started yet; it may be a supervisor."""


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """A unit found on disk."""

    unit_id: str
    status: UnitStatus


class UnitStore:
    """The unit directories of one node, below ``root`` (``<datadir>/<node>``)."""

    def __init__(self, root: Path, reserve: DescriptorReserve | None = None) -> None:
        """``reserve`` holds descriptors for the files of units that were accepted."""
        self._reserve = reserve or DescriptorReserve(0)
        # Links are followed once: what marks the processes of a unit must not change with them.
        self.root = Path(os.path.realpath(root))
        self._log = subject_logger("store", str(root))
        self._place = NodeDirectory(root, self._log)
        self.doubts: tuple[str, ...] = ()
        """What a person should look at about where the units are, one line each."""
        self._aside = SetAside(self.root, self._log)
        self._running: dict[str, str] = {}
        """Units that run although their status could not be read, with the reason."""

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
        """Return the bytes of output so far; 0 while there is no file of ours."""
        return files.size_of(f"{self.root}/{unit_id}/stdout")

    def has_input(self, unit_id: str, size: int | None) -> bool:
        """Whether the unit's input is here, with all the bytes that its status says it has."""
        path = f"{self.root}/{unit_id}/stdin"
        return os.path.lexists(path) and files.size_of(path) == size

    def last_written(self, unit_id: str) -> datetime:
        """Return when the unit's status was last replaced; now, where the disk does not tell."""
        try:
            seconds = os.lstat(self.root / unit_id / "status").st_mtime
            return datetime.fromtimestamp(seconds, UTC)
        except (OSError, OverflowError, ValueError):
            # No such file, or a time that no calendar has.
            return datetime.now(UTC)

    def prepare(self) -> None:
        """Make ``root`` and take it for ourselves, until :meth:`close`.

        Raises:
            WorkError: that is impossible, for instance since another node uses it.
        """
        self.doubts = self._place.open()

    def check(self) -> None:
        """Make sure that ``root`` is the directory that was taken; one that is gone is made anew.

        Raises:
            WorkError: something else is there, or another node uses it.
        """
        self._place.check()

    @property
    def takings(self) -> int:
        """How often ``root`` was taken: while the node runs, it may become another directory."""
        return self._place.takings

    def close(self) -> None:
        """Let another node have ``root``."""
        self._place.close()

    def create(self, status: UnitStatus) -> str:
        """Make the directory of a new unit with all its files, and return the unit's ID.

        Raises:
            WorkError: the disk refuses; nothing is left behind.
        """
        self._place.check()
        try:
            unit_id = self._new_directory()
        except OSError as error:
            raise WorkError(f"cannot create a work unit: {error.strerror}") from error
        directory = f"{self.root}/{unit_id}"
        try:
            # All files exist from the start, so that a reader of results can watch stdout before
            # anything has run, and every mode is ours and not the command's umask's.
            for name in ("stdin", "stdout"):
                os.close(files.make_file(f"{directory}/{name}"))
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
        return self._status_of(unit_id, self._insist)

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
            Locked: somebody may be about to start the unit.
            Overtaken: the state on disk is not the ``expected`` one; it stands, too.
        """
        text = (json.dumps(status.to_disk(), separators=(",", ":")) + "\n").encode()
        if len(text) > MAX_STATUS_BYTES:
            raise OSError(errno.EFBIG, f"the status has more than {MAX_STATUS_BYTES} bytes")
        # Without a sync, some file systems show an empty file after a power cut: a local unit
        # would be set aside then, a remote one would be lost to the node that waits for it.
        synced = durable or (status.remote is not None and not fresh)
        if fresh:
            self._replace(unit_id, text, synced, is_end=False)
            return
        self._insist(lambda: self._write(unit_id, status.state, text, synced, durable, expected))

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
            descriptor = files.open_scratch(path + ".tmp")
            try:
                # Not emptied first: a supervisor has taken the room that an end needs.
                _write_all(descriptor, text)
                os.ftruncate(descriptor, len(text))
                if synced:
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
            # Nobody can tell what it said; what we know is the better truth.
            self._log.warning("%s; it is written anew", error)
            return
        if found is not expected:
            raise Overtaken(f"unit {unit_id} is not {expected.label} any more, but {found.label}")

    def graves(self) -> list[str]:
        """Return the names of the directories whose units are gone. Raises WorkError."""
        try:
            return [name for name in os.listdir(self.root) if name.startswith(RELEASED)]
        except OSError as error:
            raise WorkError(f"cannot read {self.root}: {error.strerror}") from error

    def set_aside(self) -> list[str]:
        """Return the IDs of the units that are set aside."""
        return self._aside.unit_ids()

    def scan(self) -> list[StoredUnit]:
        """Return every unit on disk; finish what a crash cut short.

        What looks like a unit and cannot be read is set aside below ``.broken``, and never deleted.
        Where its command runs on, it is returned all the same, with what can be known of it.
        """
        found: list[StoredUnit] = []
        damaged: dict[str, WorkError] = {}
        # Names only: entries of a directory keep what the kernel said of each, half a kilobyte, and
        # the process would stay that much larger for good.
        for name in sorted(os.listdir(self.root)):
            if name.startswith(RELEASED):
                self.erase(self.root / name)
            elif _UNIT_ID.fullmatch(name):
                path = f"{self.root}/{name}"
                if fault := _fault(path):
                    self._aside.leave(name, f"{path} {fault}")
                    continue
                try:
                    found.append(StoredUnit(name, self.read_status(name)))
                except WorkError as error:
                    damaged[name] = error
        if damaged:
            found += self._take_damaged(damaged)
        return found

    def open_stdin(self, unit_id: str, wanted: Callable[[], bool]) -> UnitFile:
        """Return the file that takes a unit's input as long as that is wanted. Raises OSError."""
        path = self.stdin_path(unit_id)
        return self._insist(lambda: UnitFile(path, append=False, wanted=wanted))

    def _insist(self, act: Callable[[], T]) -> T:
        """Do something to the files of a unit that was accepted, with spare descriptors if need be.

        It is done once more if the first try finds none, and must be whole then.
        """
        try:
            return act()
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
        with self._reserve.at_hand():
            return act()

    def drop_stdin(self, unit_id: str) -> None:
        """Give the room of a unit's input back: nothing will be started with it."""
        try:
            os.close(files.open_file(f"{self.root}/{unit_id}/stdin", os.O_WRONLY | os.O_TRUNC))
        except OSError as error:
            self._log.debug("the input of unit %s stays: %s", unit_id, error)

    def take_stdin_away(self, unit_id: str) -> None:
        """Delete a unit's input, so that no start of the node does anything with the unit.

        It takes neither room nor a descriptor.
        """
        try:
            os.unlink(f"{self.root}/{unit_id}/stdin")
        except OSError as error:
            self._log.warning("the payload of unit %s stays: %s", unit_id, error.strerror)

    def warnings(self) -> list[str]:
        """Return a line for a person about what is wrong with the node's directory or units."""
        for name in tuple(self._running):
            with suppress(WorkError):
                self.read_status(name)
                # Its supervisor has written it anew.
                del self._running[name]
        running = (f"unit {name} runs, but {why}" for name, why in self._running.items())
        gone = self._place.problem()
        return [*([gone] if gone else []), *running, *self._aside.warnings()]

    def _take_damaged(self, damaged: dict[str, WorkError]) -> list[StoredUnit]:
        """Set damaged units aside; return those that run."""
        running = []
        processes = UnitProcesses.look()
        for name, reason in damaged.items():
            left = processes.of(self.root / name)
            if left:
                pids = ", ".join(str(process.pid) for process in left)
                self._log.warning("unit %s runs on (PIDs %s), but %s", name, pids, reason)
                self._running[name] = str(reason)
                status = _of_damaged(reason, processes.supervisor_of(left))
                running.append(StoredUnit(name, status))
            else:
                self._aside.take(name, reason)
        return running

    def bury(self, unit_id: str) -> Path:
        """Take a unit away in one step, and return the directory that :meth:`erase` deletes.

        Raises:
            UnknownUnit: there is no such directory.
            WorkError: the disk refuses; the unit is as it was.
        """
        grave = self.root / (RELEASED + unit_id)
        try:
            os.rename(self.root / unit_id, grave)
        except OSError as error:
            if error.errno in files.GONE:
                raise UnknownUnit(unit_id) from None
            raise WorkError(f"cannot delete work unit {unit_id}: {error.strerror}") from error
        return grave

    def hollow(self, grave: Path) -> None:
        """Delete the files of a buried unit but its status; :meth:`erase` deletes the rest."""
        try:
            with os.scandir(grave) as entries:
                rest = [entry for entry in entries if entry.name != "status"]
            for entry in rest:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
        except OSError as error:
            self._log.warning("%s could not be emptied: %s", grave, error)

    def erase(self, grave: Path) -> None:
        """Delete the files of a buried unit; what resists is tried again at the next start."""
        try:
            if not stat.S_ISDIR(os.lstat(grave).st_mode):
                # rmtree would open it, and wait if it is a pipe.
                os.unlink(grave)
                return
            try:
                shutil.rmtree(grave)
            except PermissionError:
                _open_up(grave)
                shutil.rmtree(grave)
        except (OSError, RecursionError) as error:
            self._log.warning("%s could not be deleted: %s", grave, error)


def _open_up(grave: Path) -> None:
    """Undo that a command closed directories even to its own user. Raises OSError."""
    places = [os.fspath(grave)]
    while places:
        place = places.pop()
        files.make_accessible(place)
        with os.scandir(place) as entries:
            places += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def is_unit_id(name: str) -> bool:
    """Whether a name can be that of a unit."""
    return _UNIT_ID.fullmatch(name) is not None


def _in_characters(number: int) -> str:
    """Write a number as a unit ID."""
    characters = []
    for _ in range(UNIT_ID_LENGTH):
        number, digit = divmod(number, len(_ID_CHARACTERS))
        characters.append(_ID_CHARACTERS[digit])
    return "".join(characters)


def _fault(path: str) -> str:
    """Say why what has a unit's name is no unit's directory of ours; nothing if it is one."""
    try:
        return files.directory_fault(os.lstat(path))
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"


def _of_damaged(reason: WorkError, supervisor: ProcessId | None) -> UnitStatus:
    """Return what is known of a unit whose command runs and whose status cannot be read."""
    return UnitStatus(
        UnitState.RUNNING,
        f"Running, but {reason}",
        UNKNOWN_TYPE,
        supervisor=supervisor,
        stdin_size=0,
    )


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
