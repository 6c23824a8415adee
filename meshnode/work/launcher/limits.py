"""What a command may not exceed: the time it runs and the bytes it prints."""

from __future__ import annotations

import fcntl
import os
import signal
import time

LONGEST_WAIT_SECONDS = 3600.0
"""Longest single wait: the system call refuses years; after it, the rest is waited for."""

LOOK_PAUSE_SECONDS = 0.05
"""Pause after a look at the size of stdout. The kernel tells of every single write, and a command
that writes without end must not have its supervisor do nothing else; at a gigabyte a second this
lets some 50 MB through beyond the limit."""


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
        self._stdout = -1
        self._watched = -1

    def begin(self, directory: str, stdout: int) -> bool:
        """Count from now; ``stdout`` is a descriptor of the file in ``directory``.

        Returns:
            Whether there is any limit.
        """
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout
        if self._max_output is not None:
            self._stdout = stdout
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGIO,))
            # The kernel's oldest way to tell of changes: SIGIO for each write to a file of the
            # directory. It needs no library, and it wakes the one wait that there is.
            self._watched = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.fcntl(self._watched, fcntl.F_NOTIFY, fcntl.DN_MODIFY | fcntl.DN_MULTISHOT)
            # What was written before counts too.
            os.kill(os.getpid(), signal.SIGIO)
        return self._deadline is not None or self._watched >= 0

    def end(self) -> None:
        """Stop looking."""
        if self._watched >= 0:
            os.close(self._watched)

    def wait(self, signals: tuple[signal.Signals, ...]) -> signal.struct_siginfo | None:
        """Wait for one of ``signals``, or until a limit should be looked at; None is the latter."""
        if self._deadline is None and self._watched < 0:
            return signal.sigwaitinfo(signals)
        if self._watched >= 0:
            seconds = self._left(LONGEST_WAIT_SECONDS)
            info = signal.sigtimedwait((*signals, signal.SIGIO), seconds)
            if info is not None and info.si_signo == signal.SIGIO:
                info = signal.sigtimedwait(signals, self._left(LOOK_PAUSE_SECONDS))
        else:
            info = signal.sigtimedwait(signals, self._left(LONGEST_WAIT_SECONDS))
        return info

    def _left(self, most: float) -> float:
        if self._deadline is None:
            return most
        return max(0.0, min(most, self._deadline - time.monotonic()))

    def broken(self) -> str | None:
        """Return which limit is exceeded, as the unit's detail."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"timed out after {self._timeout:g} s"
        if self._max_output is not None and os.fstat(self._stdout).st_size > self._max_output:
            return f"stopped: it printed more than {self._max_output} bytes"
        return None
