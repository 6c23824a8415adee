"""Processes that may not be children of the node: identified, awaited, signalled, ended."""

import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import trio

from meshnode.files import is_passing
from meshnode.resources import in_thread
from meshnode.work.local.launcher import cancelsignal, tree
from meshnode.work.local.launcher.commandtree import CONTAINER_SECONDS
from meshnode.work.local.launcher.leaving import Leaving
from meshnode.work.local.launcher.supervisor import UNIT_DIR_VARIABLE
from meshnode.work.units.shortage import Pauses

EXEC_PAUSE = 0.001
"""Seconds between two looks at a process that executes a program in this moment, which takes some
100 µs. Nobody tells when it has."""

EXEC_LOOKS = 1_000
"""Looks at such a process, before it is taken for one without an environment."""

QUIET_LOOKS = 2
"""Looks in a row that find nothing of a unit before it is gone. A look takes some milliseconds: a
process that ends meanwhile may have left a child that it does not show yet."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """What names one process for as long as the machine is up.

    Attributes:
        pid: its number, which the kernel uses again after its end.
        started: its start time in clock ticks since boot (/proc/<pid>/stat, field 22).
    """

    pid: int
    started: int


def current_start_time(pid: int) -> int | None:
    """Return the start time (clock ticks) of the process that has this pid now, None if none."""
    process = tree.read_process(pid)
    return None if process is None else process.started


class Handle(Protocol):
    """One process that can be watched and signalled without mistaking it for another."""

    async def wait_end(self) -> None:
        """Return when the process has ended."""
        ...

    def cancel(self, unit_id: str) -> None:
        """Have the process, a supervisor, end that unit.

        Raises:
            ProcessLookupError: it has ended.
            PermissionError: it belongs to another user.
        """
        ...

    def send_signal(self, signum: signal.Signals) -> None:
        """Signal the process. Raises as :meth:`cancel`."""
        ...

    def close(self) -> None:
        """Let go of the process."""
        ...


class ProcessHandle:
    """Holds on to one process: nothing done through it can reach another that got its pid.

    One task at a time may wait. Close it, or use it as a context manager.
    """

    def __init__(self, process_id: ProcessId, pidfd: int) -> None:
        self.process_id = process_id
        self._pidfd = pidfd

    @classmethod
    def open(cls, process_id: ProcessId) -> Self:
        """Take hold of a running process, or of one that has ended and was not reaped yet.

        Raises:
            ProcessLookupError: it is gone, or its pid is another process's now.
            OSError: no descriptor is left.
        """
        pidfd = os.pidfd_open(process_id.pid)
        try:
            # Opened first, compared after: the pidfd never means another process from here on.
            if current_start_time(process_id.pid) != process_id.started:
                raise ProcessLookupError(f"process {process_id.pid} is gone")
        except BaseException:
            os.close(pidfd)
            raise
        return cls(process_id, pidfd)

    async def wait_end(self) -> None:
        """Return when the process has ended.

        Raises:
            trio.ClosedResourceError: the handle was closed meanwhile.
            trio.BusyResourceError: another task waits already.
        """
        if self._pidfd < 0:
            raise trio.ClosedResourceError("the process handle is closed")
        await trio.lowlevel.wait_readable(self._pidfd)

    def send_signal(self, signum: int) -> None:
        """Signal the process.

        Raises:
            ProcessLookupError: it has ended.
            PermissionError: it belongs to another user.
        """
        signal.pidfd_send_signal(self._pidfd, signum)

    def cancel(self, unit_id: str) -> None:
        """Have the process, a supervisor, end a unit if it still watches that one.

        Raises:
            ProcessLookupError: it has ended.
            PermissionError: it belongs to another user.
        """
        cancelsignal.send(self._pidfd, unit_id)

    def close(self) -> None:
        """Let go of the process; it goes on."""
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


OpenProcess = Callable[[ProcessId], Handle]
EndLeftovers = Callable[[Path, float, Leaving | None], Awaitable[list[ProcessId]]]
"""Ends every process of the unit of that directory but what is to be left, after so many seconds by
force. It returns those that it may not signal, once no other is left."""


def find_unit_processes(unit_dir: Path, leaving: Leaving | None = None) -> list[ProcessId]:
    """Return the running processes that were started for a unit, and their descendants; without
    those that are to be left when it is ended.

    They are known by the variable that the supervisor put into the command's environment, and a
    process whose environment is hidden or replaced by being a descendant of one that is known. One
    that dropped its environment *and* lost its parent is not found.

    Looks at every process of the machine (some 20 µs each): call it in a thread.
    """
    return UnitProcesses.look().of(unit_dir, leaving)


def find_supervised(unit_dir: Path, supervisor: ProcessId) -> list[ProcessId]:
    """Return what is left of a unit beside its supervisor.

    While the supervisor lives it adopts all orphans of the unit, so none is missed. Looks at every
    process of the machine, as :func:`find_unit_processes` does.
    """
    below = tree.descendants({supervisor.pid}, tree.all_processes())
    found = [ProcessId(process.pid, process.started) for process in below]
    return found + find_unit_processes(unit_dir)


def find_supervisor(unit_dir: Path) -> ProcessId | None:
    """Return the supervisor of what runs of a unit, None if there is none.

    Looks at every process of the machine, as :func:`find_unit_processes` does.
    """
    processes = UnitProcesses.look()
    return processes.supervisor_of(processes.of(unit_dir))


class UnitProcesses:
    """The processes of all units on this machine at one moment."""

    def __init__(self, processes: list[tree.Process], marked: dict[bytes, list[int]]) -> None:
        self._processes = processes
        self._marked = marked
        """PIDs by the directory of their unit."""

    @classmethod
    def look(cls) -> Self:
        """Look at every process of the machine: some 20 µs each."""
        processes = tree.all_processes()
        marked: dict[bytes, list[int]] = {}
        for process in processes:
            directory = None if process.dead else _unit_dir_of(process.pid)
            if directory is not None:
                marked.setdefault(directory, []).append(process.pid)
        return cls(processes, marked)

    def of(self, unit_dir: Path, leaving: Leaving | None = None) -> list[ProcessId]:
        """Return the processes that were started for a unit, and their descendants; without those
        that are to be left when it is ended.

        The path of its directory marks them, whatever stands there by now.
        """
        marked = set(self._marked.get(os.fsencode(unit_dir), ()))
        found = [process for process in self._processes if process.pid in marked]
        found += tree.descendants(marked, self._processes)
        kept = set() if leaving is None else leaving.at_a_cancel(found)
        return [ProcessId(one.pid, one.started) for one in found if one.pid not in kept]

    def supervisor_of(self, left: Iterable[ProcessId]) -> ProcessId | None:
        """Return the process that watches over these processes of a unit, None if none does."""
        pids = {process.pid for process in left}
        by_pid = {process.pid: process for process in self._processes}
        for pid in {process.parent for process in self._processes if process.pid in pids} - pids:
            process = by_pid.get(pid)
            if process is not None and process.group != pid:
                # The init of an isolated command: forked from a supervisor, which leads a group.
                process = by_pid.get(process.parent)
            if process is not None and not process.dead and _is_supervisor(process.pid):
                return ProcessId(process.pid, process.started)
        return None


_MARK = os.fsencode(f"{UNIT_DIR_VARIABLE}=")


def _unit_dir_of(pid: int) -> bytes | None:
    """Return the directory of the unit that a process was started for."""
    for variable in _environment(pid).split(b"\0"):
        if variable.startswith(_MARK):
            return variable.removeprefix(_MARK)
    return None


def _environment(pid: int) -> bytes:
    """Return the environment of a process, empty where it has none.

    In the moment in which a process executes a program, the kernel shows neither environment nor
    words of it. Both are there a moment later.
    """
    environment = _read(pid, "environ")
    for _ in range(EXEC_LOOKS):
        if environment or not _has_program(pid):
            break
        is_executed = bool(_read(pid, "cmdline"))
        environment = _read(pid, "environ")
        if is_executed:
            break
        time.sleep(EXEC_PAUSE)
    return environment


def _has_program(pid: int) -> bool:
    """Whether a process executes a file. Threads of the kernel do not, nor does one that ends."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return True


