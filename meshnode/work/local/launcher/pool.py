"""The launcher's supervisors: forked when there is none to spare, kept for a while when free.

Without the reuse, 200 units of ``true`` take 0.87 s instead of 0.45 s (``python -m bench --only
spawn``).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from meshnode.work.local.launcher import command, wire
from meshnode.work.local.launcher.supervisor import supervise

MOST_FREE = 32
"""Free supervisors that are kept, of some 2 MB each. Where more units start at the same moment,
forking is the least of the work."""

HANDED_BYTES = 32 * 1024
"""Bytes of the longest start for an existing supervisor. An empty pipe holds it, so the launcher
never waits until it is read; a longer one is worth a fork."""

REPORT_BYTES = 4096
"""Bytes of reports read at once, some 400 of them."""


class SupervisorPool:
    """Everything about supervisors but their work.

    Args:
        node: the socket that supervisors answer on.
        leave_launcher: called in each new supervisor, to let go of what is the launcher's.

    Attributes:
        reports: pipe to be watched; when readable, call :meth:`take_reports`.
    """

    def __init__(self, node: int, leave_launcher: Callable[[], None]) -> None:
        self._node = node
        self._leave_launcher = leave_launcher
        self.reports, self._reporting = os.pipe()
        self._unfinished = b""
        self._busy: dict[int, wire.Start] = {}
        """The start that each supervisor with a unit was made for, without its command."""
        self._pipes: dict[int, int] = {}
        """The pipe of each supervisor that takes more starts."""
        self._free: list[int] = []

    @property
    def has_free(self) -> bool:
        """Whether a supervisor waits for a unit."""
        return bool(self._free)

    def start(self, start: wire.Start, text: bytes) -> None:
        """Have a supervisor see to a start; ``text`` is the same as JSON.

        Raises:
            OSError: none can be forked.
        """
        pid = self._hand(text) or self._fork(start)
        # Without the command: it may be megabytes, and the unit may run for days.
        self._busy[pid] = wire.Start(start.number, start.unit_id, "", [], 0)

    def _hand(self, text: bytes) -> int | None:
        """Give a start to a free supervisor; None if there is none."""
        while self._free and len(text) < HANDED_BYTES:
            # The one that was busy last has its memory in the caches.
            pid = self._free.pop()
            try:
                os.write(self._pipes[pid], text + b"\n")
            except BrokenPipeError:
                continue  # it was killed while it was free
            return pid
        return None

    def _fork(self, start: wire.Start) -> int:
        requests, ours = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(requests)
            os.close(ours)
            raise
        if pid == 0:
            self._leave_launcher()
            # If a sibling held a pipe open, that would not end with the launcher.
            for fd in (self.reports, ours, *self._pipes.values()):
                os.close(fd)
            supervise(start, self._node, wire.SupervisorChannel(requests, self._reporting))
        os.close(requests)
        self._pipes[pid] = ours
        return pid

    def take_reports(self) -> None:
        """Note which supervisors are free and which go on alone."""
        *lines, self._unfinished = (self._unfinished + os.read(self.reports, REPORT_BYTES)).split(
            b"\n"
        )
        for line in lines:
            pid, what = wire.parse_report(line)
            if pid not in self._pipes:
                continue  # its end was seen first
            if what == wire.FREE and len(self._free) < MOST_FREE:
                del self._busy[pid]
                self._free.append(pid)
            else:
                self._close_pipe(pid)

    def let_go(self) -> None:
        """End the free supervisors."""
        while self._free:
            self._close_pipe(self._free.pop())

    def take_end(self, pid: int, wait_status: int) -> None:
        """Note that a supervisor has ended; tell the node if it did not end well."""
        self._close_pipe(pid)
        if pid in self._free:
            self._free.remove(pid)
        start = self._busy.pop(pid, None)
        if start is not None and wait_status != 0:
            wire.send(self._node, wire.Gone(start, command.end_text(wait_status)))

    def _close_pipe(self, pid: int) -> None:
        pipe = self._pipes.pop(pid, None)
        if pipe is not None:
            os.close(pipe)
