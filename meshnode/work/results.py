"""Results: the bytes of a unit's stdout from any position, as they are written."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from meshnode.errors import WorkError
from meshnode.work.growth import Growth
from meshnode.work.unit import Unit

CHUNK = 256 * 1024
"""Bytes read and sent at once: all that one reader costs in memory, however slow it is."""

INLINE = 64 * 1024
"""Up to so many bytes are read without a thread: just written, they are in the page cache, and the
hop would cost more than the copy. Longer runs may have to come from the disk."""

Send = Callable[[bytes], Awaitable[None]]


class ResultsEndedEarly(WorkError):
    """A stdout was truncated, replaced or deleted while its unit still had bytes to show."""


async def stream_results(unit: Unit, path: Path, start: int, growth: Growth, send: Send) -> int:
    """Send stdout from byte ``start`` until the unit is final and all is sent; return the count.

    A start beyond the end waits for the output to get there, and ends with the unit. A released
    unit ends its readers.

    Raises:
        ResultsEndedEarly: the file is no longer what it was.
        WorkError: the file cannot be read.
        Exception: whatever ``send`` raises.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if unit.is_final and unit.status.stdout_size == 0:
            return 0
        raise WorkError(f"cannot read the results: {error.strerror}") from error
    try:
        return await _Reader(unit, path, descriptor, start, send).run(growth)
    finally:
        os.close(descriptor)


class _Reader:
    """One reader of one stdout."""

    def __init__(self, unit: Unit, path: Path, descriptor: int, start: int, send: Send) -> None:
        self._unit = unit
        self._path = path
        self._descriptor = descriptor
        self._start = start
        self._position = start
        self._send = send
        self._wake = trio.Event()

    async def run(self, growth: Growth) -> int:
        # Waking is asked for before the first look, so that nothing falls between the two.
        with growth.watch(self._path, self._set):
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
            # The state first: what is in the file after that is all that a final unit has.
            final = self._unit.is_final
            chunk = await self._read()
            if not chunk:
                break
            await self._send(chunk)
            self._position += len(chunk)
        if self._unit.released:
            return True
        self._check_file()
        if final and self._position < self._unit.status.stdout_size:
            raise ResultsEndedEarly(
                f"stdout of unit {self._unit.unit_id} ends at byte {self._position}"
                f" of {self._unit.status.stdout_size}"
            )
        return final

    async def _read(self) -> bytes:
        available = os.fstat(self._descriptor).st_size - self._position
        if available <= 0:
            return b""
        try:
            if available <= INLINE:
                return os.pread(self._descriptor, available, self._position)
            return await trio.to_thread.run_sync(os.pread, self._descriptor, CHUNK, self._position)
        except OSError as error:
            raise WorkError(f"cannot read the results: {error.strerror}") from error

    def _check_file(self) -> None:
        """Notice a stdout that was truncated or deleted: waiting for it would be for ever."""
        file = os.fstat(self._descriptor)
        if file.st_size < self._position and self._position > self._start:
            raise ResultsEndedEarly(
                f"stdout of unit {self._unit.unit_id} was truncated to {file.st_size} bytes"
                f" after {self._position} had been sent"
            )
        if file.st_nlink == 0:
            raise ResultsEndedEarly(f"stdout of unit {self._unit.unit_id} was deleted")
