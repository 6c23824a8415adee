"""The directory of one node: made, judged, locked, and made anew should it go."""

import fcntl
import os
from pathlib import Path

from meshnode.errors import WorkError
from meshnode.logs import SubjectLogger
from meshnode.ownership import NODE_DIRECTORIES, cleaned_place, judge, make_private

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
            judgement = judge(self._given, own=NODE_DIRECTORIES)
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
