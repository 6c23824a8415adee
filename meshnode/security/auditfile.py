"""The file of the audit log: whole lines at its end, or none.

Everything here may block, and runs in a thread. Only this node writes to the file while it is open;
others may rename it, truncate it or delete it at any moment, as those do that rotate logs.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from meshnode import files

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


MAX_TAIL = 1 << 20
"""Bytes at the end of the file that are read at a start: some 3,000 lines."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How a file ends that an earlier run of the node has written."""

    written: float
    """When it was written last; of a new file, now."""
    data: bytes
    """Its last bytes, MAX_TAIL of them at most."""


@dataclass(frozen=True, slots=True)
class Written:
    """How much of what was to be written is in the file."""

    lines: int
    """So many, from the first one on, are there whole."""
    error: OSError | None = None
    """Why the rest is not; or why nobody knows whether they would outlive a power cut."""
    is_durable: bool = False
    """Whether they would."""


class WritableByOthers(OSError):
    """Others than this user may write to the file: what stands in it would prove nothing."""

    def __init__(self, path: Path) -> None:
        text = f"it can be written by other users: chmod go-w {path}"
        super().__init__(None, text, str(path))


class AuditFile:
    """One file, opened when it is first written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._is_torn = False
        """Whether the last line of the file is cut off, and nothing may follow in that line."""

    def check(self) -> Tail:
        """Make the file if it is missing, with mode 0600, and see whether it can be written to.

        Returns how it ends.

        Raises:
            OSError: it cannot, or others may write to it; see ``files.reason``.
        """
        self._open()
        try:
            found = os.fstat(self._descriptor)
            start = max(0, found.st_size - MAX_TAIL)
            return Tail(found.st_mtime, os.pread(self._descriptor, MAX_TAIL, start))
        finally:
            self.close()

    def write(self, lines: Sequence[bytes], *, sync: bool) -> Written:
        """Append lines, each of which ends with a line break; with ``sync`` to the disk itself."""
        data = memoryview(b"".join(lines))
        done, fault = 0, None
        try:
            self._open_again_if_gone()
            if self._is_torn:
                os.write(self._descriptor, b"\n")
                self._is_torn = False
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
        except OSError as error:
            fault = error
        whole = sum(end <= done for end in accumulate(map(len, lines)))
        if begun := done - sum(map(len, lines[:whole])):
            self._is_torn = not self._take_back(begun)
        if not (whole and sync):
            return Written(whole, fault)
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            return Written(whole, error)
        return Written(whole, fault, is_durable=True)

    def close(self) -> None:
        """Close the file, if it is open."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open_again_if_gone(self) -> None:
        # Somebody deleted it: lines in a file without a name would be gone with this process.
        if self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink == 0:
            self.close()
        if self._descriptor < 0:
            self._open()

    def _open(self) -> None:
        descriptor = files.open_file(self.path, _FLAGS)
        try:
            found = os.fstat(descriptor)
            if found.st_mode & _OTHERS_WRITE:
                raise WritableByOthers(self.path)
            # A file that was just made, here or by a rotation, would be gone after a power cut with
            # all that is in it. Where its directory may not be read, that cannot be helped.
            with suppress(PermissionError):
                files.sync_directory(self.path.parent)
            last = os.pread(descriptor, 1, found.st_size - 1) if found.st_size else b"\n"
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._is_torn = descriptor, last != b"\n"

    def _take_back(self, size: int) -> bool:
        """Remove the last bytes, which are the beginning of a line; return whether that was done.

        A file that may only be appended to (``chattr +a``) keeps them.
        """
        try:
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            # Otherwise somebody has truncated it meanwhile, and it would get a hole.
            if os.fstat(self._descriptor).st_size != end:
                return False
            os.ftruncate(self._descriptor, end - size)
        except OSError:
            return False
        return True
