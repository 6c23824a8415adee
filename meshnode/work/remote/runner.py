"""Units that run on another node: submitted there once, mirrored here (protocol section 10)."""

from contextlib import AsyncExitStack
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
from meshnode.work.units.runner import FirstOutcome, Outcome
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Clock, Unit

FORCE_TIMEOUT = 20.0
"""Seconds that a forced release gives its one try: longer than the other node takes to end a
command that is deaf to all but SIGKILL."""


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

    @property
    def stops_for_requests(self) -> bool:
        """Yes: a request changes the record, from which the task then goes on."""
        return True

    async def run(self, unit: Unit, first: FirstOutcome) -> Outcome:
        """Do what the record asks for: release, cancel, start, mirror."""
        link = self._link(unit)
        if unit.remote.released:
            if await self._release_there(unit, link, first):
                return Outcome.REMOVABLE
        elif unit.remote.cancelled and not unit.is_final:
            await self._cancel_there(unit, link, first)
        elif not unit.remote.started and not unit.is_final:
            async with AsyncExitStack() as talk:
                key = self._key(unit)
                start = Start(unit, link, first, self._store, self._now, key, talk)
                await start.run()
                if not unit.is_final:
                    await self._mirror(unit, link, start.followed).run()
            return Outcome.DONE
        if not unit.is_final:
            await self._mirror(unit, link).run()
        return Outcome.DONE

    async def abandon(self, unit: Unit) -> None:
        """Leave the unit to the other node, where whoever may ask can still end it."""

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

    async def cancel(self, unit: Unit) -> Outcome:
        """Cancel at once what the other node has never heard of; else have it cancel."""
        if unit.is_final:
            return Outcome.DONE
        if not unit.remote.unit_id:
            # The record of the end brings it to disk.
            await unit.note(lambda status: status.with_remote(cancelled=True))
            return Outcome.IDLE
        await unit.change(lambda status: status.with_remote(cancelled=True), durable=True)
        return Outcome.REQUESTED

    async def release(self, unit: Unit, *, force: bool) -> Outcome:
        """Have the other node release its unit; ours is removable then."""
        if not unit.remote.unit_id:
            return Outcome.REMOVABLE
        if not force:
            try:
                await unit.change(
                    lambda status: status.with_remote(cancelled=True, released=True), durable=True
                )
            except WorkError:
                # It cannot be left pending, but it may be done now: that gives room back.
                if await self._try_release(unit):
                    return Outcome.REMOVABLE
                raise
            return Outcome.REQUESTED
        await self._try_release(unit)
        return Outcome.REMOVABLE

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

    async def _release_there(self, unit: Unit, link: Reconnector, first: FirstOutcome) -> bool:
        """Return whether the other node has no such unit any more; else it refuses."""
        try:
            await _insist(link, first, unit, subcommand="release")
        except RemoteRefused as refusal:
            if not refusal.unit_unknown:
                error = CommandError(f"error releasing remote unit: {refusal.reason}")
                unit.log.warning("%s", error)
                first.fail(error)
                # Not pending any more: the unit stays until somebody asks again.
                undo = partial(UnitStatus.with_remote, released=False)
                try:
                    await unit.change(undo, durable=True)
                except WorkError as refused:
                    unit.log.warning("%s: the next start asks again", refused)
                    await unit.note(undo)
                return False
        return True

    async def _cancel_there(self, unit: Unit, link: Reconnector, first: FirstOutcome) -> None:
        """Have the other node cancel; what became of the unit there, the mirror will see."""
        try:
            await _insist(link, first, unit, subcommand="cancel")
        except RemoteRefused as refusal:
            if not refusal.unit_unknown:
                error = CommandError(f"error cancelling remote unit: {refusal.reason}")
                unit.log.warning("%s", error)
                first.fail(error)
                return
            if unit.remote.started:
                await unit.fail(GONE)
        if not (unit.remote.started or unit.is_final):
            await self._end_unstarted(unit, link, first)
        first.done()

    async def _end_unstarted(self, unit: Unit, link: Reconnector, first: FirstOutcome) -> None:
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
                first.pending()
                await link.recover(RemoteUnavailable(str(error)))


async def _insist(link: Reconnector, first: FirstOutcome, unit: Unit, *, subcommand: str) -> None:
    """Have the other node do something with its unit, however long it takes to reach it."""
    while True:
        try:
            async with await link.open() as node:
                await node.ask(subcommand=subcommand, unitid=unit.remote.unit_id)
                return
        except RemoteUnavailable as error:
            first.pending()
            await link.recover(error)
