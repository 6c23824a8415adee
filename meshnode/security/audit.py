"""The audit log: a line of JSON for each thing that was asked of this node, or became of it.

A line is made where something happens, and gets its time and its place in the order there. A task
writes what has gathered, in a thread: nothing of the node waits for the disk, except for what is
refused as long as it cannot be written (:meth:`AuditLog.require`).

Lines wait in memory while the file takes none. There is room for MAX_WAITING bytes of them; those
beyond are counted, and the first line that is written again says how many are missing.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

import trio

from meshnode import files
from meshnode.config import AuditLogDirective
from meshnode.errors import NotAudited
from meshnode.logs import subject_logger
from meshnode.resources import NoThread, in_thread
from meshnode.security.auditfile import AuditFile, Written
from meshnode.security.auditlines import AuditEvent, Kind, encode, units_ended
from meshnode.security.refusallimit import RefusalLimit

MAX_WAITING = 1 << 20
"""Bytes of lines that wait for the disk: some 3,000 lines."""

RETRY = 1.0
"""Seconds until a file is tried again that took no line. Nothing announces room on a disk."""

CLOSE_TIMEOUT = 5.0
"""Seconds in which a node that stops must have written its last lines."""


@dataclass(slots=True, eq=False)
class _Line:
    """A line that is not in its file yet."""

    data: bytes
    path: Path
    done: trio.Event | None = None
    """Set when it is on disk, or was taken back; None if nobody waits for that."""
    is_written: bool = False


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier run of the node has told."""

    until: datetime
    """When it wrote last."""
    ended: frozenset[str]
    """Units of whose ends it told last."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Where the lines go, and whether work is refused while they cannot."""

    path: Path
    required: bool = False
    earlier: Earlier | None = field(default=None, compare=False)
    """What the file told when these settings were made, if that was looked at."""


def checked_settings(directive: AuditLogDirective | None) -> AuditSettings | None:
    """Return what a configuration says of the audit log, once its file can be used. Blocks.

    Raises:
        ConfigFaults: it cannot.
    """
    if directive is None:
        return None
    try:
        tail = AuditFile(directive.filename).check()
    except OSError as error:
        text = f"{directive.filename} cannot be used: {error.strerror or error}"
        raise directive.unavailable("filename", text) from error
    earlier = Earlier(datetime.fromtimestamp(tail.written, UTC), units_ended(tail.data))
    return AuditSettings(directive.filename, directive.required, earlier)


def settings_of(directive: AuditLogDirective | None) -> AuditSettings | None:
    """Return what a configuration says of the audit log."""
    return None if directive is None else AuditSettings(directive.filename, directive.required)


def _wall_clock() -> datetime:
    return datetime.now(UTC)


