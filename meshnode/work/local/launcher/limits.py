"""The limit of the time that a command runs."""

from __future__ import annotations

import time

LONGEST_WAIT_SECONDS = 3600.0
"""Longest single wait; the system call refuses years, so a longer one is divided."""

TIMED_OUT = "timed out after"
"""How the detail begins of a command that has used up its time."""


class TimeLimit:
    """The time that one command may run; None is the usual case and costs nothing.

    Args:
        timeout: seconds that the command may run.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._deadline: float | None = None

    def begin(self) -> None:
        """Count from now."""
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout

    def left(self) -> float | None:
        """Return the seconds until somebody should look again, None where there is no limit."""
        if self._deadline is None:
            return None
        return max(0.0, min(LONGEST_WAIT_SECONDS, self._deadline - time.monotonic()))

    def broken(self) -> str | None:
        """Return why the command is to be stopped, if it is."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"{TIMED_OUT} {self._timeout:g} s"
        return None
