"""Units that run a command on this node, through the launcher and its supervisors."""

import math
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import trio

from meshnode import files
from meshnode.errors import CommandError, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.resources import NoThread, in_thread
from meshnode.work.local.cgroups import JobGroups
from meshnode.work.local.client import OutcomeUnknown, Starter
from meshnode.work.local.collector import COLLECTING, FileCollector
from meshnode.work.local.launcherprocess import LauncherClosed, Started, StartRequest
from meshnode.work.local.processes import (
    EndLeftovers,
    Handle,
    OpenProcess,
    ProcessHandle,
    ProcessId,
    end_unit_processes,
    find_supervised,
    find_supervisor,
    still_running,
)
from meshnode.work.local.startrequest import (
    drop_tar,
    say,
    start_request,
    tell_asker,
    unpack_files,
)
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.runner import FirstOutcome, Outcome, WorkType
from meshnode.work.units.shortage import LogOnce, NotNow, NotRecorded, Pauses, patiently
from meshnode.work.units.statusfiles import Overtaken
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit

CANCEL_MARGIN = 5.0
"""Seconds beyond the grace time in which a cancel kills, syncs stdout and records the end."""

FORCE_TIMEOUT = 10.0
"""Seconds that a forced release waits for a cancel, and then for SIGKILL: a process that waits for
a lost disk does not die at once."""

START_PATIENCE = 1.0
"""Seconds that a cancel waits for a start under way, which takes milliseconds. Then the launcher is
frozen; it starts nothing whose end is recorded meanwhile."""


T = TypeVar("T")


