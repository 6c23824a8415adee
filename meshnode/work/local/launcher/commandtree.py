"""A unit's processes: the command and all that descends from it, reaped and ended.

The supervisor is a subreaper, so orphans of the tree become its children: a supervisor without
children has no tree.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from meshnode import files
from meshnode.work.local.launcher import tree
from meshnode.work.local.launcher.limits import LONGEST_WAIT_SECONDS

KILL_RETRY_SECONDS = 1.0
"""Seconds between looks for survivors of SIGKILL. Each end wakes the supervisor at once; this
bounds how long a process goes on that a look at /proc has missed."""

LACK_RETRY_SECONDS = 0.1
"""Seconds between looks at the tree of processes while the machine lacks descriptors or memory."""

WaitFor = Callable[[tuple[signal.Signals, ...], float], object]
"""Waits for one of these signals, for so many seconds at most, and takes what is printed."""


class CommandTree:
    """The processes of one unit, as their supervisor sees them.

    Args:
        wait_for: what waits while processes are given time to end.

    Attributes:
        pid: the command's process, 0 before there is one.
        end: wait status of the command, once it has ended.
    """

    def __init__(self, wait_for: WaitFor) -> None:
        self.pid = 0
        self.end: int | None = None
        self._wait_for = wait_for

    def reap(self) -> bool:
        """Collect the dead children; return whether no process of the tree is left."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.pid:
                self.end = wait_status

    def end_all(self, first: int, grace: float) -> int:
        """Signal every process, after ``grace`` seconds kill what is left; return when none is.

        Returns how many there were.
        """
        count = self._insist(lambda: tree.signal_own_descendants(first))
        deadline = time.monotonic() + grace
        while not self.reap():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._wait_for((signal.SIGCHLD,), min(left, LONGEST_WAIT_SECONDS))
        while not self.reap():
            self._insist(tree.kill_own_descendants)
            self._wait_for((signal.SIGCHLD,), KILL_RETRY_SECONDS)
        return count

    def _insist(self, act: Callable[[], int]) -> int:
        """Do something to the tree; try again while the machine lacks what that takes."""
        while True:
            try:
                return act()
            except OSError as error:
                if not files.is_passing(error):
                    raise
                self._wait_for((signal.SIGCHLD,), LACK_RETRY_SECONDS)
