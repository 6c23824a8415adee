"""The only code that touches unit files. All of it blocks; :mod:`.store` decides where it runs.

A unit is a directory ``<datadir>/<node>/<unit>`` (0700) with ``status``, ``stdin`` and ``stdout``
(0600), as receptor has it. Some work types have ``stderr`` and ``index`` beside them.
"""

import os
import re
import secrets
import shutil
import stat
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from meshnode import files
from meshnode.errors import UnknownUnit, WorkError
from meshnode.resources import DescriptorReserve
from meshnode.work.local.launcher.records import CANCEL_FILE, SIZE_KEYS, STDOUT
from meshnode.work.units.directory import NodeDirectory
from meshnode.work.units.intake import UnitFile
from meshnode.work.units.quarantine import Quarantine
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusfiles import StatusFiles

UNIT_ID_LENGTH = 8
"""Characters of a unit ID, as receptor's: 62^8 keep it short to type and rarely taken."""

_ID_CHARACTERS = string.ascii_letters + string.digits
_UNIT_ID = re.compile(rf"[a-zA-Z0-9]{{{UNIT_ID_LENGTH}}}")

TRASH = ".released-"
"""Prefix of a directory whose unit is gone: renaming is one step, deleting its files is several."""


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """A unit found on disk."""

    unit_id: str
    status: UnitStatus


