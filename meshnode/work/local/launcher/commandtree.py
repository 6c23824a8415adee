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
from meshnode.work.local.launcher.wire import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnode.work.local.launcher.isolation import Init
    from meshnode.work.local.launcher.leaving import Leaving

KILL_RETRY_SECONDS = 1.0
"""Seconds between looks for survivors of SIGKILL. Each end wakes the supervisor at once; this
bounds how long a process goes on that a look at /proc has missed."""

CONTAINER_SECONDS = 3.0
"""Seconds for what started a container to clean up after it, once that was killed: podman removes
the container within some 0.3 s, and would take a killed one for running for ever. Less than the
node waits for a cancel beyond the grace time."""

LACK_RETRY_SECONDS = 0.1
"""Seconds between looks at the tree of processes while the machine lacks descriptors or memory."""

WaitFor = Callable[[tuple[signal.Signals, ...], float], object]
"""Waits for one of these signals, for so many seconds at most, and takes what is printed."""


class PlainRun:
    """How the processes of a unit are made, bounded, counted and ended: here, they just descend.

    ``limitedrun.LimitedRun`` is for a unit with limits.

    Attributes:
        is_reusable: whether this process can make those of another unit as well.
    """

    WAKING: tuple[signal.Signals, ...] = (signal.SIGCHLD, signal.SIGTERM)
    """What a supervisor waits for."""

    def __init__(self) -> None:
        self.is_reusable = True

    def make(self) -> None:
        """Make what the processes will be in. Raises CannotExecute."""

    @property
    def rlimits(self) -> dict[int, int]:
        """What a command that is forked must set of itself: soft and hard, by the kind of limit."""
        return {}

    def spawner(self, make: Callable[..., int] | None = None) -> Callable[..., int] | None:
        """Return what makes the command's process as ``os.posix_spawn`` does; None is that.

        ``make`` is what would, without limits, and sets ``rlimits`` itself.
        """
        return make

    def watch(self) -> None:
        """Have a signal of WAKING tell when :meth:`broken` changes."""

    def broken(self) -> Record | None:
        """Return which limit was exceeded, as the record says it."""
        return None

    def send_signal(self, signum: int, choose: tree.Choose | None) -> list[int]:
        """Signal each process that is not let alone once; return their PIDs."""
        found = tree.Look(choose).ended
        tree.signal_all(found, signum)
        return [process.pid for process in found]

    def kill(self, choose: tree.Choose | None) -> int:
        """Kill all that are not let alone; return how many there were."""
        return tree.kill_own_descendants(choose)

    def end(self) -> Record:
        """Leave nothing behind, when no process is left; return what is recorded of the run."""
        return {}


class CommandTree:
    """The processes of one unit, as their supervisor sees them.

    Args:
        wait_for: what waits while processes are given time to end.
        run: what signals and kills the processes of the unit.
        leave: which processes go on after the unit's end; None is the usual case, none of them.

    Attributes:
        pid: the command's process or the init above it, 0 before there is one.
        init: that init, where the command has a PID namespace of its own.
        end: wait status of the command, once it has ended.
        left: how many processes went on at the last look.
    """

    def __init__(
        self, wait_for: WaitFor, run: PlainRun, leave: bool | list[str] | None = None
    ) -> None:
        self.pid = 0
        self.init: Init | None = None
        self.end: int | None = None
        self.left = 0
        self._wait_for = wait_for
        self._run = run
        self._leave = leave

    def reap(self) -> bool:
        """Collect the dead children; return whether no process of the tree is left."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                if self.init is not None:
                    self.end = self.init.end_before_others()
                return False
            if pid == self.pid:
                self.end = wait_status if self.init is None else self.init.end(wait_status)

    def end_left(self, grace: float) -> int:
        """End what the command has left, but for what is to go on; return how many ended.

        They get SIGTERM, and SIGKILL after ``grace`` seconds.
        """
        leaving = self._leaving()
        choose = None if leaving is None else leaving.after_the_command
        return self._end(signal.SIGTERM, grace, choose)

    def end_all(self, grace: float, first: int = signal.SIGINT) -> int:
        """End every process, but for helpers that units share; return how many there were.

        They get ``first``, and SIGKILL after ``grace`` seconds.
        """
        leaving = self._leaving()
        choose = None if leaving is None else leaving.at_a_cancel
        return self._end(first, grace, choose)

    def _leaving(self) -> Leaving | None:
        if self._leave is None:
            return None
        # Imported here: no other unit needs the memory.
        from meshnode.work.local.launcher.leaving import Leaving  # noqa: PLC0415

        return Leaving(self._leave, self.pid)

    def _end(self, first: int, grace: float, choose: tree.Choose | None) -> int:
        """Signal the processes that are not to be let alone; kill them later; wait for the end."""
        count = self._insist(lambda: self._signal_all(first, choose))
        self._wait_gone(choose, grace)
        # What runs in a container first: the program that started it can clean up after it.
        if not self._is_gone(choose) and self._insist(lambda: tree.kill_own_containers(choose)):
            self._wait_gone(choose, CONTAINER_SECONDS)
        while not self._is_gone(choose):
            self._insist(lambda: self._run.kill(choose))
            self._wait_for((signal.SIGCHLD,), KILL_RETRY_SECONDS)
        return count

    def _signal_all(self, signum: int, choose: tree.Choose | None) -> int:
        """Signal every process once; return how many of them are the command's."""
        # An init is deaf to all that this process sends, but for SIGKILL.
        signalled = self._run.send_signal(signum, choose)
        return sum(self.init is None or pid != self.pid for pid in signalled)

    def _wait_gone(self, choose: tree.Choose | None, seconds: float) -> None:
        """Wait until the processes have ended, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        while not self._is_gone(choose):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._wait_for((signal.SIGCHLD,), min(left, LONGEST_WAIT_SECONDS))

    def _is_gone(self, choose: tree.Choose | None) -> bool:
        """Whether no process is left but those that are let alone."""
        if self.reap():
            self.left = 0
            return True
        if choose is None:
            return False
        if self._insist(lambda: self._look(choose)):
            return False
        # Who has ended since the first time is not among the living, but not reaped either.
        self.reap()
        return self.end is not None

    def _look(self, choose: tree.Choose) -> int:
        """Note how many processes go on; return how many are left beside them."""
        look = tree.Look(choose)
        self.left = len(look.kept)
        return len(look.ended)

    def _insist(self, act: Callable[[], int]) -> int:
        """Do something to the tree; try again while the machine lacks what that takes."""
        while True:
            try:
                return act()
            except OSError as error:
                if not files.is_passing(error):
                    raise
                self._wait_for((signal.SIGCHLD,), LACK_RETRY_SECONDS)
