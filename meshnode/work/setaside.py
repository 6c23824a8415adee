"""Units that cannot be read: kept for a person, and named in ``status``."""

import errno
import os
import shutil
import stat
from itertools import chain, count
from pathlib import Path

from meshnode import files
from meshnode.errors import WorkError
from meshnode.logs import SubjectLogger

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

    def unit_ids(self) -> list[str]:
        """Return the IDs of the units that were set aside and not deleted since."""
        return [name.partition(".")[0] for name in self._names()]

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
