"""The store of units: decides what of the disk may be waited for in the event loop.

Three kinds of operations, and where each is done:

* **Long ones** are always done in a thread: what syncs, what reads or deletes a whole directory,
  what looks for processes.
* **Short ones** are done in the loop as long as the disk is quick: to make a unit's files, to
  replace or read a status, to rename a directory. They take some 0.1 ms, of which a thread would
  make twice as much, and a short unit has a handful of them. If one takes longer than
  ``SLOW_SECONDS``, the disk counts as slow, and for ``SLOW_FOR`` seconds all are done in threads: a
  disk that is busy, or at the other end of a network, holds the loop up once and not for each unit.
* **Looks at attributes** of files that are in use (the size of a stdout, whether the root is still
  the same directory) stay in the loop. The kernel has them in memory.

One long operation is done in the loop all the same: when the root has become another directory
while the node runs, :mod:`.submissions` reads what that remembers before anything is answered.
"""

import errno
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.resources import DescriptorReserve
from meshnode.work.files.unpacking import check, make_directory, unpack
from meshnode.work.local.launcher.records import STDOUT
from meshnode.work.local.launcher.statusfile import LOCK_PATIENCE_SECONDS, LOCK_RETRY_SECONDS
from meshnode.work.units.endedby import EndedBy
from meshnode.work.units.intake import UnitFile
from meshnode.work.units.shortage import in_thread_or_here, shortages
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusfiles import Locked, Overtaken
from meshnode.work.units.unitfiles import StoredUnit, UnitFiles

SLOW_SECONDS = 0.1
"""An operation that takes so long is not the disk of a quiet machine; links live on for 20 s."""

