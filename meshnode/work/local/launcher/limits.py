"""The limits of a command: the time that it runs, and the bytes that it prints.

The output of a command with a limit goes through a pipe, and its supervisor writes what comes out
of that to stdout: not a byte more than allowed is ever on the disk, however fast the command is and
however long it lives on. A limit of the size of files (RLIMIT_FSIZE) would be as exact without a
pipe, but it is one for every file that the command writes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time

LONGEST_WAIT_SECONDS = 3600.0
"""Longest single wait; the system call refuses years, so a longer one is divided."""

PIECE_BYTES = 64 * 1024
"""Bytes read at once: as many as a pipe holds."""

PIECES_AT_ONCE = 16
"""Pieces moved before signals are looked at again."""

DROP_PAUSE_SECONDS = 0.01
"""Pause between two reads of what a command prints beyond its limit. It is read, or a command that
prints while it cleans up would block until it is killed; but slowly, or an endless output would
keep a core busy until then."""

TIMED_OUT = "timed out after"
"""How the detail begins of a command that has used up its time."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Limits:
    """The limits of one command; both None is the usual case and costs nothing.

    Args:
        timeout: seconds that the command may run.
        max_output: bytes that it may write to stdout.
    """

    def __init__(self, timeout: float | None, max_output: int | None) -> None:
        self._timeout = timeout
        self._max_output = max_output
        self._deadline: float | None = None
        self._stdout = self._pipe = self._entry = -1
        self._left = 0
        """Bytes that may still be printed."""
        self._has_more = False
        """Whether the pipe may hold something of which no signal will tell."""
        self._overflow: str | None = None

    def open(self, stdout: int) -> int:
        """Return the descriptor that the command prints to; ``stdout`` is the file.

        Raises:
            OSError: none is left for the pipe.
        """
        if self._max_output is None:
            return stdout
        self._stdout = stdout
        self._left = max(0, self._max_output - os.fstat(stdout).st_size)
        self._pipe, self._entry = os.pipe()
        # The kernel's oldest way to tell of input: SIGIO. It wakes the one wait that there is.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGIO,))
        fcntl.fcntl(self._pipe, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self._pipe, fcntl.F_GETFL)
        fcntl.fcntl(self._pipe, fcntl.F_SETFL, flags | os.O_NONBLOCK | os.O_ASYNC)
        self._has_more = True
        return self._entry

    def begin(self) -> bool:
        """Count from now, when the command has its descriptors; return whether there is a limit."""
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout
        if self._entry >= 0:
            os.close(self._entry)
            self._entry = -1
        return self._deadline is not None or self._pipe >= 0

    def end(self) -> None:
        """Let go of everything."""
        for fd in (self._pipe, self._entry):
            if fd >= 0:
                os.close(fd)
        self._pipe = self._entry = -1

    def wait(self, signals: tuple[signal.Signals, ...]) -> signal.struct_siginfo | None:
        """Wait for one of ``signals``, or until a limit should be looked at; None is the latter."""
        if self._pipe < 0 and self._deadline is None:
            return signal.sigwaitinfo(signals)
        return self.wait_for(signals, self._until_deadline())

    def wait_for(
        self, signals: tuple[signal.Signals, ...], seconds: float
    ) -> signal.struct_siginfo | None:
        """Wait for one of ``signals``, for ``seconds`` at most, and take what is printed.

        None says that none came; it may be early.
        """
        if self._pipe < 0:
            return signal.sigtimedwait(signals, seconds)
        if self._overflow is not None:
            info = signal.sigtimedwait(signals, min(seconds, DROP_PAUSE_SECONDS))
        else:
            info = signal.sigtimedwait((*signals, signal.SIGIO), 0 if self._has_more else seconds)
        self._take()
        return None if info is None or info.si_signo == signal.SIGIO else info

    def _until_deadline(self) -> float:
        if self._deadline is None:
            return LONGEST_WAIT_SECONDS
        return max(0.0, min(LONGEST_WAIT_SECONDS, self._deadline - time.monotonic()))

    def broken(self) -> str | None:
        """Return which limit is exceeded, as the unit's detail."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"{TIMED_OUT} {self._timeout:g} s"
        return self._overflow

    def finish(self) -> str | None:
        """Take the rest, when nobody is left who could print; return what was too much of it."""
        while self._pipe >= 0 and self._take():
            continue
        return self._overflow

    def _take(self) -> bool:
        """Bring some of what was printed to stdout; return whether there may be more."""
        for _ in range(1 if self._overflow is not None else PIECES_AT_ONCE):
            try:
                piece = os.read(self._pipe, PIECE_BYTES)
            except BlockingIOError:
                piece = b""
            if not piece:
                self._has_more = False
                return False
            self._keep(piece)
        self._has_more = True
        return True

    def _keep(self, piece: bytes) -> None:
        """Write what is allowed; drop the rest."""
        if self._overflow is not None:
            return
        fits = self._left
        allowed = memoryview(piece)[:fits]
        try:
            while allowed:
                written = os.write(self._stdout, allowed)
                self._left -= written
                allowed = allowed[written:]
        except OSError as error:
            # A command that wrote to the file itself would see this error.
            why = "no space left on the disk of its output" if error.errno in _FULL else str(error)
            self._overflow = f"stopped: {why}"
            return
        if len(piece) > fits:
            self._overflow = f"stopped: it printed more than {self._max_output} bytes"
