"""Starts the commands of units through the launcher, and the launcher again when it has died.

Why an interrupted start is safe to repeat: the launcher holds its end of the socket, and so does
each supervisor that has not answered yet or watches the first moment of its command. End-of-file
says that none of them is left, and all their answers have been read before it. A unit that is
Pending on disk then was never executed and never will be. Besides, the claim of the supervisor
(launcher/statusfile.py) lets no second one execute a unit.
"""

import json
from pathlib import Path
from typing import Protocol

import trio

from meshnode import files
from meshnode.errors import WorkError
from meshnode.resources import in_thread
from meshnode.work.local.launcher import wire
from meshnode.work.local.launcher.statusfile import MAX_STATUS_BYTES
from meshnode.work.local.launcherprocess import (
    LauncherClosed,
    LauncherProcess,
    Started,
    StartRequest,
)
from meshnode.work.local.processes import ProcessId
from meshnode.work.units.shortage import NotNow, Pauses

START_ATTEMPTS = 3
"""Launchers tried for one start. One may be killed, and so may the next; if three die during one
start, another try does not help."""


class OutcomeUnknown(WorkError):
    """A start may have happened: no answer came, and the status cannot be read."""


class Starter(Protocol):
    """What starts supervisors: :class:`Launcher`, or a stand-in."""

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


class Launcher:
    """Starts commands for units; one per node."""

    def __init__(self, descriptors: int | None = None) -> None:
        """``descriptors`` is the soft limit that commands get, None for this process's own."""
        self._descriptors = descriptors
        self._nursery: trio.Nursery | None = None
        self._process: LauncherProcess | None = None
        self._spawning = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the launcher process until cancelled; supervisors and their commands go on then.

        A launcher that dies is logged, and replaced by the next start, so one that always dies
        costs one process a start and never spins.

        Raises:
            WorkError: the first launcher cannot be started.
        """
        failure: WorkError | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await self._usable_process()
                except WorkError as error:
                    # Raised outside, because a nursery would wrap it in a group.
                    failure = error
                else:
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self._nursery = self._process = None
        if failure is not None:
            raise failure

    async def start(self, request: StartRequest) -> Started:
        """Start a unit's command, unless that has happened; return what is known of it.

        On return the command was executed, or could not be and the status says so. The process ID
        may be that of a supervisor that is gone: it was killed in between, or the launcher of a
        node that was killed a moment ago had started the unit. A repeated start never does harm.
        A caller that is cancelled does not know the outcome; the status says it, now or soon.

        Raises:
            LauncherClosed: the node is ending.
            NotNow: something was lacking, and the command was not executed; it may be tried again.
            OutcomeUnknown: nobody can tell what was started.
            WorkError: there is no supervisor, and the command was not and will not be executed.
        """
        for _ in range(START_ATTEMPTS):
            process = await self._usable_process()
            asked = await process.ask(request)
            reply = asked.reply
            if isinstance(reply, wire.Started):
                process_id = ProcessId(reply.pid, reply.ticks)
                return Started(process_id, reply.record, asked)
            if reply is not None and not reply.is_taken:
                raise (NotNow if reply.is_passing else WorkError)(reply.reason)
            recorded = await _recorded_supervisor(request.unit_dir)
            if recorded is not None:
                return Started(recorded)
            if reply is not None:
                raise WorkError(reply.reason)
        raise WorkError(f"the launcher ended {START_ATTEMPTS} times, the command was not started")

    async def _usable_process(self) -> LauncherProcess:
        async with self._spawning:
            if self._nursery is None:
                raise LauncherClosed("the node is ending")
            if self._process is None or not self._process.usable:
                process = LauncherProcess(self._descriptors)
                try:
                    await self._nursery.start(process.run)
                except OSError as error:
                    kind = NotNow if files.is_passing(error) else WorkError
                    raise kind(f"cannot start the launcher: {error.strerror}") from error
                self._process = process
            return self._process


async def _recorded_supervisor(unit_dir: Path) -> ProcessId | None:
    """Return the supervisor that took the unit out of Pending, None when none did.

    Raises:
        OutcomeUnknown: the status cannot be read.
    """
    pauses = Pauses()
    while True:
        try:
            return await in_thread(_read_supervisor, unit_dir / "status")
        except (
            OSError,
            ValueError,
            RecursionError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            if not files.is_passing(error):
                text = f"cannot tell from {unit_dir}/status what was started: {error}"
                raise OutcomeUnknown(text) from error
        await pauses.take()


def _read_supervisor(path: Path) -> ProcessId | None:
    recorded = json.loads(files.read_file(path, MAX_STATUS_BYTES)).get("Supervisor")
    return None if recorded is None else ProcessId(recorded["Pid"], recorded["Started"])