def _is_supervisor(pid: int) -> bool:
    """Whether a process was forked by a launcher, and so runs its program."""
    words = _read(pid, "cmdline").split(b"\0")
    return any(word.endswith(b"/launcher/__main__.py") for word in words)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


async def end_unit_processes(
    unit_dir: Path, grace: float, leaving: Leaving | None = None
) -> list[ProcessId]:
    """End what a dead supervisor left of a unit: SIGTERM, ``grace`` seconds, SIGKILL.

    However long that takes where the machine has no descriptor to spare.

    Returns:
        What could not be ended, because it belongs to another user (a set-uid program).
    """
    refused: set[ProcessId] = set()
    pauses = Pauses()
    quiet = 0
    while quiet < QUIET_LOOKS:
        try:
            found = set(await in_thread(find_unit_processes, unit_dir, leaving)) - refused
            if found:
                quiet = 0
                refused |= await end_processes(found, grace)
                # What was forked during the first round gets no grace time of its own.
                grace = 0
            else:
                quiet += 1
        except OSError as error:
            if not is_passing(error):
                raise
            await pauses.take()
    return sorted(refused, key=lambda p: p.pid)


def still_running(left: list[ProcessId]) -> str:
    """Return the words for what could not be ended of a unit, empty if nothing is left."""
    pids = ", ".join(str(process.pid) for process in left)
    return f"; still running: {pids}" if left else ""


async def end_processes(ids: Iterable[ProcessId], grace: float) -> set[ProcessId]:
    """End processes: SIGTERM, ``grace`` seconds to leave, SIGKILL; return when they are gone.

    Returns:
        Those that could not be signalled, because they belong to another user; not waited for.
    """
    with contextlib.ExitStack() as stack:
        handles: list[ProcessHandle] = []
        for process_id in ids:
            with contextlib.suppress(ProcessLookupError):
                handles.append(stack.enter_context(ProcessHandle.open(process_id)))
        ours = _signal(handles, signal.SIGTERM)
        with trio.move_on_after(grace):
            await _wait_all(ours)
        # What runs in a container first: the program that started it can clean up after it.
        contained = [h for h in ours if tree.is_contained(h.process_id.pid)]
        if contained:
            _signal(contained, signal.SIGKILL)
            with trio.move_on_after(CONTAINER_SECONDS):
                await _wait_all(ours)
        await _wait_all(_signal(ours, signal.SIGKILL))
        return {h.process_id for h in handles if h not in ours}


def _signal(handles: list[ProcessHandle], signum: int) -> list[ProcessHandle]:
    """Signal each; return those that may be signalled (also when they have ended)."""
    allowed = []
    for handle in handles:
        try:
            with contextlib.suppress(ProcessLookupError):
                handle.send_signal(signum)
        except PermissionError:
            continue
        allowed.append(handle)
    return allowed


async def _wait_all(handles: list[ProcessHandle]) -> None:
    for handle in handles:
        await handle.wait_end()
