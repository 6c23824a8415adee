"""All units of a node: made, found, listed, driven by their runners, taken over after a restart."""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from meshnode.errors import CommandError, MeshnodeError, UnknownUnit, WorkError
from meshnode.logs import subject_logger
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.processes import ProcessHandle, end_unit_processes
from meshnode.work.local.runner import CommandRunner, CommandType
from meshnode.work.remote.client import Dialer
from meshnode.work.remote.runner import ATTEMPT_TIMEOUT, RemoteRunner
from meshnode.work.units.access import Caller, Signatures, UnitAccess
from meshnode.work.units.follow import send_followed
from meshnode.work.units.intake import Input, UnitFile
from meshnode.work.units.jsonreader import MAX_SIZE
from meshnode.work.units.keys import new_secret
from meshnode.work.units.output import FileWatcher, SendFile, stream_results
from meshnode.work.units.planning import Planner, Submission
from meshnode.work.units.runner import EndLeftovers, FirstOutcome, OpenProcess, Runner, Starter
from meshnode.work.units.shortage import Pauses, in_thread_or_here, shortages
from meshnode.work.units.status import NOT_STARTED, UnitStatus
from meshnode.work.units.store import Overtaken, StoredUnit, UnitStore
from meshnode.work.units.submissions import KEEP_SECONDS, Submissions
from meshnode.work.units.unit import Clock, NotRecorded, Unit, wall_clock

INPUT_LOST = "lost: the node ended before it had all of the input data"
"""How the detail begins of a unit that was not started; remote nodes know it by that."""

FORCE_PATIENCE = 1.0
"""Seconds that a forced release of a unit waits for somebody else's cancel or release of it."""

ADOPT_PATIENCE = 0.5
"""Seconds for which a start waits for the lock of one unit; it is tried on beside everything
else."""