SLOW_FOR = 10.0
"""Seconds for which a disk counts as slow after the last operation that was."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class UnitStore(UnitFiles):
    """The unit directories of one node. Its own methods are for the loop; those inherited block."""

    def __init__(
        self,
        root: Path,
        reserve: DescriptorReserve | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(root, reserve)
        self._clock = clock
        self._slow_until = float("-inf")
        self.refused_writes = 0
        """How often the disk refused to take a new unit or a status since the start."""
        self.slow_operations = 0
        """How often it was slow."""

    async def _long(self, act: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        return await in_thread_or_here(act, *args)

    async def _short(self, act: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        if self._clock() < self._slow_until:
            return await in_thread_or_here(self._timed, act, *args)
        return self._timed(act, *args)

    def _timed(self, act: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        begun = self._clock()
        try:
            return act(*args)
        finally:
            ended = self._clock()
            if ended - begun > SLOW_SECONDS:
                self.slow_operations += 1
                self._slow_until = ended + SLOW_FOR

    # --- the directory of the node ------------------------------------------------------------

    async def open(self) -> None:
        """Take the root for ourselves, until ``close``. Raises WorkError."""
        await self._long(self.prepare)

    async def load_all(self) -> list[StoredUnit]:
        """Return every unit that can be read; see ``scan``."""
        return await self._long(self.scan)

    async def find_warnings(self) -> list[str]:
        """Return a line for a person about what is wrong with the disk, the root or units."""
        return await self._short(lambda: [*shortages(self.root), *self.warnings()])

    async def room(self) -> os.statvfs_result:
        """Return what the file system of the units has, and has left. Raises OSError."""
        return await self._short(os.statvfs, self.root)

    # --- units that come and go ---------------------------------------------------------------

    async def add(self, status: UnitStatus) -> str:
        """Make the files of a new unit, and return its ID. Raises WorkError."""
        try:
            return await self._short(self.create, status)
        except WorkError:
            self.refused_writes += 1
            raise

    async def open_input(self, unit_id: str, wanted: Callable[[], bool], size: int = 0) -> UnitFile:
        """Return the file that takes a unit's input, behind its first ``size`` bytes.

        As long as that is wanted. Raises OSError.
        """
        return await self._short(self.open_stdin, unit_id, wanted, size)

    async def open_deps(self, unit_id: str, wanted: Callable[[], bool], size: int = 0) -> UnitFile:
        """Return the file that takes a unit's tar, as :meth:`open_input` does its input."""
        return await self._short(self.make_deps, unit_id, wanted, size)

    async def take_deps(self, unit_id: str, source: Path) -> None:
        """Give a unit a tar that lies on this disk already, and stays there. Raises OSError."""
        await self._short(self.link_deps, unit_id, source)

    async def unpack_files(self, unit_id: str, script: str) -> None:
        """Make the working directory of a unit, with the files of its tar in it.

        One of them must be the ``script``, if it is to have one.

        Raises:
            BadFiles: the tar may not be unpacked.
            OSError: the disk refuses.
        """
        await self._long(unpack, self.deps_path(unit_id), self.work_directory(unit_id), script)

    async def make_work_directory(self, unit_id: str) -> None:
        """Make the working directory of a unit without files. Raises OSError."""
        await self._long(make_directory, self.work_directory(unit_id))

    async def check_files(self, unit_id: str, script: str) -> None:
        """Look whether another machine may unpack the tar of a unit.

        Raises:
            BadFiles: it may not.
            OSError: it cannot be read.
        """
        await self._long(check, self.deps_path(unit_id), script)

    async def drop_deps(self, unit_id: str) -> None:
        """Delete the tar of a unit's files: they are unpacked."""
        await self._long(self.unlink_deps, unit_id)

    async def sync_input(self, unit_id: str, *, with_deps: bool) -> None:
        """Bring a unit's input, which is all there, to the disk. Raises OSError."""
        await self._long(self.sync_stdin, unit_id, with_deps)

    async def drop_input(self, unit_id: str) -> None:
        """Give the room of a unit's input back: nothing will be started with it."""
        await self._long(self.drop_stdin, unit_id)

    async def withdraw_input(self, unit_id: str) -> None:
        """Delete a unit's input, so that no start of the node does anything with the unit."""
        await self._short(self.take_stdin_away, unit_id)

    async def open_output(self, unit_id: str, stream: str = STDOUT) -> int:
        """Return a descriptor of a file of a unit's output, to read it. Raises OSError."""
        return await self._short(self.open_stream, unit_id, stream)

    async def read_output(self, unit_id: str, most: int, stream: str = STDOUT) -> bytes:
        """Return what is in such a file, of at most ``most`` bytes. Raises OSError."""
        return await self._short(self.read_stream, unit_id, most, stream)

    async def leave_cancel(self, unit_id: str, end: EndedBy) -> None:
        """Leave a supervisor word of who cancels its unit. Raises OSError."""
        await self._short(self.write_cancel, unit_id, end.to_supervisor())

    async def take_away(self, unit_id: str) -> Path:
        """Take a unit away in one step; return what :meth:`delete` deletes.

        Raises:
            UnknownUnit: there is no such directory.
            WorkError: the disk refuses; the unit is as it was.
        """
        return await self._short(self.unlink, unit_id)

    async def delete(self, trash: Path, *, keeps_status: bool) -> None:
        """Delete the files of a unit that was taken away, or all but its status."""
        await self._long(self.empty if keeps_status else self.purge, trash)

    # --- statuses -----------------------------------------------------------------------------

    async def load(self, unit_id: str) -> UnitStatus:
        """Return the status on disk. Raises WorkError if it cannot be read."""
        return await self._short(self.read_status, unit_id)

    async def record(
        self,
        unit_id: str,
        old: UnitStatus,
        new: UnitStatus,
        *,
        durable: bool,
        refused: UnitStatus | None = None,
        before: Callable[[], None] | None = None,
    ) -> UnitStatus | None:
        """Replace the status on disk, if it says what ``old`` says; wait for its lock.

        What must be on disk first, ``before`` brings there. ``refused`` is the final status that
        the disk did not take the last time, or did without saying so. The input of a unit that ends
        without having been started is dropped.

        Returns:
            What stands there instead, if a supervisor was first.

        Raises:
            OSError: the disk refuses; or what ``before`` raises.
            Locked: somebody keeps the lock of the unit.
        """
        put = partial(self._record, unit_id, old, new, durable, refused, before)
        run = self._long if durable or not new.is_command else self._short
        deadline = trio.current_time() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                return await run(put)
            except Locked:
                if trio.current_time() >= deadline:
                    raise
            except OSError:
                self.refused_writes += 1
                raise
            # No event says that a lock of another process is free.
            await trio.sleep(LOCK_RETRY_SECONDS)

    def _record(
        self,
        unit_id: str,
        old: UnitStatus,
        new: UnitStatus,
        durable: bool,
        refused: UnitStatus | None,
        before: Callable[[], None] | None,
    ) -> UnitStatus | None:
        # Of what is no command this node is the only writer.
        expected = old.state if new.is_command else None
        ends_unstarted = old.state is UnitState.PENDING and new.state.is_final
        if before is not None:
            before()
        if ends_unstarted and not old.input_complete:
            # Nothing could be started with it, and its room may be what the record needs.
            self.drop_stdin(unit_id)
        put = partial(self.write_status, unit_id, new, durable=durable)
        try:
            put(expected=expected)
        except Overtaken:
            found = self._read(unit_id)
            if found != refused:
                return found
            # Ours, from the last try: it was put in place, but the disk did not say so.
            put(expected=found.state)
        if ends_unstarted and old.input_complete:
            # Only now: until the end is recorded, a start of the node would start it.
            self.drop_stdin(unit_id)
        return None

    def _read(self, unit_id: str) -> UnitStatus:
        """Return the status on disk. Raises OSError where it cannot be read."""
        try:
            return self.read_status(unit_id)
        except WorkError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise OSError(errno.EIO, str(error)) from error
