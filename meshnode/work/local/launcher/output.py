"""The output of a command: the files that it goes to, and when each piece of it came.

An ordinary command writes to its ``stdout`` itself, errors included, and nobody stands in between
(:class:`Output`). What goes to several files, has an index or a limit comes through pipes, and the
supervisor writes what comes out of them (:class:`PipedOutput`):

* byte for byte, and not a byte more than allowed, however fast the command is and however long it
  lives on. A limit of the size of files (RLIMIT_FSIZE) would be as exact, but it is one for every
  file that the command writes;
* a piece first, and then its record in the index. Whatever is killed, the index says nothing of
  bytes that are not in their file, but for a machine that loses power.

What a command still holds in a pipe when its supervisor is killed is lost, and its next write fails
(SIGPIPE). The unit is then lost too, and says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time

from meshnode import files
from meshnode.work.local.launcher.limits import LONGEST_WAIT_SECONDS
from meshnode.work.local.launcher.records import INDEX, STDERR, STDOUT
from meshnode.work.local.launcher.wire import OutputPlan

PIECE_BYTES = 64 * 1024
"""Bytes read at once: as many as a pipe holds."""

PIECES_AT_ONCE = 16
"""Pieces moved before signals are looked at again."""

DROP_PAUSE_SECONDS = 0.01
"""Pause between two reads of what a command prints beyond its limit. It is read, or a command that
prints while it cleans up would block until it is killed; but slowly, or an endless output would
keep a core busy until then."""

GATHER_SECONDS = 0.001
"""Seconds for which small pieces gather where there are many: an index has some 1,000 records a
second at most, besides one for each full pipe."""

AT_ONCE = 64
"""Pieces that are read as soon as they come, before others gather: the order of results and errors
is exact for what a command prints now and then, which is nearly always."""

MOST_LAST_TAKES = 64
"""Takes at the end, of a mebibyte a stream: more than any pipe holds. What is left to go on might
print for ever."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

_Signals = tuple[signal.Signals, ...]


def make_output(unit_dir: str, plan: OutputPlan | None) -> Output:
    """Return what sees to the output of a unit; without a plan that of an ordinary command."""
    return Output(unit_dir) if plan is None else PipedOutput(unit_dir, plan)


class Output:
    """What an ordinary command prints: all of it goes to one file, without a detour.

    Args:
        unit_dir: absolute path of the unit's directory.

    Attributes:
        files: the unit's files of output, by name, as descriptors. The index is the last.
        overflow: why the command is to be stopped for what it prints, once that is so.
    """

    def __init__(self, unit_dir: str) -> None:
        self._dir = unit_dir
        self.files: dict[str, int] = {}
        self.overflow: str | None = None

    def open(self) -> tuple[int, int]:
        """Return what the command has as its stdout and stderr.

        Raises:
            NotOurs: something else is in the place of a file.
            OSError: no descriptor is left, or the file cannot be opened.
        """
        stdout = self._open(STDOUT)
        return stdout, stdout

    def _open(self, name: str) -> int:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
        descriptor = self.files[name] = files.open_file(f"{self._dir}/{name}", flags)
        # The command gets it as it expects one: it blocks.
        os.set_blocking(descriptor, True)
        return descriptor

    def begin(self) -> None:
        """Let go of what only the command needs, which has it by now."""

    def wait_for(self, signals: _Signals, seconds: float | None) -> signal.struct_siginfo | None:
        """Wait for one of ``signals``, for ``seconds`` at most, and take what is printed.

        None says that none came; it may be early.
        """
        if seconds is None:
            return signal.sigwaitinfo(signals)
        return signal.sigtimedwait(signals, seconds)

    def finish(self) -> None:
        """Take the rest: nobody is left who could print."""

    def close(self) -> None:
        """Let go of everything."""
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files.clear()


