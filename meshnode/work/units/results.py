"""Results: the bytes of a unit's stdout from any position, as they are written."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from meshnode import files
from meshnode.errors import WorkError
from meshnode.work.units.shortage import Pauses
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit
from meshnode.work.units.watcher import FileWatcher

SendFile = Callable[[int, int, int], Awaitable[int]]
"""Sends a part of a file: descriptor, position and size to the number of bytes that were sent; 0 at
the file's end. An OSError says that the file cannot be read."""


class ResultsEndedEarly(WorkError):
    """A stdout was truncated, replaced or deleted before all of it was sent."""


async def stream_results(
    unit: Unit, store: UnitStore, start: int, watcher: FileWatcher, send: SendFile
) -> int:
    """Send stdout from byte ``start`` until the unit is final and all is sent; return the count.

    A start beyond the end waits for the output to get there, and ends with the unit. A released
    unit ends its readers.

    Raises:
        ResultsEndedEarly: the file is no longer what it was.
        WorkError: the file cannot be read.
        Exception: whatever else ``send`` raises.
    """
    try:
        descriptor = await _open(store, unit.unit_id)
    except OSError as error:
        if unit.is_final and unit.status.stdout_size == 0:
            return 0
        raise WorkError(f"cannot read the results: {files.reason(error)}") from error
    try:
        path = store.stdout_path(unit.unit_id)
        return await _Reader(unit, path, descriptor, start, send).run(watcher)
    finally:
        os.close(descriptor)


async def _open(store: UnitStore, unit_id: str) -> int:
    """Open a stdout as soon as there is a descriptor for it. Raises OSError."""
    pauses = Pauses()
    while True:
        try:
            return await store.open_output(unit_id)
        except OSError as error:
            if not files.is_passing(error):
                raise
        await pauses.take()


class _Reader:
    """One reader of one stdout."""

    def __init__(self, unit: Unit, path: Path, descriptor: int, start: int, send: SendFile) -> None:
        self._unit = unit
        self._path = path
        self._descriptor = descriptor
        self._start = start
        self._position = start
        self._send = send
        self._wake = trio.Event()

    async def run(self, watcher: FileWatcher) -> int:
        # The watch begins before the first look, so that no change is missed in between.
        with watcher.watch(self._path, self._set):
            self._unit.add_listener(self._set)
            try:
                while not await self._send_what_is_there():
                    await self._wake.wait()
                    self._wake = trio.Event()
            finally:
                self._unit.remove_listener(self._set)
        return self._position - self._start

    def _set(self) -> None:
        self._wake.set()

    async def _send_what_is_there(self) -> bool:
        """Send up to the end of the file; return whether no more can come."""
        while True:
            # The state first, the size after it: a final unit has no more than that.
            final = self._unit.is_final
            available = os.fstat(self._descriptor).st_size - self._position
            sent = await self._send_some(available) if available > 0 else 0
            if not sent:
                break
            self._position += sent
            if sent == available and not final:
                # Wait for an event. To look at once would find a few bytes more, again and again.
                return False
        if self._unit.released:
            return True
        self._check_file()
        if final and self._position < self._unit.status.stdout_size:
            raise ResultsEndedEarly(
                f"stdout of unit {self._unit.unit_id} ends at byte {self._position}"
                f" of {self._unit.status.stdout_size}"
            )
        return final

    async def _send_some(self, size: int) -> int:
        try:
            return await self._send(self._descriptor, self._position, size)
        except OSError as error:
            raise WorkError(f"cannot read the results: {error.strerror}") from error

    def _check_file(self) -> None:
        """Notice a stdout that was truncated or deleted, of which no more can come."""
        file = os.fstat(self._descriptor)
        if file.st_size < self._position and self._position > self._start:
            raise ResultsEndedEarly(
                f"stdout of unit {self._unit.unit_id} was truncated to {file.st_size} bytes"
                f" after {self._position} had been sent"
            )
        if file.st_nlink == 0:
            raise ResultsEndedEarly(f"stdout of unit {self._unit.unit_id} was deleted")