@dataclass(slots=True)
class _Task:
    """The running task of a unit."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class UnitManager:
    """The units of one node.

    Resource handling: :meth:`run` owns the launcher, the watches on stdout and one task for each
    unit that is not final; everything else must be called while it runs.
    """

    def __init__(
        self,
        *,
        store: UnitStore,
        launcher: Starter,
        dialer: Dialer,
        work_types: Mapping[str, CommandType],
        node_id: str,
        signatures: Signatures = Signatures(),  # noqa: B008  # a frozen value
        forwarding: bool = False,
        max_remote_output: int = MAX_SIZE,
        remember: float = KEEP_SECONDS,
        now: Clock = wall_clock,
        boot: str = "",
        open_process: OpenProcess = ProcessHandle.open,
        end_leftovers: EndLeftovers = end_unit_processes,
    ) -> None:
        self.node_id = node_id
        self.store = store
        self._launcher = launcher
        self._work_types = dict(work_types)
        self._now = now
        self._boot = boot
        self._growth = FileWatcher()
        self._commands = CommandRunner(
            launcher,
            store,
            self._work_types,
            open_process=open_process,
            end_leftovers=end_leftovers,
        )
        self.access = UnitAccess(node_id, self._work_types, signatures, forwarding=forwarding)
        """Judges who may ask what of units."""
        self._planner = Planner(self.access, self._work_types, signatures, now)
        self._remotes = RemoteRunner(dialer, store, signatures, now, max_remote_output)
        self._units: dict[str, Unit] = {}
        self.submissions = Submissions(store, self._units, now, remember)
        """What is known of submissions, of units that are gone as well."""
        self._tasks: dict[str, _Task] = {}
        self._not_taken_over: dict[str, str] = {}
        self._nursery: trio.Nursery | None = None
        self._log = subject_logger("work")

    @property
    def advertised(self) -> tuple[tuple[str, bool], ...]:
        """Name of each work type, and whether it verifies signatures, for advertisements."""
        return tuple((name, kind.verify_signature) for name, kind in self._work_types.items())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take over the units on disk and drive all units until cancelled.

        Commands go on when it ends; the next run adopts them.

        Raises:
            WorkError: the store or the launcher cannot be used.
        """
        await in_thread_or_here(self.store.prepare)
        try:
            await in_thread_or_here(self.submissions.open)
            found = await in_thread_or_here(self.store.scan)
            await in_thread_or_here(self.submissions.note_damaged)
            async with trio.open_nursery() as services:
                services.start_soon(self.submissions.run)
                await services.start(self._growth.run)
                await services.start(self._launcher.run)
                await self._drive_all(found, task_status)
        finally:
            self.store.close()

    async def _drive_all(self, found: list[StoredUnit], task_status: trio.TaskStatus[None]) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                for stored in found:
                    await self._adopt_or_warn(stored)
                # Not kept while the node runs: each would hold on to a unit's first status.
                found.clear()
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- what there is ------------------------------------------------------------------------

    def find(self, unit_id: str) -> Unit:
        """Return the unit of that ID. Raises UnknownUnit."""
        try:
            return self._units[unit_id]
        except KeyError:
            raise UnknownUnit(unit_id) from None

    def all(self) -> tuple[Unit, ...]:
        """Return every unit."""
        return tuple(self._units.values())

    def warnings(self) -> list[str]:
        """Return what a person should look after, one line each."""
        return [
            *shortages(self.store.root),
            *self.store.warnings(),
            *(
                f"unit {unit_id} could not be taken over from the last run: {reason}"
                for unit_id, reason in self._not_taken_over.items()
                if unit_id in self._units
            ),
        ]

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a person should look at about where the units are kept, one line each."""
        return self.store.doubts

    async def send_followed(self, unit: Unit, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Tell the unit's submitter of it until it is final."""
        path = self.store.stdout_path(unit.unit_id)
        await send_followed(unit, path, self._growth, send)

    async def send_results(self, unit: Unit, start: int, send: SendFile) -> int:
        """Send a unit's stdout from byte ``start`` until it is final; see ``stream_results``."""
        path = self.store.stdout_path(unit.unit_id)
        return await stream_results(unit, path, start, self._growth, send)

    # --- new units ----------------------------------------------------------------------------

    def plan(self, submission: Submission, caller: Caller) -> UnitStatus:
        """Check everything about a submission that can be checked, and return its first status.

        Raises:
            CommandError, SecurityError: with the reason; nothing has been made.
        """
        status = self._planner.plan(submission, caller)
        if status.remote is not None:
            status = status.with_remote(key=new_secret())
        return self.submissions.admit(status, submission)

    def create(self, status: UnitStatus) -> Unit:
        """Make the unit that :meth:`plan` has checked; its input must follow.

        Raises:
            WorkError: the disk refuses.
        """
        # receptor's "Unit Created" comes before; nobody could see it here, and it costs a write.
        status = replace(status, detail="Waiting for Input Data", boot=self._boot)
        unit = self._add(StoredUnit(self.store.create(status), status))
        unit.log.info("created: %s", status.remote.node if status.remote else status.work_type)
        return unit

    def open_stdin(self, unit: Unit) -> UnitFile:
        """Return the file that takes the unit's input, until the unit ends. Raises OSError."""
        return self.store.open_stdin(unit.unit_id, lambda: not unit.is_final)

    async def start(self, unit: Unit, stdin: Input) -> bool:
        """Start a unit whose input is complete; return False if that must wait for another node.

        Raises:
            CommandError: the unit was canceled or released meanwhile.
            MeshnodeError: it cannot be started.
        """
        async with unit.wishes:
            if unit.is_final or unit.end_waits:
                await in_thread_or_here(self.store.drop_stdin, unit.unit_id)
                raise CommandError(f"work unit {unit.unit_id} was canceled before it was started")

            def begin(old: UnitStatus) -> UnitStatus:
                return replace(
                    old,
                    detail="Starting Worker",
                    stdin_size=stdin.size,
                    stdin_sha256=stdin.sha256,
                )

            if unit.status.remote is not None:
                # It must outlive even a power cut: somebody is told that it is submitted.
                try:
                    await unit.change(begin, durable=True)
                except WorkError as error:
                    reason = f"Error starting worker: {error}"
                    # What the disk refused may be there all the same, and the next start of the
                    # node would submit what the client is told has failed.
                    self.store.take_stdin_away(unit.unit_id)
                    await self.refuse_input(unit, reason)
                    raise CommandError(reason) from error
                if self._nursery is None:
                    # The node is ending, and its next start submits what is on record: to call it
                    # refused would be wrong.
                    return False
            else:
                # The supervisor writes it, with its claim: a write less for each unit.
                await unit.note(begin)
            attempt = self.spawn(unit)
        return await self._see_started(unit, attempt)

    async def _see_started(self, unit: Unit, attempt: FirstOutcome) -> bool:
        """Return True when a unit has started, False when that must wait, as it stands on record.

        Raises:
            MeshnodeError: it cannot be started.
        """
        pauses = Pauses()
        while not await attempt.wait(ATTEMPT_TIMEOUT):
            status = unit.status
            if status.remote is not None:
                return False
            if status.supervisor is not None:
                break
            if unit.is_final or unit.end_waits:
                raise CommandError(f"work unit {unit.unit_id} was not started: {status.detail}")
            try:
                # What is only in memory would be lost with this node; the next one starts it.
                await unit.keep()
            except WorkError as error:
                unit.log.warning("%s; its client waits until it is started", error)
                await pauses.take()
            else:
                if unit.status.state is UnitState.PENDING:
                    return False
        return True

    async def refuse_input(self, unit: Unit, detail: str) -> None:
        """End a unit as Failed that will not be started.

        The record of that may have to wait for the disk, which does not keep the caller.
        """
        with suppress(NotRecorded):
            await self.end(unit, UnitState.FAILED, detail)
        if self._is_of_no_use(unit):
            async with unit.wishes:
                await self.stop(unit)
                try:
                    await self.remove(unit)
                except WorkError as error:
                    unit.log.warning("it stays until somebody releases it: %s", error)
                    with suppress(NotRecorded):
                        await self.end(unit, UnitState.FAILED, detail)

    def _is_of_no_use(self, unit: Unit) -> bool:
        """Whether nobody will ask for a unit that never had its input.

        Another meshnode that has submitted it has the work on record, and submits it anew if it
        is still to be done.
        """
        status = unit.status
        is_anothers = bool(status.submitter and status.submission_key)
        return is_anothers and status.stdin_size is None and status.never_ran

    # --- the end of units ---------------------------------------------------------------------

    async def cancel(self, unit: Unit, *, unless_started: bool = False) -> bool:
        """Stop a unit; return False if that must wait for another node. A final one stays so.

        With ``unless_started``, only a unit that waits for its input is stopped.

        Raises:
            CommandError: it has started although it must not, or cannot be stopped.
        """
        async with unit.wishes:
            if unit.released:
                raise UnknownUnit(unit.unit_id)
            if unless_started and (unit.is_final or unit.status.input_complete):
                raise CommandError(f"work unit {unit.unit_id} does not wait for input any more")
            return await self._cancel(unit)

    async def _cancel(self, unit: Unit) -> bool:
        if unit.end_waits or not (unit.is_final or unit.status.input_complete):
            await self.end(unit, UnitState.CANCELED, "Canceled")
        return unit.is_final or await self._runner(unit).cancel(unit, self)

    async def release(self, unit: Unit, *, force: bool = False) -> bool:
        """Stop and delete a unit; return False if that must wait for another node.

        Raises:
            CommandError: it cannot be stopped or deleted.
        """
        is_insistent = force and unit.status.remote is None
        async with AsyncExitStack() as wish:
            # Whoever has another wish may wait for as long as a command is given to end.
            with trio.move_on_after(FORCE_PATIENCE if is_insistent else math.inf):
                await wish.enter_async_context(unit.wishes)
            if unit.released:
                raise UnknownUnit(unit.unit_id)
            if not unit.status.input_complete:
                with suppress(NotRecorded):
                    # Its files go now, and with them the record.
                    await self._cancel(unit)
            return await self._runner(unit).release(unit, self, force=force)

    # --- what runners ask for (UnitTasks) -----------------------------------------------------

    def spawn(self, unit: Unit) -> FirstOutcome:
        """Have the unit's runner drive it in a task of its own."""
        attempt = FirstOutcome()
        self._spawn(unit, attempt, partial(self._drive, unit, attempt))
        return attempt

    async def end(self, unit: Unit, state: UnitState, detail: str) -> None:
        """Give a unit a final state that nothing is left of, as soon as the disk takes that.

        Raises:
            NotRecorded: it does not now; the unit's task tries it again.
        """
        if not unit.end_waits or unit.unit_id not in self._tasks:
            try:
                await unit.end(state, detail, patient=False)
            except NotRecorded:
                # Somebody who asked for the same may have been first.
                if self._nursery is not None and unit.unit_id not in self._tasks:
                    self._end_soon(unit, state, detail)
                raise
        await unit.wait_ended()

    def _end_soon(self, unit: Unit, state: UnitState, detail: str) -> None:
        self._spawn(unit, FirstOutcome(), partial(self._record_end, unit, state, detail))

    async def stop(self, unit: Unit) -> None:
        """End the unit's task, and return when it has ended."""
        task = self._tasks.get(unit.unit_id)
        if task is not None:
            task.scope.cancel()
            await task.ended.wait()

    async def remove(self, unit: Unit, *, force: bool = False) -> None:
        """Delete the unit for good; with ``force`` it is forgotten although its files stay.

        Raises:
            WorkError: its files cannot be deleted.
        """
        if unit.released:
            return
        grave: Path | None = None
        try:
            grave = self.store.bury(unit.unit_id)
        except UnknownUnit:
            unit.log.warning("its files were gone before it was released")
        except WorkError as error:
            if not force:
                raise
            unit.log.warning("released by force: %s", error)
        # In the same breath as its files, so that no reader takes a release for a lost file.
        self._units.pop(unit.unit_id, None)
        is_needed = self.submissions.forget(unit, grave)
        unit.mark_released()
        unit.log.info("released")
        if grave is not None:
            erase = self.store.hollow if is_needed else self.store.erase
            await in_thread_or_here(erase, grave)

    # --- tasks --------------------------------------------------------------------------------

    def _spawn(self, unit: Unit, attempt: FirstOutcome, job: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is None:
            raise CommandError("the node is ending")
        assert unit.unit_id not in self._tasks
        self._tasks[unit.unit_id] = task = _Task()
        self._nursery.start_soon(self._work, unit, task, attempt, job, name=f"unit {unit.unit_id}")

    async def _work(
        self, unit: Unit, task: _Task, attempt: FirstOutcome, job: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            with task.scope:
                await job()
        finally:
            del self._tasks[unit.unit_id]
            task.ended.set()
            attempt.pending()

    async def _record_end(self, unit: Unit, state: UnitState, detail: str) -> None:
        try:
            await (unit.fail(detail) if state is UnitState.FAILED else unit.end(state, detail))
        except Overtaken:
            # The launcher of the last run had it on its way, and now it runs.
            await self._drive(unit, FirstOutcome())
        except Exception as error:
            # What ends units is at fault itself. The unit stays as it is; the node lives.
            unit.log.error("cannot be ended: %s", error, exc_info=error)

    async def _lose(self, unit: Unit) -> None:
        """End a unit that the last run had not started, and nobody can any more."""
        await self._record_end(unit, UnitState.FAILED, self._why_lost(unit.status))
        if unit.is_final and self._is_of_no_use(unit):
            await self.remove(unit)

    async def _drive(self, unit: Unit, attempt: FirstOutcome) -> None:
        try:
            await self._runner(unit).run(unit, attempt, self)
        except Exception as error:
            # A unit's boundary: whatever its fault is, it costs only this one.
            known = isinstance(error, MeshnodeError)
            detail = str(error) if known else f"internal error: {type(error).__name__}"
            unit.log.error("cannot go on: %s", detail, exc_info=None if known else error)
            await self._end_after_fault(unit, attempt, detail)
            attempt.fail(CommandError(detail))

    async def _end_after_fault(self, unit: Unit, attempt: FirstOutcome, detail: str) -> None:
        try:
            if unit.status.supervisor is not None and not unit.is_final:
                # Or it would be called failed, and run.
                await self._kill_after_fault(unit)
            await unit.fail(detail)
        except Overtaken:
            # It has a supervisor after all, or its end: the runner goes on from there.
            await self._drive(unit, attempt)
        except Exception as error:
            # What ends units is at fault itself. The unit stays as it is; the node lives.
            unit.log.error("cannot be ended: %s", error, exc_info=error)

    async def _kill_after_fault(self, unit: Unit) -> None:
        try:
            await self._commands.kill(unit)
        except Exception:
            # The same fault, perhaps. What is left can be found without the supervisor.
            unit.log.exception("its supervisor could not be killed")
            await self._commands.end_leftovers(unit)

    def _runner(self, unit: Unit) -> Runner:
        return self._commands if unit.status.remote is None else self._remotes

    def _add(self, stored: StoredUnit) -> Unit:
        unit = Unit(stored.unit_id, stored.status, self.store, self._now)
        self._units[unit.unit_id] = unit
        self.submissions.add(unit)
        return unit

    async def _forget_secrets(self, unit: Unit) -> None:
        public = unit.remote.open_params
        try:
            await unit.change(lambda old: old.with_remote(params=public))
        except MeshnodeError as error:
            unit.log.warning("spent secrets stay on disk: %s", error)

    async def _adopt_or_warn(self, stored: StoredUnit) -> None:
        try:
            await self._adopt(stored)
        except Exception as error:  # noqa: BLE001
            # A unit's boundary: whatever stands in its files, the node starts. The unit is listed
            # as it was read, and nothing drives it until the next start.
            reason = str(error) if isinstance(error, MeshnodeError) else type(error).__name__
            self._not_taken_over[stored.unit_id] = reason
            self._log.exception("unit %s could not be taken over: %s", stored.unit_id, reason)

    async def _adopt(self, stored: StoredUnit) -> None:
        """Take over a unit as the last run of this node left it."""
        unit = self._add(stored)
        if unit.status.has_spent_secrets:
            # receptor keeps them for as long as the unit; what it left to us ends here.
            await self._forget_secrets(unit)
        status = unit.status
        if status.state.is_final:
            if status.remote is not None and status.remote.released:
                self.spawn(unit)
        elif self._can_go_on(unit):
            self.spawn(unit)
        else:
            # Somebody may hold its lock, or the disk be full: no reason to hold up the start of
            # the node.
            self._spawn(unit, FirstOutcome(), partial(self._lose, unit))
            with trio.move_on_after(ADOPT_PATIENCE), suppress(NotRecorded):
                await unit.wait_ended()

    def _can_go_on(self, unit: Unit) -> bool:
        """Whether a unit that the last run has left is one that a task can bring to its end."""
        status = unit.status
        if status.remote is not None and (status.remote.unit_id or status.remote.started):
            return True
        if status.remote is None:
            if status.supervisor is not None or status.state is not UnitState.PENDING:
                # It runs; or nobody watches over it, and what is left of it is to be ended.
                return True
            if not self._boot or status.boot != self._boot:
                # It may have run: that is not always synced. Nor is its payload.
                return False
        # Its payload is complete and here: to be started is all that it lacks.
        return status.input_complete and self.store.has_input(unit.unit_id, status.stdin_size)

    def _why_lost(self, status: UnitStatus) -> str:
        if status.remote is not None:
            return INPUT_LOST
        if status.boot == self._boot or status.submission_key:
            return NOT_STARTED if status.input_complete else f"{INPUT_LOST}, or started the work"
        # That a command was started is synced before it is only for other nodes, which submit it
        # again if it was not; here a power cut may have undone the record.
        return "lost: the machine went down when the work was about to start, or just had"
