"""How units end on request: refused, canceled, released.

Of a request, this is the order. The unit is locked for it. Its runner stops what runs, or records
the request; the outcome says which (see ``runner``). Only then the end is recorded or the files are
removed, so that whatever the node is cut off in, its next start finds either a unit that can be
ended or none.
"""

import math
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import trio

from meshnode.errors import CommandError, UnknownUnit, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.auditlines import Kind
from meshnode.security.identity import Identity
from meshnode.work.units.access import Allowed, Caller
from meshnode.work.units.chains import Chains
from meshnode.work.units.endedby import Cause, EndedBy
from meshnode.work.units.journal import Journal
from meshnode.work.units.queue import RunQueue
from meshnode.work.units.runner import Outcome, Runner
from meshnode.work.units.shortage import NotNow, NotRecorded
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.submissions import Submissions
from meshnode.work.units.tasks import FIRST_TIMEOUT, UnitTasks
from meshnode.work.units.unit import Unit

FORCE_PATIENCE = 1.0
"""Seconds that a forced release of a unit waits for somebody else's cancel or release of it, which
may take as long as a command is given to end."""

STOP_PATIENCE = 2.0
"""Seconds that a release waits for the unit's task, which may wait for a launcher that does not
answer. It finds the unit gone when it goes on."""

UNDO_TIMEOUT = 2.0
"""Seconds to remove a unit that is not to be, when its session is being ended: a disk write."""

END_TIMEOUT = 5.0
"""Seconds that a confirmed cancel waits for the rest of stdout before it is answered."""


