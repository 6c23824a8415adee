"""Units that run on another node: submitted there once, mirrored here (protocol section 10)."""

from contextlib import AsyncExitStack, suppress
from functools import partial

import trio

from meshnode.errors import CommandError, MeshnodeError, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.remote.client import Dialer, RemoteControl
from meshnode.work.remote.farside import LongLines, RemoteRefused, RemoteUnavailable
from meshnode.work.remote.follower import GONE, RemoteFollower
from meshnode.work.remote.inquiry import Inquiry, Lost
from meshnode.work.remote.reconnect import Reconnector
from meshnode.work.remote.start import Start
from meshnode.work.units.access import Signatures
from meshnode.work.units.runner import FirstOutcome, UnitTasks
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Clock, NotRecorded, Unit

ATTEMPT_TIMEOUT = 20.0
"""Seconds for which a client waits for the first try to reach the other node; then its wish is
pending. Longer than the handshake of a stream (15 s), so that a slow answer is still an answer."""

FORCE_TIMEOUT = 20.0
"""Seconds that a forced release gives its one try: longer than the other node takes to end a
command that is deaf to all but SIGKILL."""

END_TIMEOUT = 5.0
"""Seconds that a confirmed cancel waits for the rest of stdout before it is answered."""


class RemoteRunner:
    """Drives the units that this node has submitted to others."""

    def __init__(
        self,
        dialer: Dialer,
        store: UnitStore,
        signatures: Signatures,
        now: Clock,
        max_output: int,
    ) -> None:
        self._dialer = dialer
        self._store = store
        self._signatures = signatures
        self._now = now
        self._max_output = max_output
        self._long_lines = LongLines()

    async def run(self, unit: Unit, attempt: FirstOutcome, tasks: UnitTasks) -> None:
        """Do what the record asks for: release, cancel, start, mirror."""
        link = self._link(unit)
        if unit.remote.released:
            if await self._release_there(unit, link, attempt):
                await self._remove_now(unit, attempt, tasks)
                return
        elif unit.remote.cancelled and not unit.is_final:
            await self._cancel_there(unit, link, attempt)
        elif not unit.remote.started and not unit.is_final:
            async with AsyncExitStack() as talk:
                key = self._key(unit)
                start = Start(unit, link, attempt, self._store, self._now, key, talk)
                await start.run()
                if not unit.is_final:
                    await self._mirror(unit, link, start.followed).run()
            return
        if not unit.is_final:
            await self._mirror(unit, link).run()

    async def _remove_now(self, unit: Unit, attempt: FirstOutcome, tasks: UnitTasks) -> None:
        """Remove a unit that the other node has released; it is canceled if the disk refuses."""
        try:
            await tasks.remove(unit)
        except WorkError as error:
            unit.log.warning("%s", error)
            attempt.fail(error)
            if not unit.is_final:
                await unit.end(UnitState.CANCELED, "Canceled")
            # Not pending any more: a retention tries it again, or who asked, or the next start.
            await unit.note(lambda status: status.with_remote(released=False))
        else:
            attempt.done()

    def _key(self, unit: Unit) -> str:
        """Return the key of the unit's submission."""
        if unit.remote.key:
            return f"{unit.unit_id}:{unit.remote.key}"
        # A record from before keys had a secret in them.
        return f"{self._dialer.node_id}:{unit.unit_id}"

    def _mirror(
        self, unit: Unit, link: Reconnector, followed: RemoteControl | None = None
    ) -> RemoteFollower:
        return RemoteFollower(unit, link, self._store, self._now, self._max_output, followed)

    async def cancel(self, unit: Unit, tasks: UnitTasks) -> bool:
        """Cancel at once what the other node has never heard of; else have it cancel."""
        await tasks.stop(unit)
        if unit.is_final:
            return True
        if not unit.remote.unit_id:
            # One write for both.
            await unit.note(lambda status: status.with_remote(cancelled=True))
            await tasks.end(unit, UnitState.CANCELED, "Canceled")
            return True
        try:
            await unit.change(lambda status: status.with_remote(cancelled=True), durable=True)
        except WorkError:
            # The wish is refused, and the unit goes on.
            tasks.spawn(unit)
            raise
        confirmed = await tasks.spawn(unit).wait(ATTEMPT_TIMEOUT)
        if confirmed:
            with trio.move_on_after(END_TIMEOUT):
                await unit.wait_final()
        return confirmed

    async def release(self, unit: Unit, tasks: UnitTasks, *, force: bool) -> bool:
        """Have the other node release its unit, then remove ours."""
        await tasks.stop(unit)
        if unit.remote.unit_id and not force:
            try:
                await unit.change(
                    lambda status: status.with_remote(cancelled=True, released=True), durable=True
                )
            except WorkError:
                # It cannot be left pending, but it may be done now: that gives room back.
                if await self._try_release(unit):
                    await self._remove(unit, tasks, force=False)
                    return True
                if not unit.is_final:
                    tasks.spawn(unit)
                raise
            return await tasks.spawn(unit).wait(ATTEMPT_TIMEOUT)
        if unit.remote.unit_id:
            await self._try_release(unit)
        await self._remove(unit, tasks, force=force)
        return True

    async def _remove(self, unit: Unit, tasks: UnitTasks, *, force: bool) -> None:
        """Remove a unit that nothing is left of on the other node."""
        try:
            await tasks.remove(unit, force=force)
        except WorkError:
            # Somebody must record that when the disk is well, since it has no task any more.
            with suppress(NotRecorded):
                await tasks.end(unit, UnitState.CANCELED, "Canceled")
            raise

    def _link(self, unit: Unit) -> Reconnector:
        remote = unit.remote
        sign = self._signatures.sign if remote.sign_work else None
        return Reconnector(self._dialer, remote.node, unit.log, self._long_lines, sign=sign)

    async def _try_release(self, unit: Unit) -> bool:
        """Have the other node release its unit, if that can be done now."""
        link = self._link(unit)
        try:
            with trio.fail_after(FORCE_TIMEOUT):
                async with await link.open() as node:
                    await node.ask(subcommand="release", unitid=unit.remote.unit_id)
        except (MeshnodeError, trio.TooSlowError) as error:
            if isinstance(error, RemoteRefused) and error.unit_unknown:
                return True
            unit.log.warning(
                "unit %s may be left on node %s: %s",
                unit.remote.unit_id,
                unit.remote.node,
                str(error) or f"no answer within {FORCE_TIMEOUT:g} s",
            )
            return False
        return True

    async def _release_there(self, unit: Unit, link: Reconnector, attempt: FirstOutcome) -> bool:
        """Return whether the other node has no such unit any more; else it refuses."""
        try:
            await _insist(link, attempt, unit, subcommand="release")
        except RemoteRefused as refusal:
            if not refusal.unit_unknown:
                error = CommandError(f"error releasing remote unit: {refusal.reason}")
                unit.log.warning("%s", error)
                attempt.fail(error)
                # The wish is not pending: the unit is there until somebody has another one.
                undo = partial(UnitStatus.with_remote, released=False)
                try:
                    await unit.change(undo, durable=True)
                except WorkError as refused:
                    unit.log.warning("%s: the next start asks again", refused)
                    await unit.note(undo)
                return False
        return True

    async def _cancel_there(self, unit: Unit, link: Reconnector, attempt: FirstOutcome) -> None:
        """Have the other node cancel; what became of the unit there, the mirror will see."""
        try:
            await _insist(link, attempt, unit, subcommand="cancel")
        except RemoteRefused as refusal:
            if not refusal.unit_unknown:
                error = CommandError(f"error cancelling remote unit: {refusal.reason}")
                unit.log.warning("%s", error)
                attempt.fail(error)
                return
            if unit.remote.started:
                await unit.fail(GONE)
        if not (unit.remote.started or unit.is_final):
            await self._end_unstarted(unit, link, attempt)
        attempt.done()

    async def _end_unstarted(self, unit: Unit, link: Reconnector, attempt: FirstOutcome) -> None:
        """End a unit that was canceled over there if it was never started, or nobody can tell.

        It may be unknown there, or have failed for want of the rest of its payload.
        """
        inquiry = Inquiry(unit, self._key(unit), self._now)
        while not unit.is_final:
            try:
                async with await link.open() as node:
                    started = await inquiry.started_unit(node)
                if started is not None:
                    await unit.note(partial(UnitStatus.with_remote, unit_id=started, started=True))
                    return
                await unit.end(UnitState.CANCELED, "Canceled")
            except Lost as error:
                await unit.fail(str(error))
            except (RemoteUnavailable, RemoteRefused) as error:
                attempt.pending()
                await link.recover(RemoteUnavailable(str(error)))


async def _insist(link: Reconnector, attempt: FirstOutcome, unit: Unit, *, subcommand: str) -> None:
    """Have the other node do something with its unit, however long it takes to reach it."""
    while True:
        try:
            async with await link.open() as node:
                await node.ask(subcommand=subcommand, unitid=unit.remote.unit_id)
                return
        except RemoteUnavailable as error:
            attempt.pending()
            await link.recover(error)
