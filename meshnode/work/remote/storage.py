"""Stores the output of a unit on another node: within a limit, and waiting while the disk is full.

A node that sends more than the limit is cut off. A full disk passes: the unit's detail says that it
waits, nothing is read from the other node meanwhile, and the command goes on there.
"""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import trio

from meshnode import files
from meshnode.errors import WorkError
from meshnode.work.units.intake import UnitFile
from meshnode.work.units.shortage import has_room
from meshnode.work.units.unit import Unit

RETRY = 5.0
"""Seconds between tries of a full disk; no event announces free space."""

WAITED_FOR = files.PASSING | {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Errors after which the copy waits: what passes, and a disk that is full or read-only."""


class CannotStore(WorkError):
    """The disk refuses, and waiting would not help."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot store the results: {error.strerror or error}")


class TooMuch(WorkError):
    """More came than a unit may bring."""


class StorageWait:
    """Waits while the machine lacks what storing needs, and shows that in the unit's detail."""

    def __init__(self, unit: Unit) -> None:
        self.reason = ""
        """What is waited for, as the unit's detail says it; empty while nothing is."""
        self._unit = unit
        self._detail = unit.status.detail

    async def wait(self, error: OSError) -> None:
        """Return when another try makes sense.

        Raises:
            CannotStore: none does.
        """
        if error.errno not in WAITED_FOR:
            raise CannotStore(error) from error
        reason = f"waiting for disk space: {error.strerror}"
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            reason = f"waiting until results can be stored: {error.strerror}"
        if reason != self.reason:
            self._unit.log.warning("%s", reason)
            if not self.reason:
                self._detail = self._unit.status.detail
            self.reason = reason
            await self._show(reason)
        await trio.sleep(RETRY)

    async def end(self) -> None:
        """Show the detail from before the wait."""
        if self.reason:
            self.reason = ""
            self._unit.log.info("results can be stored again")
            await self._show(self._detail)

    async def record(self, write: Callable[[], Awaitable[None]]) -> None:
        """Record something with ``write``, however long the disk has no room for it.

        Raises:
            WorkError: it may not be recorded, or the disk refuses for good.
        """
        while True:
            try:
                await write()
            except CannotStore:
                # A failed sync may have lost data that a second one would not bring back.
                raise
            except WorkError as error:
                cause = error.__cause__
                if not isinstance(cause, OSError) or cause.errno not in WAITED_FOR:
                    raise
                await self.wait(cause)
            else:
                await self.end()
                return

    async def _show(self, detail: str) -> None:
        # In memory only: the disk has no room.
        await self._unit.note(
            lambda old: old if old.state.is_final else replace(old, detail=detail)
        )


class Allowance:
    """How much one unit may bring, in all files of its output together."""

    def __init__(self, limit: int) -> None:
        """``limit`` is in bytes."""
        self.limit = limit
        self.used = 0
        """Bytes that are stored, or are being stored."""

    def take(self, wanted: int) -> int:
        """Take up to so many bytes, and return how many there were."""
        taken = max(0, min(wanted, self.limit - self.used))
        self.used += taken
        return taken


class OutputCopy:
    """One file of one unit's output; appends to what it has. Close it."""

    def __init__(
        self, file: UnitFile, directory: Path, storage: StorageWait, allowance: Allowance
    ) -> None:
        self._file = file
        self._directory = directory
        self._storage = storage
        self._allowance = allowance
        # It was stored before, whatever is allowed now.
        allowance.used += file.size

    @classmethod
    async def open(cls, path: Path, storage: StorageWait, allowance: Allowance) -> "OutputCopy":
        """Open the file, which is made if it is not there.

        Raises:
            CannotStore: it cannot be written.
        """
        while True:
            try:
                return cls(UnitFile(path, append=True), path.parent, storage, allowance)
            except OSError as error:
                await storage.wait(error)

    @property
    def size(self) -> int:
        """Bytes that are stored."""
        return self._file.size

    async def append(self, data: bytes, *, small: bool = False) -> None:
        """Store all of ``data``, however long the disk has no room.

        ``small`` data is written without a hop to a thread.

        Raises:
            TooMuch: it is more than the unit may bring; what it may is stored.
            CannotStore: the disk refuses for good.
        """
        # Taken first: other files of the unit are written to meanwhile.
        left = memoryview(data)[: self._allowance.take(len(data))]
        is_too_much = len(left) < len(data)
        while left:
            before = self.size
            try:
                if small:
                    self._file.write(left)
                else:
                    await trio.to_thread.run_sync(self._write, left)
                break
            except OSError as error:
                left = left[self.size - before :]
                await self._storage.wait(error)
        await self._storage.end()
        if is_too_much:
            raise TooMuch(f"more than {self._allowance.limit} bytes of results")

    def _write(self, data: memoryview) -> None:
        if not has_room(self._directory, self._allowance.used - len(data)):
            raise OSError(errno.ENOSPC, "what is left of the disk is kept for other work")
        self._file.write(data)

    def finish(self, size: int) -> None:
        """Cut the file to ``size`` bytes if it is longer, and sync it.

        Blocks. Raises CannotStore.
        """
        try:
            if self.size > size:
                self._file.cut(size)
            if size:
                self._file.sync()
        except OSError as error:
            raise CannotStore(error) from error

    def drop(self) -> None:
        """Drop all that is stored. Raises OSError."""
        size = self.size
        self._file.cut(0)
        self._allowance.used -= size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