class PipedOutput(Output):
    """What a command prints through pipes.

    Args:
        unit_dir: absolute path of the unit's directory.
        plan: what the work type asks.
    """

    def __init__(self, unit_dir: str, plan: OutputPlan) -> None:
        super().__init__(unit_dir)
        self._plan = plan
        self._pipes: list[_Pipe] = []
        self._left = 0
        """Bytes that may still be printed, where there is a limit."""
        self._has_more = False
        """Whether a pipe may hold something of which no signal will tell."""
        self._credit = float(AT_ONCE)
        """Small pieces that may be read as soon as they come; grows with time."""
        self._credited = time.monotonic()

    def open(self) -> tuple[int, int]:
        """Return the ends of pipes that the command prints to. Raises as :meth:`Output.open`."""
        streams = (STDOUT, STDERR) if self._plan.separate else (STDOUT,)
        for name in streams:
            self._open(name)
        if self._plan.indexed:
            self._open(INDEX)
        if self._plan.most is not None:
            there = sum(os.fstat(self.files[name]).st_size for name in streams)
            self._left = max(0, self._plan.most - there)
        # The kernel's oldest way to tell of input: SIGIO. It wakes the one wait that there is.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGIO,))
        for number, name in enumerate(streams):
            self._pipes.append(_Pipe(number, self.files[name]))
        return self._pipes[0].entry, self._pipes[-1].entry

    def begin(self) -> None:
        """Close this process's ends to print to: the pipes end with the command's."""
        for pipe in self._pipes:
            pipe.close_entry()

    def close(self) -> None:
        """Let go of everything."""
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()
        super().close()

    def wait_for(self, signals: _Signals, seconds: float | None) -> signal.struct_siginfo | None:
        """Wait as :meth:`Output.wait_for` does, and bring what is printed to the files."""
        seconds = LONGEST_WAIT_SECONDS if seconds is None else seconds
        if self.overflow is not None:
            info = signal.sigtimedwait(signals, min(seconds, DROP_PAUSE_SECONDS))
        elif self._has_more:
            info = signal.sigtimedwait((*signals, signal.SIGIO), 0)
        elif self._gathers():
            # What is printed meanwhile is told afterwards: the signal waits.
            info = signal.sigtimedwait(signals, min(seconds, GATHER_SECONDS))
        else:
            info = signal.sigtimedwait((*signals, signal.SIGIO), seconds)
        self._take()
        return None if info is None or info.si_signo == signal.SIGIO else info

    def finish(self) -> None:
        """Take the rest: nobody is left who could print, or only what is to go on."""
        for _ in range(MOST_LAST_TAKES):
            self._take()
            if not self._has_more:
                return

    def _gathers(self) -> bool:
        """Whether so many pieces came that those to come are to wait for each other."""
        if not self._plan.indexed:
            return False
        now = time.monotonic()
        self._credit = min(AT_ONCE, self._credit + (now - self._credited) / GATHER_SECONDS)
        self._credited = now
        return self._credit < 1

    def _take(self) -> None:
        """Bring some of what was printed to the files."""
        for _ in range(1 if self.overflow is not None else PIECES_AT_ONCE):
            self._has_more = False
            for pipe in self._pipes:
                piece = pipe.read()
                # A shorter piece has emptied the pipe, and a signal tells of what comes after it.
                self._has_more |= len(piece) == PIECE_BYTES
                if piece and self.overflow is None:
                    self._keep(pipe, piece)
            if not self._has_more:
                return

    def _keep(self, pipe: _Pipe, piece: bytes) -> None:
        """Write what is allowed of a piece, and when it came."""
        most = self._plan.most
        allowed = piece if most is None else piece[: self._left]
        before = pipe.end
        try:
            pipe.write(allowed)
        except OSError as error:
            self._stop(error)
        self._left -= pipe.end - before
        if self._plan.indexed and pipe.end > before:
            self._note(pipe)
            self._credit -= len(piece) < PIECE_BYTES
        if len(allowed) < len(piece) and self.overflow is None:
            self.overflow = f"stopped: it printed more than {most} bytes"

    def _note(self, pipe: _Pipe) -> None:
        """Add to the index when the last piece of a pipe came."""
        stamp = time.time_ns() // 1000 << 1 | pipe.number
        record = stamp.to_bytes(8, "little") + pipe.end.to_bytes(8, "little")
        try:
            # A part of it is ignored by whoever reads, and nothing comes after it.
            if os.write(self.files[INDEX], record) < len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        # A command that wrote to the file itself would see this error.
        why = "no space left on the disk of its output" if error.errno in _FULL else str(error)
        self.overflow = f"stopped: {why}"


class _Pipe:
    """A pipe that the command prints to, and the file that its output goes to.

    Attributes:
        number: of the stream in an index.
        entry: the descriptor to print to.
        end: the bytes of the file.
    """

    __slots__ = ("_exit", "_file", "end", "entry", "number")

    def __init__(self, number: int, file: int) -> None:
        self.number = number
        self.end = os.fstat(file).st_size
        self._file = file
        self._exit, self.entry = os.pipe()
        fcntl.fcntl(self._exit, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self._exit, fcntl.F_GETFL)
        fcntl.fcntl(self._exit, fcntl.F_SETFL, flags | os.O_NONBLOCK | os.O_ASYNC)

    def read(self) -> bytes:
        """Return what was printed; nothing if there is nothing now."""
        try:
            return os.read(self._exit, PIECE_BYTES)
        except BlockingIOError:
            return b""

    def write(self, data: bytes) -> None:
        """Append to the file; ``end`` counts what was written. Raises OSError."""
        left = memoryview(data)
        while left:
            written = os.write(self._file, left)
            self.end += written
            left = left[written:]

    def close_entry(self) -> None:
        """Close the end to print to."""
        if self.entry >= 0:
            os.close(self.entry)
            self.entry = -1

    def close(self) -> None:
        """Close both ends."""
        self.close_entry()
        os.close(self._exit)
