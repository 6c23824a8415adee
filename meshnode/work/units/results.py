"""Results: the bytes of a file of a unit's output from any position, as they are written."""

import os
from collections.abc import Awaitable, Callable

import trio

from meshnode import files
from meshnode.errors import CommandError, WorkError
from meshnode.work.local.launcher.records import FILES, INDEX, STDERR, STDOUT
from meshnode.work.units.shortage import Pauses
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit
from meshnode.work.units.watcher import FileWatcher

SendFile = Callable[[int, int, int], Awaitable[int]]
"""Sends a part of a file: descriptor, position and size to the number of bytes that were sent; 0 at
the file's end. An OSError says that the file cannot be read."""

_REMEDIES = {
    STDERR: "its work type does not say `stderr: separate`, so errors are in its stdout",
    INDEX: "its work type says neither `timestamps: true` nor `stderr: separate`",
    FILES: "it was submitted without --output, or never started",
}
"""Why a unit may lack a file."""


class ResultsEndedEarly(WorkError):
    """A file was truncated, replaced or deleted before all of it was sent."""


def check_has(unit: Unit, stream: str) -> None:
    """Refuse a file of output that a unit does not have, and never will.

    Raises:
        CommandError: that is so. Of work elsewhere it is known once the other node has told, or
            the unit has ended.
    """
    is_known = unit.is_final or unit.status.is_command
    if is_known and unit.status.size_of(stream) is None:
        raise CommandError(f"work unit {unit.unit_id} has no {stream}: {_REMEDIES[stream]}")


async def stream_results(
    unit: Unit,
    store: UnitStore,
    start: int,
    watcher: FileWatcher,
    send: SendFile,
    stream: str = STDOUT,
) -> int:
    """Send a file of output from byte ``start`` until the unit is final and all is sent.

    Returns how many bytes were sent. A start beyond the end waits for the output to get there, and
    ends with the unit. A released unit ends its readers.

    Raises:
        ResultsEndedEarly: the file is no longer what it was.
        WorkError: the file cannot be read.
        Exception: whatever else ``send`` raises.
    """
    if stream == FILES:
        # It is made at the end, and replaces what is there.
        await unit.wait_final()
    while unit.status.size_of(stream) is None:
        if unit.is_final:
            return 0
        await unit.wait_changed(unit.version)
    try:
        descriptor = await _open(store, unit.unit_id, stream)
    except OSError as error:
        if unit.is_final and unit.status.size_of(stream) == 0:
            return 0
        raise WorkError(f"cannot read the results: {files.reason(error)}") from error
    try:
        return await _Reader(unit, store, stream, descriptor, start, send).run(watcher)
    finally:
        os.close(descriptor)


async def _open(store: UnitStore, unit_id: str, stream: str) -> int:
    """Open a file of output as soon as there is a descriptor for it. Raises OSError."""
    pauses = Pauses()
    while True:
        try:
            return await store.open_output(unit_id, stream)
        except OSError as error:
            if not files.is_passing(error):
                raise
        await pauses.take()


class _Reader:
    """One reader of one file."""

    def __init__(
        self,
        unit: Unit,
        store: UnitStore,
        stream: str,
        descriptor: int,
        start: int,
        send: SendFile,
    ) -> None:
        self._unit = unit
        self._path = store.output_path(unit.unit_id, stream)
        self._stream = stream
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
            end = os.fstat(self._descriptor).st_size
            if final:
                # A process that its command has left may go on writing, for ever.
                end = min(end, self._unit.status.size_of(self._stream) or 0)
            available = end - self._position
            sent = await self._send_some(available) if available > 0 else 0
            if not sent:
                break
            self._position += sent
            if self._unit.figures is not None:
                self._unit.figures.result_bytes += sent
            if sent == available and not final:
                # Wait for an event. To look at once would find a few bytes more, again and again.
                return False
        if self._unit.released:
            return True
        self._check_file()
        size = self._unit.status.size_of(self._stream) or 0
        if final and self._position < size:
            raise ResultsEndedEarly(f"{self._name} ends at byte {self._position} of {size}")
        return final

    async def _send_some(self, size: int) -> int:
        try:
            return await self._send(self._descriptor, self._position, size)
        except OSError as error:
            raise WorkError(f"cannot read the results: {error.strerror}") from error

    def _check_file(self) -> None:
        """Notice a file that was truncated or deleted, of which no more can come."""
        file = os.fstat(self._descriptor)
        if file.st_size < self._position and self._position > self._start:
            raise ResultsEndedEarly(
                f"{self._name} was truncated to {file.st_size} bytes"
                f" after {self._position} had been sent"
            )
        if file.st_nlink == 0:
            raise ResultsEndedEarly(f"{self._name} was deleted")

    @property
    def _name(self) -> str:
        return f"{self._stream} of unit {self._unit.unit_id}"