class CommandRunner:
    """Starts commands, watches their supervisors, and takes over the ends that those record."""

    def __init__(
        self,
        launcher: Starter,
        store: UnitStore,
        types: Mapping[str, WorkType],
        groups: JobGroups,
        *,
        open_process: OpenProcess = ProcessHandle.open,
        end_leftovers: EndLeftovers = end_unit_processes,
    ) -> None:
        self._launcher = launcher
        self._store = store
        self._types = types
        self._open_process = open_process
        self._groups = groups
        self._end_leftovers = end_leftovers
        self._files = FileCollector(store)
        self._waiting: set[str] = set()
        """Units whose start waits for what the machine lacks."""
        self.watched = 0
        """Supervisors that are watched: those of units that run."""
        self._canceling: set[str] = set()
        """Units that are being canceled: an end without a record is theirs."""

    def _type_of(self, unit: Unit) -> CommandType:
        """Return the type that a unit was submitted as; defaults if nobody knows it any more."""
        known = unit.work_type or self._types.get(unit.status.work_type)
        return known if isinstance(known, CommandType) else CommandType("")

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the launcher; end first what no unit needs any more. Raises WorkError."""
        kinds = (kind for kind in self._types.values() if isinstance(kind, CommandType))
        await self._groups.open(are_wanted=any(kind.limits for kind in kinds))
        try:
            await self._launcher.run(task_status=task_status)
        finally:
            self._groups.close()

    @property
    def short(self) -> int:
        """How many units wait to be started until the machine has what that takes."""
        return len(self._waiting)

    @property
    def stops_for_requests(self) -> bool:
        """No: the task sees the command end, and records that."""
        return False

    async def run(self, unit: Unit, first: FirstOutcome) -> Outcome:
        """Start a pending unit, or adopt a running one, and watch it to its end."""
        process = unit.status.supervisor
        if unit.is_final:
            return Outcome.DONE
        if unit.status.held:
            first.done()
            await self._files.settle(unit)
            return Outcome.DONE
        if process is None and unit.status.state is UnitState.RUNNING:
            await self._lose(unit, None, None)
            return Outcome.DONE
        if process is None:
            started = await self._start(unit, first)
            if started is None or await self._ends_at_once(unit, started, first):
                return Outcome.DONE
            process = started.process
        await self._watch(unit, process, first)
        return Outcome.DONE

    async def _start(self, unit: Unit, first: FirstOutcome) -> Started | None:
        kind = self._type_of(unit)
        if not unit.status.params:
            error = WorkError("its record names no command")
            return await self._refuse(unit, first, error, f"Error starting worker: {error}")
        request = start_request(unit, kind, self._store)
        try:
            limits = await self._groups.start(unit)
            started = await self._insist(unit, replace(request, limits=limits))
            await drop_tar(unit, self._store)
            return started
        except LauncherClosed as error:
            # Not a failure of the unit: it starts now, or with the next start of the node.
            unit.log.info("%s", error)
            first.pending()
        except OutcomeUnknown as error:
            found = await patiently(unit.log, partial(find_supervisor, request.unit_dir))
            if found is not None:
                return Started(found)
            # If its supervisor was killed as well, its command may run on: not past its end.
            left = await self._end_left(unit, request.grace, with_helpers=True)
            detail = f"lost: {error}{still_running(left)}"
            return await self._refuse(unit, first, error, detail)
        except WorkError as error:
            return await self._refuse(unit, first, error, f"Error starting worker: {error}")
        return None

    async def _refuse(
        self, unit: Unit, first: FirstOutcome, error: WorkError, detail: str
    ) -> Started | None:
        """End a unit that was not started, unless it was after all."""
        try:
            try:
                await unit.fail(detail, patient=False)
            except NotRecorded:
                # The client hears of it now, since nothing can start the unit later.
                first.fail(error)
                await unit.fail(detail)
        except Overtaken:
            # A supervisor of an earlier start has claimed the unit.
            process = unit.status.supervisor
            return None if process is None else Started(process)
        first.fail(error)
        return None

    async def _insist(self, unit: Unit, request: StartRequest) -> Started:
        """Start a unit; wait for as long as the machine lacks what that needs."""
        pauses = Pauses()
        while True:
            try:
                await unpack_files(unit, self._store)
                # Shielded: a start that was asked for happens, so its supervisor must be known.
                with trio.CancelScope(shield=True):
                    return await self._launcher.start(request)
            except NotNow as error:
                await say(unit, f"Waiting to be started: {error}")
            self._waiting.add(unit.unit_id)
            try:
                await pauses.take()
            finally:
                self._waiting.discard(unit.unit_id)

    async def _ends_at_once(self, unit: Unit, started: Started, first: FirstOutcome) -> bool:
        """Take over what the supervisor reports of the command's first moment.

        It reports only what it has written to the disk, so that need not be read.
        """
        if started.record is None:
            return False
        await unit.take_over(started.record)
        first.done()
        end = await started.first_moment()
        if end is not None:
            await unit.take_over(end)
        await self._files.settle(unit)
        return unit.is_final

    async def _open(self, unit: Unit, process: ProcessId) -> Handle | None:
        """Take hold of a supervisor, None if it is gone."""
        pauses = Pauses()
        text = "cannot watch supervisor %d yet: %s"
        log_once = LogOnce(partial(unit.log.warning, text, process.pid))
        while True:
            try:
                return self._open_process(process)
            except ProcessLookupError:
                return None
            except OSError as error:
                # The command runs all the same. It must not fail because this node lacks something.
                log_once(error.strerror or str(error))
            await pauses.take()

    async def _watch(self, unit: Unit, process: ProcessId, first: FirstOutcome) -> None:
        self._groups.watch(unit)
        handle = await self._open(unit, process)
        self.watched += 1
        try:
            if fault := await self._reload(unit):
                # A unit whose command runs has not ended, whatever was done to its files.
                await self._say_damaged(unit, process, fault)
            first.done()
            if handle is not None:
                await handle.wait_end()
        finally:
            self.watched -= 1
            if handle is not None:
                handle.close()
        # A supervisor records the end last: it is there now, or never will be.
        fault = await self._reload(unit)
        await self._files.settle(unit)
        if not unit.is_final:
            await self._lose(unit, process, fault)

    async def _reload(self, unit: Unit) -> WorkError | None:
        """Take over what the supervisor has written; return what is wrong with it, if anything."""
        pauses = Pauses()
        while True:
            try:
                await unit.reload()
            except WorkError as error:
                if not files.is_passing(error.__cause__):
                    return error
            else:
                return None
            await pauses.take()

    async def _say_damaged(self, unit: Unit, process: ProcessId, fault: WorkError) -> None:
        unit.log.warning("its command runs on, but %s", fault)
        if not unit.is_final:
            detail = f"Running, but {fault}"
            await unit.note(
                lambda old: replace(old, state=UnitState.RUNNING, detail=detail, supervisor=process)
            )

    async def _lose(self, unit: Unit, process: ProcessId | None, fault: WorkError | None) -> None:
        """End a unit whose supervisor recorded no end, and whatever is left of it."""
        left = await self._end_left(unit, self._type_of(unit).grace)
        if unit.unit_id in self._canceling:
            await unit.end(UnitState.CANCELED, "Canceled")
            return
        if fault is not None:
            detail = f"lost: {fault}"
        elif process is not None:
            unit.log.warning("supervisor %d exited without recording a result", process.pid)
            detail = f"lost: its supervisor (PID {process.pid}) ended without recording an end"
        else:
            detail = "lost: nobody watched over it"
        files_told = await self._files.save(unit)
        await unit.fail(detail + still_running(left) + files_told)

    async def cancel(self, unit: Unit) -> Outcome:
        """Have the supervisor end the whole process tree, and wait until it has."""
        if unit.unit_id in self._waiting:
            # Nothing of it runs, and its task only waits.
            return Outcome.IDLE
        self._canceling.add(unit.unit_id)
        self._files.leave(unit)
        try:
            with trio.move_on_after(self._type_of(unit).grace + CANCEL_MARGIN):
                await self._signal(unit)
                await unit.wait_ended()
        finally:
            self._canceling.discard(unit.unit_id)
        if unit.is_final:
            return Outcome.DONE
        if self._files.has(unit):
            raise CommandError(COLLECTING.format(unit.unit_id))
        if await self._has_ended(unit):
            text = "its command has ended, and its supervisor waits for the disk to record that"
            raise NotRecorded(f"work unit {unit.unit_id}: {text}")
        raise CommandError(f"work unit {unit.unit_id} is still being stopped")

    async def _has_ended(self, unit: Unit) -> bool:
        """Whether nothing of a unit is left but its supervisor; in doubt, something is."""
        process = unit.status.supervisor
        if process is None:
            return False
        try:
            return not await in_thread(
                find_supervised, self._store.directory(unit.unit_id), process
            )
        except (OSError, NoThread) as error:
            unit.log.warning("cannot look for its processes: %s", error)
            return False

    async def _signal(self, unit: Unit) -> None:
        """Signal the supervisor as soon as there is one."""
        while not (unit.is_final or unit.end_waits):
            seen = unit.version
            process = unit.status.supervisor
            if process is not None:
                handle = await self._open(unit, process)
                if handle is not None:
                    await tell_asker(unit, self._store)
                    try:
                        handle.cancel(unit.unit_id)
                    except ProcessLookupError:
                        unit.log.debug("its supervisor ended just before the cancel")
                    except PermissionError:
                        who = f"its supervisor (PID {process.pid}) belongs to another user"
                        raise CommandError(f"work unit {unit.unit_id}: {who}") from None
                    finally:
                        handle.close()
                return
            with trio.move_on_after(START_PATIENCE) as patience:
                await unit.wait_changed(seen)
            if patience.cancelled_caught and unit.status.state is UnitState.PENDING:
                # Nobody starts what is Canceled on disk.
                with suppress(Overtaken):
                    await unit.end(UnitState.CANCELED, "Canceled")

    async def release(self, unit: Unit, *, force: bool, remote: bool) -> Outcome:
        """Cancel the unit if need be: it is removable then."""
        if unit.is_final:
            return Outcome.REMOVABLE
        try:
            seconds = FORCE_TIMEOUT if force else math.inf
            with self._files.unwanted(unit), trio.move_on_after(seconds):
                if await self.cancel(unit) is Outcome.IDLE:
                    return Outcome.IDLE
        except NotRecorded as error:
            unit.log.info("released before that: %s", error)
        except CommandError as error:
            if not force:
                raise
            unit.log.warning("released by force: %s", error)
        if not (unit.is_final or unit.end_waits):
            # By force, or because only a supervisor is left that cannot record the end.
            with trio.move_on_after(FORCE_TIMEOUT):
                await self._kill(unit)
        return Outcome.REMOVABLE

    async def abandon(self, unit: Unit) -> None:
        """Kill what runs of a unit, by its supervisor or without it."""
        if unit.status.supervisor is None or unit.is_final:
            return
        try:
            await self._kill(unit)
        except Exception:
            # Perhaps by the same fault. What is left can be found without the supervisor.
            unit.log.exception("its supervisor could not be killed")
            await self._end_left(unit, 0)

    async def _kill(self, unit: Unit) -> None:
        """Kill the supervisor, and then whatever is left of the unit."""
        process = unit.status.supervisor
        handle = None if process is None else await self._open(unit, process)
        if handle is not None:
            try:
                handle.send_signal(signal.SIGKILL)
                await handle.wait_end()
            except (ProcessLookupError, PermissionError) as error:
                unit.log.debug("its supervisor was not killed: %s", error)
            finally:
                handle.close()
        await self._end_left(unit, 0)

    async def _end_left(
        self, unit: Unit, grace: float, *, with_helpers: bool = False
    ) -> list[ProcessId]:
        """End what is left of a unit without a supervisor; return what cannot be ended.

        What its type leaves to other units goes on, but for ``with_helpers``.
        """
        leaving = None if with_helpers else self._type_of(unit).leaving(unit.status.pid)
        left = await self._end_leftovers(self._store.directory(unit.unit_id), grace, leaving)
        await self._groups.end(unit, grace, is_left=leaving is not None)
        return left