class UnitEnder:
    """Ends and removes units. ``units`` is what there is, by ID."""

    def __init__(
        self,
        store: UnitStore,
        units: MutableMapping[str, Unit],
        submissions: Submissions,
        tasks: UnitTasks,
        runner_of: Callable[[Unit], Runner],
        journal: Journal,
        queue: RunQueue,
        chains: Chains,
    ) -> None:
        self._store = store
        self._units = units
        self._submissions = submissions
        self._tasks = tasks
        self._runner_of = runner_of
        self._journal = journal
        self._queue = queue
        self._chains = chains

    async def keep_if_told(self, kind: Kind, unit: Unit, caller: Caller, allowed: Allowed) -> None:
        """Tell the audit log of a new unit; nothing is left of one that it must have and cannot.

        Raises:
            NotNow: it cannot.
        """
        if not self._journal.is_on:
            return
        try:
            await self._journal.accepted(kind, unit.unit_id, unit.status, caller, allowed)
        except BaseException as error:
            with trio.move_on_after(UNDO_TIMEOUT, shield=True):
                # Of one that was never heard of there is no end to tell.
                await self.remove(unit, is_told=not isinstance(error, NotNow))
            raise

    async def refuse(self, unit: Unit, detail: str) -> None:
        """End a unit as Failed that will not be started; the caller holds its command lock.

        The record of that may have to wait for the disk, which does not keep the caller.
        """
        with suppress(NotRecorded):
            await self.end(unit, UnitState.FAILED, detail)
        if is_disposable(unit.status):
            await self._tasks.stop(unit)
            try:
                await self.remove(unit)
            except WorkError as error:
                unit.log.warning("it stays until somebody releases it: %s", error)
                with suppress(NotRecorded):
                    await self.end(unit, UnitState.FAILED, detail)

    async def cancel(
        self, unit: Unit, by: Identity | None = None, *, unless_started: bool = False
    ) -> bool:
        """Stop a unit; return False if that must wait for another node. A final one stays so.

        ``by`` is who asks.
        With ``unless_started``, only a unit that waits for its input is stopped.

        Raises:
            CommandError: it has started although it must not, or cannot be stopped.
        """
        async with unit.command_lock:
            if unit.released:
                raise UnknownUnit(unit.unit_id)
            if unless_started and (unit.is_final or unit.status.input_complete):
                raise CommandError(f"work unit {unit.unit_id} does not wait for input any more")
            await _note_asker(unit, EndedBy(Cause.CANCEL, by))
            return await self._cancel(unit)

    async def _cancel(self, unit: Unit) -> bool:
        if unit.end_waits or not (unit.is_final or unit.status.input_complete):
            await self.end(unit, UnitState.CANCELED, "Canceled")
        if unit.is_final:
            return True
        outcome = await self._ask_runner(unit, lambda runner: runner.cancel(unit))
        if outcome is Outcome.IDLE:
            await self._end_idle(unit)
        if outcome is not Outcome.REQUESTED:
            return True
        confirmed = await self._tasks.spawn(unit).wait(FIRST_TIMEOUT)
        if confirmed:
            with trio.move_on_after(END_TIMEOUT):
                await unit.wait_final()
        return confirmed

    async def release(
        self, unit: Unit, by: Identity | None = None, *, force: bool = False, remote: bool = False
    ) -> bool:
        """Stop and delete a unit; return False if that must wait for another node.

        ``by`` is who asks; None is the node itself. With ``remote``, an adopted unit is released on
        its node as well.

        Raises:
            CommandError: it cannot be stopped or deleted.
        """
        is_insistent = force and unit.status.is_command
        async with AsyncExitStack() as lock:
            with trio.move_on_after(FORCE_PATIENCE if is_insistent else math.inf):
                await lock.enter_async_context(unit.command_lock)
            if unit.released:
                raise UnknownUnit(unit.unit_id)
            await _note_asker(unit, EndedBy(Cause.RELEASE, by))
            if not unit.status.is_command:
                # Another node may have to be told, which can take until after a restart.
                await unit.note(lambda status: replace(status, released_by=by))
            if not unit.status.input_complete:
                with suppress(NotRecorded):
                    # Its files go now, and with them the record.
                    await self._cancel(unit)
            outcome = await self._ask_runner(
                unit, lambda runner: runner.release(unit, force=force, remote=remote)
            )
            if outcome is Outcome.REQUESTED:
                return await self._tasks.spawn(unit).wait(FIRST_TIMEOUT)
            if outcome is Outcome.IDLE:
                with suppress(NotRecorded):
                    await self._end_idle(unit)
            with trio.move_on_after(STOP_PATIENCE):
                await self._tasks.stop(unit)
            try:
                await self.remove(unit, by, force=force)
            except WorkError:
                # Nothing of it runs, and somebody must record that when the disk is well.
                with suppress(NotRecorded):
                    await self.end(unit, UnitState.CANCELED, "Canceled")
                raise
            return True

    async def _ask_runner(self, unit: Unit, ask: Callable[[Runner], Awaitable[Outcome]]) -> Outcome:
        if self._queue.is_waiting(unit) or self._chains.is_waiting(unit):
            # Its runner has not heard of it, and will not.
            self._queue.leave(unit)
            self._chains.leave(unit)
            return Outcome.IDLE
        runner = self._runner_of(unit)
        if not runner.stops_for_requests:
            return await ask(runner)
        try:
            with trio.CancelScope(shield=True):
                await self._tasks.stop(unit)
            return await ask(runner)
        except BaseException:
            # Refused, or its session was ended: the unit goes on as its record says.
            if self._tasks.are_open and not unit.released:
                self._tasks.spawn(unit)
            raise

    async def _end_idle(self, unit: Unit) -> None:
        # Without an await in between, nothing can start the unit.
        await self._tasks.stop(unit)
        await self.end(unit, UnitState.CANCELED, "Canceled")

    async def end(self, unit: Unit, state: UnitState, detail: str) -> None:
        """Give a unit a final state that nothing is left of, as soon as the disk takes that.

        Raises:
            NotRecorded: it does not now; the unit's task tries it again.
        """
        if not (unit.end_waits and self._tasks.has(unit)):
            try:
                await unit.end(state, detail, patient=False)
            except NotRecorded:
                # Somebody who asked for the same may have been first.
                if self._tasks.are_open and not self._tasks.has(unit):
                    self._tasks.spawn_end(unit, state, detail)
                raise
        await unit.wait_ended()

    async def remove(
        self,
        unit: Unit,
        by: Identity | None = None,
        *,
        force: bool = False,
        is_told: bool = True,
    ) -> None:
        """Delete the unit for good; with ``force`` it is forgotten although its files stay.

        ``by`` is who asked for it, for the logs; without ``is_told`` the audit log hears nothing.

        Raises:
            WorkError: its files cannot be deleted.
        """
        if unit.released:
            return
        trash: Path | None = None
        try:
            trash = await self._store.take_away(unit.unit_id)
        except UnknownUnit:
            if unit.unit_id not in self._units:
                return  # removed by somebody else, while this waited for a slow disk
            unit.log.warning("its files were gone before it was released")
        except WorkError as error:
            if not force:
                raise
            unit.log.warning("released by force: %s", error)
        # Without an await since the rename, so that no reader takes a release for a lost file.
        known = self._units.pop(unit.unit_id, None)
        if known is not None and unit.figures is not None:
            unit.figures.went(unit.status)
        is_needed = self._submissions.forget(unit, trash)
        unit.mark_released()
        if is_told:
            self._journal.released(unit.unit_id, unit.status, by)
        if by is None:
            unit.log.info("released")
        else:
            unit.log.info("released by %s", by)
        if trash is not None:
            await self._store.delete(trash, keeps_status=is_needed)


async def _note_asker(unit: Unit, end: EndedBy) -> None:
    """Note who asks for an end, before anything of the unit is stopped.

    Who asks again for what waits for another node has not ended it.
    """
    remote = unit.status.remote
    if unit.is_final or (unit.status.ended_by and remote is not None and remote.cancelled):
        return
    unit.log.info("%s asked for by %s", end.cause, end.by or "this node")
    await unit.note(lambda status: replace(status, ended_by=end))


def is_disposable(status: UnitStatus) -> bool:
    """Whether nobody will ask for a unit that never had its input.

    Another meshnode that has submitted it has the work on record, and submits it again if it is
    still to be done.
    """
    is_anothers = bool(status.submitter and status.submission_key)
    return is_anothers and status.stdin_size is None and status.never_ran
