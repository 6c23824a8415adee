"""The stdout of a unit on another node as it is stored here: bounded, and in step with the disk.

The other node may send without end, and this node's disk may be full. The first is cut off at a
limit. The second passes: the unit says that it waits, the other node is not read meanwhile, and its
command goes on.
"""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import trio

from meshnode.errors import WorkError
from meshnode.work.units.intake import UnitFile
from meshnode.work.units.shortage import has_room
from meshnode.work.units.unit import Unit

RETRY = 5.0
"""Seconds until a disk without room is tried again; no event says that it has some."""

PASSING = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
    }
)
"""Errors that speak of what the machine lacks at this moment."""


class CannotStore(WorkError):
    """The disk refuses, and waiting would not help."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot store the results: {error.strerror or error}")


class TooMuch(WorkError):
    """More came than a unit may bring."""


class Patience:
    """Tries again for as long as the machine lacks something, and has the unit say so."""

    def __init__(self, unit: Unit) -> None:
        self.lack = ""
        """What is waited for, for the unit's Detail; empty while nothing is."""
        self._unit = unit
        self._detail = unit.status.detail

    async def wait(self, error: OSError) -> None:
        """Return when another try makes sense.

        Raises:
            CannotStore: none does.
        """
        if error.errno not in PASSING:
            raise CannotStore(error) from error
        lack = f"waiting for disk space: {error.strerror}"
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            lack = f"waiting until results can be stored: {error.strerror}"
        if lack != self.lack:
            self._unit.log.warning("%s", lack)
            if not self.lack:
                self._detail = self._unit.status.detail
            self.lack = lack
            await self._show(lack)
        await trio.sleep(RETRY)

    async def is_over(self) -> None:
        """Have the unit say what it said before."""
        if self.lack:
            self.lack = ""
            self._unit.log.info("results can be stored again")
            await self._show(self._detail)

    async def _show(self, detail: str) -> None:
        # In memory only: there is no room for it on the disk.
        await self._unit.note(
            lambda old: old if old.state.is_final else replace(old, detail=detail)
        )


class StdoutCopy:
    """The file of one unit, from where it ended. Close it."""

    def __init__(self, file: UnitFile, directory: Path, patience: Patience, limit: int) -> None:
        self._file = file
        self._directory = directory
        self._patience = patience
        self._limit = limit

    @classmethod
    async def open(cls, path: Path, patience: Patience, limit: int) -> "StdoutCopy":
        """Open the file for at most ``limit`` bytes.

        Raises:
            CannotStore: it is none that could be written.
        """
        while True:
            try:
                return cls(UnitFile(path, append=True), path.parent, patience, limit)
            except OSError as error:
                await patience.wait(error)

    @property
    def size(self) -> int:
        """Bytes that are stored."""
        return self._file.size

    async def append(self, data: bytes, *, small: bool = False) -> None:
        """Store all of ``data``, however long the disk has no room.

        What is ``small`` is written at once, without a hop to a thread.

        Raises:
            TooMuch: it is more than the limit; what the limit allows is stored.
            CannotStore: the disk refuses for good.
        """
        room = max(0, self._limit - self.size)
        left = memoryview(data)[:room]
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
                await self._patience.wait(error)
        await self._patience.is_over()
        if len(data) > room:
            raise TooMuch(f"more than {self._limit} bytes of results")

    def _write(self, data: memoryview) -> None:
        if not has_room(self._directory, self.size):
            raise OSError(errno.ENOSPC, "what is left of the disk is kept for other work")
        self._file.write(data)

    def finish(self, size: int) -> None:
        """Make the file exactly so long, at most as long as it is, and bring it to the disk.

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
        self._file.cut(0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


async def insist(patience: Patience, record: Callable[[], Awaitable[None]]) -> None:
    """Record something, however long the disk has no room for it.

    Raises:
        WorkError: it may not be recorded, or the disk refuses for good.
    """
    while True:
        try:
            await record()
        except CannotStore:
            # What a sync that failed has lost, a second one does not bring back.
            raise
        except WorkError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in PASSING:
                raise
            await patience.wait(cause)
        else:
            await patience.is_over()
            return
