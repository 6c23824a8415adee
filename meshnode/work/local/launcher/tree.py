"""Processes and their descendants as /proc shows them, and signals to exactly those."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

FREEZE_PASSES = 100
"""Looks at /proc before all is killed although new processes still appear. Only a set-uid program,
which may not be stopped, outruns the first few; it must not keep the supervisor busy for ever."""

STAT_BYTES = 1024
"""Bytes read of /proc/<pid>/stat: 52 numbers and a name of 16 bytes never need more."""

STATUS_BYTES = 16 * 1024
"""Bytes read of /proc/<pid>/status, of which lists of groups and processors are most."""

_NAMESPACES = b"\nNSpid:"
"""What the line of a process's PIDs begins with: one in each PID namespace that it is in."""


class Process:
    """One process as /proc/<pid>/stat shows it; pid and start time together are its identity.

    Attributes:
        pid: the process.
        parent: pid of its parent.
        group: its process group.
        started: start time in clock ticks since boot (field 22).
        dead: it has ended and waits to be reaped.
    """

    __slots__ = ("dead", "group", "parent", "pid", "started")

    def __init__(self, pid: int, parent: int, group: int, started: int, dead: bool) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.started = started
        self.dead = dead


Choose = Callable[[list[Process]], set[int]]
"""Says which of these processes are to be let alone, by PID."""


def read_proc(pid: int, name: str, size: int) -> bytes:
    """Return the first bytes of a file of /proc, empty when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, size)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def read_process(pid: int) -> Process | None:
    """Return what /proc knows of ``pid``, None when it shows no such process."""
    text = read_proc(pid, "stat", STAT_BYTES)
    if not text:
        return None
    # The name (field 2) may hold blanks and brackets; after the last bracket all is plain.
    fields = text[text.rindex(b")") + 2 :].split()
    state, parent, group, started = fields[0], int(fields[1]), int(fields[2]), int(fields[19])
    return Process(pid, parent, group, started, dead=state in (b"Z", b"X"))


def all_processes() -> list[Process]:
    """Return every process that /proc shows, dead ones included."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def descendants(roots: set[int], processes: list[Process]) -> list[Process]:
    """Return the living descendants of ``roots`` among ``processes``, without the roots."""
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    seen = set(roots)
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child.pid not in seen:
                seen.add(child.pid)
                todo.append(child.pid)
                if not child.dead:
                    found.append(child)
    return found


def is_contained(pid: int) -> bool:
    """Whether a process is in a PID namespace below this process's: in a container."""
    return _depth(pid) > _depth(os.getpid())


def _depth(pid: int) -> int:
    """Return in how many PID namespaces a process is, of those that /proc shows."""
    _, found, rest = read_proc(pid, "status", STATUS_BYTES).partition(_NAMESPACES)
    return len(rest.partition(b"\n")[0].split()) if found else 0


def own_descendants() -> list[Process]:
    """Return the living descendants of this process."""
    return descendants({os.getpid()}, all_processes())


class Look:
    """The living descendants of this process at one moment.

    Attributes:
        ended: those that are to be ended.
        kept: those that ``choose`` lets alone.
    """

    __slots__ = ("ended", "kept")

    def __init__(self, choose: Choose | None) -> None:
        found = own_descendants()
        kept = choose(found) if choose is not None else set()
        self.ended = [process for process in found if process.pid not in kept]
        self.kept = [process for process in found if process.pid in kept]


def send_signal(pid: int, started: int, signum: int) -> bool:
    """Signal exactly the process with this pid and start time; False when it is gone.

    A PID alone may belong to another process by the time of the call. The pidfd is opened first and
    the start time compared after, so that what is compared is what is signalled.

    Raises:
        PermissionError: it belongs to another user (it executed a set-uid program).
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        process = read_process(pid)
        if process is None or process.started != started:
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def signal_all(processes: list[Process], signum: int) -> None:
    """Signal each of ``processes`` that is still there and may be signalled."""
    for process in processes:
        try:
            send_signal(process.pid, process.started, signum)
        except PermissionError:
            # A set-uid program may not be ended by this user; the tree is not gone before it ends.
            continue


def kill_own_containers(choose: Choose | None = None) -> int:
    """Send SIGKILL to every descendant that is in a container; return how many there were."""
    found = [process for process in Look(choose).ended if is_contained(process.pid)]
    signal_all(found, signal.SIGKILL)
    return len(found)


def kill_own_descendants(choose: Choose | None = None) -> int:
    """Send SIGKILL to every descendant of this process, also when they fork all the time.

    Returns how many there were at the end.

    One by one loses against a program that forks faster than /proc can be read. A signal to a
    group reaches all of it in one step, a fork under way included, and a stopped process cannot
    fork; so groups and processes are stopped until a look shows nothing new, then killed. Only a
    program that leaves its group at every fork can slip through; the caller looks again.
    """
    stopped: set[tuple[int, int]] = set()
    for _ in range(FREEZE_PASSES):
        look = Look(choose)
        new = [p for p in look.ended if (p.pid, p.started) not in stopped]
        if not new:
            break
        _signal_groups(new, look.kept, signal.SIGSTOP)
        signal_all(new, signal.SIGSTOP)
        stopped.update((p.pid, p.started) for p in new)
    left = Look(choose)
    _signal_groups(left.ended, left.kept, signal.SIGKILL)
    signal_all(left.ended, signal.SIGKILL)
    return len(left.ended)


def _signal_groups(processes: list[Process], kept: list[Process], signum: int) -> None:
    """Signal the groups of this process's descendants, but those with a process that is kept.

    They hold no other processes: a group lies within one session, whose members descend from the
    process that opened it, and that is this one or a descendant of it.
    """
    spared = {0, os.getpgrp()} | {process.group for process in kept}
    for group in {process.group for process in processes} - spared:
        try:
            os.killpg(group, signum)
        except (ProcessLookupError, PermissionError):
            # Gone meanwhile, or all of it set-uid programs.
            continue