class UnitFiles(StatusFiles):
    """The unit directories of one node, below ``root`` (``<datadir>/<node>``)."""

    def __init__(self, root: Path, reserve: DescriptorReserve | None = None) -> None:
        """``reserve`` holds descriptors for the files of units that were accepted."""
        # Links are followed once: what marks the processes of a unit must not change with them.
        super().__init__(Path(os.path.realpath(root)), reserve or DescriptorReserve(0))
        self._place = NodeDirectory(root, self._log)
        self.doubts: tuple[str, ...] = ()
        """What a person should look at about where the units are, one line each."""
        self._quarantine = Quarantine(self, self._log)

    def directory(self, unit_id: str) -> Path:
        """Return the directory of a unit. The ID must be one that this store gave out."""
        return self.root / unit_id

    def stdin_path(self, unit_id: str) -> Path:
        """Return the file that holds the unit's input."""
        return self.root / unit_id / "stdin"

    def deps_path(self, unit_id: str) -> Path:
        """Return the file with the tar of the unit's files, until they are unpacked."""
        return self.root / unit_id / "deps"

    def work_directory(self, unit_id: str) -> Path:
        """Return the directory that a command with files of its own starts in."""
        return self.root / unit_id / "work"

    def payload_paths(self, unit_id: str, deps_size: int) -> tuple[Path, ...]:
        """Return the files whose bytes, one after the other, are what the client sent."""
        stdin = self.stdin_path(unit_id)
        return (self.deps_path(unit_id), stdin) if deps_size else (stdin,)

    def stdout_path(self, unit_id: str) -> Path:
        """Return the file that holds the unit's output."""
        return self.output_path(unit_id, STDOUT)

    def output_path(self, unit_id: str, stream: str) -> Path:
        """Return one of the files of the unit's output."""
        return self.root / unit_id / stream

    def output_size(self, unit_id: str, stream: str = STDOUT) -> int:
        """Return its bytes so far; 0 while there is no regular file of this user."""
        return files.size_of(f"{self.root}/{unit_id}/{stream}")

    def output_sizes(self, unit_id: str, keys: Iterable[str]) -> dict[str, int]:
        """Return the bytes so far of the files with these keys in a status."""
        return {
            key: self.output_size(unit_id, stream)
            for stream, key in SIZE_KEYS.items()
            if key in keys
        }

    def has_input(self, unit_id: str, size: int | None) -> bool:
        """Whether the unit's input is here, with all the bytes that its status says it has."""
        path = f"{self.root}/{unit_id}/stdin"
        return os.path.lexists(path) and files.size_of(path) == size

    def last_written(self, unit_id: str) -> datetime:
        """Return when the unit's status was last replaced; now, where the disk does not tell."""
        return _written(self.root / unit_id / "status")

    def prepare(self) -> None:
        """Make ``root`` and take it for ourselves, until :meth:`close`.

        Raises:
            WorkError: that is impossible, for instance since another node uses it.
        """
        self.doubts = self._place.open()

    def check(self) -> None:
        """Make sure that ``root`` is the directory that was taken; one that is gone is made again.

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
            # anything has run, and no mode depends on the umask of the command.
            for name in ("stdin", *(one for one in SIZE_KEYS if status.size_of(one) is not None)):
                os.close(files.make_file(f"{directory}/{name}"))
            self.write_first(unit_id, status)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise WorkError(f"cannot create a work unit: {error.strerror}") from error
        return unit_id

    def _new_directory(self) -> str:
        while True:
            # One call for random bytes, not one for each character.
            number = secrets.randbelow(len(_ID_CHARACTERS) ** UNIT_ID_LENGTH)
            unit_id = _in_characters(number)
            try:
                os.mkdir(f"{self.root}/{unit_id}", 0o700)
            except FileExistsError:
                continue
            return unit_id

    def trash(self) -> list[str]:
        """Return the names of the directories whose units are gone. Raises WorkError."""
        try:
            return [name for name in os.listdir(self.root) if name.startswith(TRASH)]
        except OSError as error:
            raise WorkError(f"cannot read {self.root}: {error.strerror}") from error

    def quarantined(self) -> list[str]:
        """Return the IDs of the units that are set aside below ``.broken``."""
        return self._quarantine.unit_ids()

    def scan(self) -> list[StoredUnit]:
        """Return every unit on disk; finish releases that a crash interrupted.

        What looks like a unit and cannot be read is set aside below ``.broken``, and never deleted.
        Where its command runs on, it is returned all the same, with what can be known of it.
        """
        found: list[StoredUnit] = []
        damaged: dict[str, WorkError] = {}
        # Names only: each directory entry keeps half a kilobyte of what the kernel said of it, and
        # the process would stay that much larger.
        for name in sorted(os.listdir(self.root)):
            if name.startswith(TRASH):
                self.purge(self.root / name)
            elif _UNIT_ID.fullmatch(name):
                path = f"{self.root}/{name}"
                if fault := _fault(path):
                    self._quarantine.leave(name, f"{path} {fault}")
                    continue
                try:
                    found.append(StoredUnit(name, self.read_status(name)))
                except WorkError as error:
                    damaged[name] = error
        if damaged:
            running = self._quarantine.take_all(damaged)
            found += [StoredUnit(name, status) for name, status in running.items()]
        return found

    def open_stdin(self, unit_id: str, wanted: Callable[[], bool], size: int = 0) -> UnitFile:
        """Return the file that takes a unit's input as long as that is wanted.

        Its first ``size`` bytes are kept, and no others. Raises OSError.
        """
        return self._open_part(self.stdin_path(unit_id), wanted, size)

    def make_deps(self, unit_id: str, wanted: Callable[[], bool], size: int = 0) -> UnitFile:
        """Return the file that takes a unit's tar, as :meth:`open_stdin` does its input."""
        return self._open_part(self.deps_path(unit_id), wanted, size)

    def _open_part(self, path: Path, wanted: Callable[[], bool], size: int) -> UnitFile:
        file = self._with_reserve(lambda: UnitFile(path, append=size > 0, wanted=wanted))
        if file.size > size:
            file.cut(size)
        return file

    def payload_parts(self, unit_id: str, deps_size: int) -> tuple[int, int]:
        """Return the bytes here of a unit's tar and of the input behind it.

        Input without all of the tar counts as none: a power cut has taken what was before it.
        """
        deps = files.size_of(self.deps_path(unit_id)) if deps_size else 0
        if deps != deps_size:
            return (deps if deps < deps_size else 0), 0
        return deps, files.size_of(self.stdin_path(unit_id))

    def payload_written(self, unit_id: str) -> datetime:
        """Return when something was last written of a unit's payload; now, if nobody knows."""
        paths = (self.deps_path(unit_id), self.stdin_path(unit_id))
        return max(map(_written, filter(os.path.lexists, paths)), default=datetime.now(UTC))

    def link_deps(self, unit_id: str, source: Path) -> None:
        """Give a unit a tar that lies on this disk already, and stay its. Raises OSError."""
        path = self.deps_path(unit_id)
        try:
            os.link(source, path)
        except FileNotFoundError:
            raise
        except OSError:
            # A file system without links, or one more than a file may have.
            shutil.copyfile(source, path)
            os.chmod(path, 0o600)

    def sync_stdin(self, unit_id: str, with_deps: bool = False) -> None:
        """Bring a unit's input, which is all there, to the disk. Raises OSError."""
        for path in (self.stdin_path(unit_id), *([self.deps_path(unit_id)] if with_deps else [])):
            descriptor = self._with_reserve(partial(files.open_file, path, os.O_RDONLY))
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def unlink_deps(self, unit_id: str) -> None:
        """Delete the tar of a unit's files: they are unpacked, or nothing will be started."""
        try:
            os.unlink(f"{self.root}/{unit_id}/deps")
        except FileNotFoundError:
            return
        except OSError as error:
            self._log.debug("the tar of unit %s stays: %s", unit_id, error)

    def drop_stdin(self, unit_id: str) -> None:
        """Give the room of a unit's input back: nothing will be started with it."""
        self.unlink_deps(unit_id)
        try:
            os.close(files.open_file(f"{self.root}/{unit_id}/stdin", os.O_WRONLY | os.O_TRUNC))
        except FileNotFoundError:
            return
        except OSError as error:
            self._log.debug("the input of unit %s stays: %s", unit_id, error)

    def take_stdin_away(self, unit_id: str) -> None:
        """Delete a unit's input, so that no start of the node does anything with the unit.

        It takes neither room nor a descriptor.
        """
        self.unlink_deps(unit_id)
        try:
            os.unlink(f"{self.root}/{unit_id}/stdin")
        except FileNotFoundError:
            return
        except OSError as error:
            self._log.warning("the payload of unit %s stays: %s", unit_id, error.strerror)

    def write_cancel(self, unit_id: str, text: bytes) -> None:
        """Leave a supervisor word of who cancels its unit. Raises OSError."""
        path = f"{self.root}/{unit_id}{CANCEL_FILE}"
        descriptor, was_there = files.open_scratch(path)
        try:
            os.write(descriptor, text)
            if was_there:
                os.ftruncate(descriptor, len(text))
        finally:
            os.close(descriptor)

    def open_stream(self, unit_id: str, stream: str = STDOUT) -> int:
        """Return a descriptor of a file of a unit's output, to read it. Raises OSError."""
        return files.open_file(f"{self.root}/{unit_id}/{stream}", os.O_RDONLY)

    def read_stream(self, unit_id: str, most: int, stream: str = STDOUT) -> bytes:
        """Return what is in such a file, of at most ``most`` bytes. Raises OSError."""
        return files.read_file(f"{self.root}/{unit_id}/{stream}", most)

    def warnings(self) -> list[str]:
        """Return a line for a person about each fault of the node's directory or its units."""
        gone = self._place.problem()
        return [*([gone] if gone else []), *self._quarantine.warnings()]

    def unlink(self, unit_id: str) -> Path:
        """Take a unit away in one step, and return the directory that :meth:`purge` deletes.

        Raises:
            UnknownUnit: there is no such directory.
            WorkError: the disk refuses; the unit is as it was.
        """
        trash = self.root / (TRASH + unit_id)
        try:
            os.rename(self.root / unit_id, trash)
        except OSError as error:
            if error.errno in files.GONE:
                raise UnknownUnit(unit_id) from None
            raise WorkError(f"cannot delete work unit {unit_id}: {error.strerror}") from error
        return trash

    def empty(self, trash: Path) -> None:
        """Delete the files of an unlinked unit but its status; :meth:`purge` deletes the rest."""
        try:
            with os.scandir(trash) as entries:
                rest = [entry for entry in entries if entry.name != "status"]
            for entry in rest:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
        except OSError as error:
            self._log.warning("%s could not be emptied: %s", trash, error)

    def purge(self, trash: Path) -> None:
        """Delete an unlinked unit; what resists is tried again at the next start."""
        try:
            if not stat.S_ISDIR(os.lstat(trash).st_mode):
                # rmtree would open it, and wait if it is a pipe.
                os.unlink(trash)
                return
            try:
                shutil.rmtree(trash)
            except PermissionError:
                _open_up(trash)
                shutil.rmtree(trash)
        except (OSError, RecursionError) as error:
            self._log.warning("%s could not be deleted: %s", trash, error)


def _open_up(trash: Path) -> None:
    """Undo that a command closed directories even to its own user. Raises OSError."""
    places = [os.fspath(trash)]
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


def _written(path: Path) -> datetime:
    """Return when a file was last written; now, where the disk does not tell."""
    try:
        return datetime.fromtimestamp(os.lstat(path).st_mtime, UTC)
    except (OSError, OverflowError, ValueError):
        # No such file, or a time that no calendar has.
        return datetime.now(UTC)


def _fault(path: str) -> str:
    """Return why this is not the directory of a unit; an empty text if it is one."""
    try:
        return files.directory_fault(os.lstat(path))
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
