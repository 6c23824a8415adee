"""Units that cannot be read: moved aside for a person, and named in ``status``."""

import errno
import os
import shutil
import stat
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from meshnode import files
from meshnode.errors import WorkError
from meshnode.logs import SubjectLogger
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.launcher.records import SIZE_KEYS
from meshnode.work.local.processes import ProcessId, UnitProcesses
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusfiles import StatusFiles

UNKNOWN_TYPE = "unknown"
"""Work type of a unit of which not even that can be read."""

_BROKEN = ".broken"
"""Directory of what looks like a unit but cannot be read; a person may mend it and move it back."""

_MADE = ("stdin", *SIZE_KEYS, "status.tmp", "status.lock")
"""What a unit's directory holds before its first ``status``."""


class Quarantine:
    """What a node's directory holds beside its units: those that were damaged when it started."""

    def __init__(self, statuses: StatusFiles, log: SubjectLogger) -> None:
        self._statuses = statuses
        self._root = statuses.root
        self._log = log
        self._running: dict[str, str] = {}
        """Units that run although their status could not be read, with the reason."""
        self._left: dict[str, str] = {}
        """What stays where it is and is no unit that can be read, with the reason."""
        self._cut_short: list[str] = []
        """What was deleted since it looked as if it had never been begun."""

    def unit_ids(self) -> list[str]:
        """Return the IDs of the units that were set aside, or of which nothing was left.

        The IDs of directories that were deleted as never begun are among them. Such a directory may
        have been a whole unit without input and output whose status somebody deleted. Nobody knows
        the ID of one that was never begun, but somebody may ask for that unit.
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
        for name in tuple(self._running):
            with suppress(WorkError):
                self._statuses.read_status(name)
                # Its supervisor has written it anew.
                del self._running[name]
        return [
            *(f"unit {name} runs, but {why}" for name, why in self._running.items()),
            *(f"unit {name} cannot be read and is set aside in {place}" for name in self._names()),
            *(f"unit {name} is left out: {reason}" for name, reason in self._left.items()),
        ]

    def take_all(self, damaged: dict[str, WorkError]) -> dict[str, UnitStatus]:
        """Move damaged units away; return what is known of those that run and must stay."""
        running = {}
        processes = UnitProcesses.look()
        for name, reason in damaged.items():
            left = processes.of(self._root / name)
            if left:
                pids = ", ".join(str(process.pid) for process in left)
                self._log.warning("unit %s runs on (PIDs %s), but %s", name, pids, reason)
                self._running[name] = str(reason)
                running[name] = _of_damaged(reason, processes.supervisor_of(left))
            else:
                self._take(name, reason)
        return running

    def _take(self, name: str, reason: WorkError) -> None:
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


def _of_damaged(reason: WorkError, supervisor: ProcessId | None) -> UnitStatus:
    """Return what is known of a unit whose command runs and whose status cannot be read."""
    return UnitStatus(
        UnitState.RUNNING,
        f"Running, but {reason}",
        UNKNOWN_TYPE,
        supervisor=supervisor,
        stdin_size=0,
    )