class AuditLog:
    """The audit log of a node, if it has one. Lines are written within :meth:`writing`."""

    def __init__(
        self,
        node: str,
        now: Callable[[], datetime] = _wall_clock,
        make_file: Callable[[Path], AuditFile] = AuditFile,
    ) -> None:
        """``node`` is our own ID, which stands in each line."""
        self._node = node
        self._now = now
        self._make_file = make_file
        self._settings: AuditSettings | None = None
        self._file: AuditFile | None = None
        self._lines: deque[_Line] = deque()
        self._size = 0
        """Bytes of them."""
        self._lost = 0
        self.lost_lines = 0
        """Lines that were lost since the start."""
        self._fault = ""
        """Why the file took no line the last time; empty if it did."""
        self._wakes = trio.Event()
        self._is_urgent = False
        """Whether somebody waits for a line, so that a file with a fault is tried at once."""
        self._reopens = False
        self._limit = RefusalLimit()
        self._one_thread = trio.CapacityLimiter(1)
        """Its own: those of others may all be waiting for a name server, or another disk."""

    @property
    def is_on(self) -> bool:
        """Whether anything is to be recorded: whoever makes events asks this first."""
        return self._settings is not None

    @property
    def waiting_lines(self) -> int:
        """How many lines wait for the disk."""
        return len(self._lines)

    @property
    def earlier(self) -> Earlier | None:
        """What an earlier run of the node has told, as far as that is known."""
        return None if self._settings is None else self._settings.earlier

    def apply(self, settings: AuditSettings | None) -> bool:
        """Write by these settings from now on; return whether they are others."""
        old = self._settings
        if settings == old:
            return False
        is_moved = old is None or settings is None or settings.path != old.path
        if is_moved:
            self.report(all_of_them=True)
            self.record(AuditEvent(Kind.OFF))
        self._settings = settings
        if settings is not None and self._fault:
            # The old file may never take them.
            for line in self._lines:
                line.path = settings.path
        if is_moved:
            self.record(AuditEvent(Kind.ON))
        self._wake()
        return True

    def record(self, event: AuditEvent) -> None:
        """Have an event written, after all that were recorded before; nothing waits for it."""
        if self._settings is None:
            return
        if event.kind is Kind.REFUSAL:
            self.report()
            if not self._limit.admits(event.by, self._now().timestamp()):
                return
        self._add(self._settings, event)

    def report(self, *, all_of_them: bool = False) -> None:
        """Write how many refusals were left out in the minutes that are over.

        Each refusal calls it, and the node does once a minute, in case no further one comes.
        """
        if self._settings is None:
            return
        for by, lines in self._limit.over(self._now().timestamp(), all_of_them=all_of_them):
            self._add(self._settings, AuditEvent(Kind.REFUSALS, by, lines=lines))

    async def require(self, event: AuditEvent) -> None:
        """Record an event, and return once it is on disk where that is required.

        Raises:
            NotAudited: it cannot be written now, and is not going to be.
        """
        settings = self._settings
        if settings is None or not settings.required:
            self.record(event)
            return
        line = self._add(settings, event, done=trio.Event())
        if line is not None and line.done is not None:
            self._is_urgent = True
            self._wake()
            await line.done.wait()
        if line is None or not line.is_written:
            reason = self._fault or f"{MAX_WAITING >> 20} MiB of lines wait for the disk"
            raise NotAudited(
                f"this node takes no work while its audit log cannot be written ({reason}); "
                "try again when it can"
            )

    def reopen(self) -> None:
        """Write to what has the file's name from now on: the old one was renamed."""
        if self._settings is not None or self._lines:
            self._reopens = True
            self._wake()

    def warnings(self) -> Iterator[str]:
        """Return what a person should look after, one line each."""
        if self._fault and self._settings is not None:
            refused = "; new work is refused" if self._settings.required else ""
            yield (
                f"the audit log {self._settings.path} cannot be written: {self._fault} "
                f"({len(self._lines)} lines wait, {self._lost} are lost){refused}"
            )

    # --- what waits -----------------------------------------------------------------------------

    def _add(
        self, settings: AuditSettings, event: AuditEvent, done: trio.Event | None = None
    ) -> _Line | None:
        """Put a line in the queue; None if there is no room."""
        line = _Line(encode(event, self._node, self._now()), settings.path, done)
        # Once some are missing, the next ones are as well until there is room for many: the log
        # would otherwise have a hole at every other line.
        most = MAX_WAITING // 2 if self._lost else MAX_WAITING
        if self._size + len(line.data) > most:
            # Of a line that somebody waits for, the refusal is the news, and it is told.
            self._lost += done is None
            self.lost_lines += done is None
            return None
        if self._lost:
            self._tell_lost(settings)
        self._append(line)
        return line

    def _append(self, line: _Line) -> None:
        self._lines.append(line)
        self._size += len(line.data)
        self._wake()

    def _tell_lost(self, settings: AuditSettings) -> None:
        """Let a line stand in the place of those that are missing. It may be one too many."""
        event = AuditEvent(Kind.LOST, lines=self._lost)
        self._lost = 0
        self._append(_Line(encode(event, self._node, self._now()), settings.path))

    def _wake(self) -> None:
        self._wakes.set()

    # --- the writer -----------------------------------------------------------------------------

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write while the context lasts, and what is left at its end."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self.apply(None)
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                while self._lines and await self._write_some():
                    pass
                await self._finish()

    async def _run(self) -> None:
        while True:
            await self._wakes.wait()
            self._wakes = trio.Event()
            if self._lines or self._reopens:
                is_well = await self._write_some()
                if not is_well:
                    await self._wait_to_try_again()
                if self._lines:
                    self._wake()
            if not (self._lines or self.is_on):
                await self._finish()

    async def _wait_to_try_again(self) -> None:
        with trio.move_on_after(RETRY):
            while not (self._is_urgent or self._reopens):
                await self._wakes.wait()
                self._wakes = trio.Event()
        self._wake()

    async def _write_some(self) -> bool:
        """Write the lines at the head of the queue that go to one file; return whether it did."""
        self._is_urgent = False
        path = self._lines[0].path if self._lines else None
        batch = list(takewhile(lambda line: line.path == path, self._lines))
        reopens, self._reopens = self._reopens, False
        written = await self._in_thread(batch, path, reopens=reopens)
        for _ in range(written.lines):
            line = self._lines.popleft()
            self._size -= len(line.data)
            line.is_written = written.is_durable
            if line.done is not None:
                line.done.set()
        if written.error is not None:
            self._note_fault(written.error)
        elif batch:
            self._note_well()
        return written.error is None

    async def _in_thread(self, batch: list[_Line], path: Path | None, *, reopens: bool) -> Written:
        sync = any(line.done is not None for line in batch)
        data = [line.data for line in batch]

        def write() -> Written:
            file = self._file
            if file is not None and (reopens or file.path != path):
                file.close()
            if path is None:
                return Written(0)
            if file is None or file.path != path:
                self._file = file = self._make_file(path)
            return file.write(data, sync=sync)

        try:
            return await in_thread(write, limiter=self._one_thread)
        except NoThread as error:
            return Written(0, error)

    def _note_fault(self, error: OSError) -> None:
        """Tell it once, and take back the lines that somebody waits for: it is not done."""
        before, self._fault = self._fault, files.reason(error)
        if self._fault != before:
            text = "%s cannot be written: %s; lines wait in memory"
            path = self._lines[0].path if self._lines else ""
            subject_logger("audit").warning(text, path, self._fault)
        kept = deque(line for line in self._lines if line.done is None)
        given_up = [line for line in self._lines if line.done is not None]
        self._lines, self._size = kept, sum(len(line.data) for line in kept)
        for line in given_up:
            assert line.done is not None
            line.done.set()

    def _note_well(self) -> None:
        if self._fault:
            lost = f", {self._lost} lines are lost" if self._lost else ""
            subject_logger("audit").info("written again%s", lost)
            self._fault = ""
        if self._lost and self._settings is not None and not self._lines:
            self._tell_lost(self._settings)

    async def _finish(self) -> None:
        """Close the file. Lines that no file takes any more are lost."""
        if self._lines or self._lost:
            text = "%d lines are lost: %s"
            lost = len(self._lines) + self._lost
            subject_logger("audit").error(text, lost, self._fault or "the disk took too long")
            self.lost_lines += len(self._lines)
            self._lines.clear()
            self._size = self._lost = 0
        file, self._file = self._file, None
        self._fault = ""
        if file is not None:
            file.close()
