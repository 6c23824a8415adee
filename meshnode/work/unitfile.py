"""A unit's stdin or stdout as this node writes it."""

import os
from collections.abc import Callable
from pathlib import Path

from meshnode import files

WRITE_OUT = 8 * 1024 * 1024
"""Bytes after which what a file got is given to the disk, so that the sync at its end, for which
somebody waits, has little left to do."""


class UnitFile:
    """A unit's stdin or stdout as this node writes it: appending, from where the file ends."""

    def __init__(
        self, path: Path, *, append: bool, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Open ``path``; without ``append`` whatever it held is dropped. Raises OSError.

        What is written while it is not ``wanted`` is dropped.
        """
        self._wanted = wanted
        mode = os.O_CREAT | os.O_WRONLY | (os.O_APPEND if append else os.O_TRUNC)
        self._descriptor = files.open_file(path, mode)
        self.size = os.fstat(self._descriptor).st_size
        self._given = self.size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of ``data``. Raises OSError; ``size`` counts what was written."""
        if not self._wanted():
            self.size += len(data)
            return
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

    def cut(self, size: int) -> None:
        """Drop what is behind byte ``size``. Raises OSError."""
        os.ftruncate(self._descriptor, size)
        self.size = self._given = size

    def sync(self) -> None:
        """Have the disk keep what was written. Raises OSError."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
