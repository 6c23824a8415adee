"""What the registry of units asks of a runner, what a runner may ask of it, and of the machine."""

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import trio

from meshnode.errors import MeshnodeError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.client import Started, StartRequest
from meshnode.work.local.processes import ProcessId
from meshnode.work.units.unit import Unit


class FirstOutcome:
    """The outcome of the first try of something, for a client that waits while it is made.

    Only the first outcome counts, and nobody need be waiting: a client may leave, the try goes on.
    """

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._done = False
        self._error: MeshnodeError | None = None

    def done(self) -> None:
        """It has happened."""
        self._settle(done=True)

    def pending(self) -> None:
        """It could not be done at once, and is tried again until it is."""
        self._settle(done=False)

    def fail(self, error: MeshnodeError) -> None:
        """It was refused, and is not tried again."""
        if not self._settled.is_set():
            self._error = error
        self._settle(done=False)

    def _settle(self, *, done: bool) -> None:
        if not self._settled.is_set():
            self._done = done
            self._settled.set()

    async def wait(self, seconds: float) -> bool:
        """Return whether it is done; what takes longer than ``seconds`` counts as pending.

        Raises:
            MeshnodeError: it was refused.
        """
        with trio.move_on_after(seconds):
            await self._settled.wait()
        if self._error is not None:
            raise self._error
        return self._done


class UnitTasks(Protocol):
    """What a runner may ask of the registry, which owns the task of each unit."""

    def spawn(self, unit: Unit) -> FirstOutcome:
        """Have the unit's runner drive it in a task of its own, from what its record says."""
        ...

    async def stop(self, unit: Unit) -> None:
        """End the unit's task and return when it has ended; the record says where it stood."""
        ...

    async def end(self, unit: Unit, state: UnitState, detail: str) -> None:
        """Give a unit without a task, of which nothing is left, a final state.

        Raises:
            NotRecorded: the disk does not take that now; it is tried again.
        """
        ...

    async def remove(self, unit: Unit, *, force: bool = False) -> None:
        """Delete the unit. May be called from the unit's own task, as the last thing it does.

        With ``force`` the unit is forgotten also where its files cannot be deleted.

        Raises:
            WorkError: its files cannot be deleted.
        """
        ...


class Runner(Protocol):
    """Runs the units of one kind. All that a runner must know of a unit is in its record.

    So a task may be ended at any await, by a wish of a client or by a kill, and be spawned again.
    """

    async def run(self, unit: Unit, attempt: FirstOutcome, tasks: UnitTasks) -> None:
        """Drive the unit to its end, from wherever its record says that it stands.

        ``attempt`` is settled with the outcome of the first try.
        """
        ...

    async def cancel(self, unit: Unit, tasks: UnitTasks) -> bool:
        """Stop a unit that is not final; return False if that must wait for another node.

        Raises:
            MeshnodeError: it cannot be stopped.
        """
        ...

    async def release(self, unit: Unit, tasks: UnitTasks, *, force: bool) -> bool:
        """Stop and remove a unit; return False if that must wait for another node.

        ``force`` removes it in any case, after one try to do it properly.

        Raises:
            MeshnodeError: it cannot be released.
        """
        ...


class Starter(Protocol):
    """What starts supervisors: :class:`meshnode.work.local.client.Launcher`."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Be able to start, until cancelled."""
        ...

    async def start(self, request: StartRequest) -> Started:
        """Return when the command runs, or its failure to is on disk.

        Raises:
            LauncherClosed: the node is ending; the unit's status tells, now or soon.
            NotNow: the machine lacks something; the same may be tried again.
            OutcomeUnknown: nobody can tell whether it was started.
            WorkError: no supervisor could be started.
        """
        ...


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


OpenProcess = Callable[[ProcessId], Handle]
EndLeftovers = Callable[[Path, float], Awaitable[list[ProcessId]]]
"""Ends every process of the unit of that directory, after that many seconds by force; returns when
none is left but those that may not be signalled."""


# --- Which start of the machine this is

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return an ID that every start of the machine has its own of; empty where none is told."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""
