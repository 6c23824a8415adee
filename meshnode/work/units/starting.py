"""How units start: the payload is taken in, recorded, and the unit driven now or when it may.

The order is that of "a submission" in :mod:`.manager`.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import trio

from meshnode import files
from meshnode.errors import CommandError, UnknownUnit, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.chains import Chains, NeverStarts
from meshnode.work.units.ending import UnitEnder
from meshnode.work.units.intake import (
    Digest,
    EndedEarly,
    Input,
    InputRefused,
    Payload,
    Receive,
    UnitFile,
    WrongInput,
    first_bytes,
    take_input,
)
from meshnode.work.units.queue import RunQueue
from meshnode.work.units.quotas import Quotas
from meshnode.work.units.runner import FirstOutcome
from meshnode.work.units.shortage import NotNow, Pauses, check_fits
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.tasks import FIRST_TIMEOUT, UnitTasks
from meshnode.work.units.unit import Unit
from meshnode.work.units.uploads import TakenOver, Upload, Uploads

CLEANUP_TIMEOUT = 2.0
"""Seconds to record why a payload broke off when its session is being ended: a disk write."""

NO_DEPS = Input()
"""What came of a tar where none was announced."""


class UnitStarter:
    """Starts units, or has them wait for their turn."""

    def __init__(
        self,
        store: UnitStore,
        tasks: UnitTasks,
        ender: UnitEnder,
        quotas: Quotas,
        queue: RunQueue,
        chains: Chains,
        uploads: Uploads,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._ender = ender
        self._quotas = quotas
        self._queue = queue
        self._chains = chains
        self._uploads = uploads

    async def start(self, unit: Unit, payload: Payload) -> bool:
        """Take in a unit's payload and start it; return False if that must wait.

        Raises:
            InputRefused: the payload is not all there, or not what was announced; the unit failed.
            trio.BrokenResourceError: the client is gone; the unit failed, or awaits the rest.
            CommandError: the unit was canceled or released meanwhile.
            MeshnodeError: it cannot be started.
        """
        async with self._uploads.session(unit) as upload:
            stdin, deps = await self._take_input(unit, payload, upload)
            if unit.figures is not None:
                unit.figures.payload_bytes += (stdin.size or 0) + (deps.size or 0)
            first = await self._start(unit, stdin, deps)
        if first is None or (not self._tasks.has(unit) and self._waits(unit)):
            return False
        return await self._see_started(unit, first)

    def _waits(self, unit: Unit) -> bool:
        return self._queue.is_waiting(unit) or self._chains.is_waiting(unit)

    async def _take_input(
        self, unit: Unit, payload: Payload, upload: Upload | None
    ) -> tuple[Input, Input]:
        """Return what came as stdin, and as the tar before it."""
        try:
            with self._quotas.taking_in(unit, payload) as receive:
                deps_here = stdin_here = 0
                if upload is not None:
                    receive = upload.receiving(receive)
                    deps_here, stdin_here = self._uploads.parts(unit)
                files_size = 0 if payload.deps is not None else unit.status.job.files.size
                announced = files_size + (payload.announced.size or 0)
                await check_fits(self._store.root, announced - deps_here - stdin_here)
                await payload.invite(deps_here + stdin_here)
                deps = NO_DEPS
                if payload.deps is not None:
                    deps = await self._share_deps(unit, payload.deps)
                elif unit.status.job.files.size:
                    deps = await self._take_deps(unit, receive, deps_here, upload)
                file = await self._store.open_input(
                    unit.unit_id, lambda: not unit.is_final, stdin_here
                )
                digest = None if upload is None else upload.stdin
                stdin = await self._take(unit, receive, file, payload.announced, digest)
                return stdin, deps
        except TakenOver as error:
            raise InputRefused(f"Error reading input data: {error}") from error
        except (OSError, WrongInput, NotNow) as error:
            if isinstance(error, EndedEarly) and self._uploads.is_worth_keeping(unit):
                await self._await_rest(unit, error)
                detail = f"Error reading input data: {error}"
                raise InputRefused(detail) from NotNow(str(error))
            reason = error.strerror if isinstance(error, OSError) else error
            detail = await self.refuse_input(unit, reason)
            raise InputRefused(detail) from error
        except trio.BrokenResourceError as error:
            await self._lose_client(unit, error or "the client is gone")
            raise
        except trio.Cancelled:
            with trio.move_on_after(CLEANUP_TIMEOUT, shield=True):
                await self._lose_client(unit, "the session was ended")
            raise

    async def _share_deps(self, unit: Unit, source: Path) -> Input:
        """Give a unit the tar that it shares with others. Raises OSError."""
        await self._store.take_deps(unit.unit_id, source)
        files = unit.status.job.files
        return Input(files.size, files.sha256)

    async def _take_deps(
        self, unit: Unit, receive: Receive, here: int, upload: Upload | None
    ) -> Input:
        """Take in the tar with which a payload begins, of which some bytes may be here.

        Raises as ``take_input``.
        """
        announced = unit.status.job.files
        file = await self._store.open_deps(unit.unit_id, lambda: not unit.is_final, here)
        first = first_bytes(receive, announced.size - here)
        expected = Input(announced.size, announced.sha256)
        digest = None if upload is None else upload.deps
        try:
            return await self._take(unit, first, file, expected, digest)
        except WrongInput as error:
            raise type(error)(f"the tar of dependencies: {error}") from error

    async def _take(
        self, unit: Unit, receive: Receive, file: UnitFile, announced: Input, digest: Digest | None
    ) -> Input:
        """Write what comes behind what is in a file; close it. Raises as ``take_input``."""
        here = file.size
        try:
            keep = not unit.status.is_command
            return await take_input(receive, file, announced, keep=keep, digest=digest)
        except WrongInput as error:
            if here and not isinstance(error, EndedEarly):
                # What was here may be what is wrong, as after a power cut: the client may begin
                # anew, and is refused for good if all of it at once is wrong, too.
                raise NotNow(f"put together of parts: {error}") from error
            raise
        finally:
            file.close()

    async def _lose_client(self, unit: Unit, reason: object) -> None:
        """End a unit whose client is gone, unless that may come back with the rest."""
        if not self._uploads.is_worth_keeping(unit):
            await self.refuse_input(unit, reason)
            return
        await self._await_rest(unit, reason)

    async def _await_rest(self, unit: Unit, reason: object) -> None:
        """Say of a unit whose payload was cut off that it waits for the rest."""
        unit.log.info("its payload was cut off, and waits for the rest: %s", reason)
        with suppress(UnknownUnit):
            await self._uploads.show(unit)
        if unit.is_final:
            # It ended meanwhile, and a piece may have come to the disk after that.
            await self._store.drop_input(unit.unit_id)

    async def refuse_input(self, unit: Unit, reason: object) -> str:
        """End a unit that will not have its input; return the detail that says so."""
        detail = f"Error reading input data: {reason}"
        was_final = unit.is_final
        async with unit.command_lock:
            await self._ender.refuse(unit, detail)
        if was_final:
            # Its end has dropped the input, and a piece may have come to the disk after that.
            await self._store.drop_input(unit.unit_id)
        return detail

    async def _start(self, unit: Unit, stdin: Input, deps: Input) -> FirstOutcome | None:
        """Have a unit driven whose input is complete; None if the next run of the node does it."""
        async with unit.command_lock:
            if unit.is_final or unit.end_waits:
                await self._store.drop_input(unit.unit_id)
                raise CommandError(f"work unit {unit.unit_id} was canceled before it was started")

            def begin(old: UnitStatus) -> UnitStatus:
                return replace(
                    old,
                    detail="Starting Worker",
                    stdin_size=stdin.size,
                    stdin_sha256=stdin.sha256,
                    job=old.job.with_digest(deps.sha256),
                )

            if not unit.status.is_command:
                # It must outlive even a power cut: somebody is told that it is submitted.
                try:
                    await unit.change(begin, durable=True)
                except WorkError as error:
                    reason = f"Error starting worker: {error}"
                    # What the disk refused may be there all the same, and the next start of the
                    # node would submit what the client is told has failed.
                    await self._store.withdraw_input(unit.unit_id)
                    await self._ender.refuse(unit, reason)
                    raise CommandError(reason) from error
                if not self._tasks.are_open:
                    # The node is ending, and its next start submits what is on record: to call it
                    # refused would be wrong.
                    return None
            else:
                # The supervisor writes it, with its claim: a write less for each unit.
                await unit.note(begin)
            return await self.begin(unit)

    async def begin(self, unit: Unit) -> FirstOutcome:
        """Have a unit driven, now or when its turn comes."""
        status = unit.status
        if status.after:
            if status.is_command and not status.queued:
                await self._keep_waiting(unit)
            return self._tasks.spawn(unit) if self._chains.enter(unit) else _pending()
        # Of other runners than that for commands, a record of the start says that it may have.
        has_started = (
            status.state is not UnitState.PENDING
            or status.supervisor is not None
            or status.started is not None
        )
        if not has_started and not status.queued and self._queue.would_wait(unit):
            await self._keep_waiting(unit)
        if self._queue.enter(unit, has_started=has_started):
            return self._tasks.spawn(unit)
        return _pending()

    async def may_go_on(self, unit: Unit, first: FirstOutcome) -> bool:
        """Return whether a unit that has come after others can be driven now.

        It fails if that cannot come any more, or waits for the rest, or for its turn.
        """
        try:
            is_free = await self._chains.settle(unit)
        except NeverStarts as error:
            await unit.fail(str(error))
            first.fail(error)
            return False
        if is_free and self._queue.enter(unit):
            return True
        first.pending()
        return False

    async def _keep_waiting(self, unit: Unit) -> None:
        """Have a unit that is going to wait outlive a power cut."""
        try:
            await self._store.sync_input(unit.unit_id, with_deps=unit.status.deps_size > 0)
            await unit.change(lambda old: replace(old, detail="Queued", queued=True), durable=True)
        except (OSError, WorkError) as error:
            # It waits all the same, and would be lost with the machine only.
            reason = files.reason(error) if isinstance(error, OSError) else error
            unit.log.warning("it waits in the queue, but not past a power cut: %s", reason)

    async def _see_started(self, unit: Unit, first: FirstOutcome) -> bool:
        """Return True when a unit has started, False when that must wait, as it stands on record.

        Raises:
            MeshnodeError: it cannot be started.
        """
        pauses = Pauses()
        while not await first.wait(FIRST_TIMEOUT):
            status = unit.status
            if not status.is_command:
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


def _pending() -> FirstOutcome:
    """Return the first outcome of a unit that waits."""
    first = FirstOutcome()
    first.pending()
    return first
