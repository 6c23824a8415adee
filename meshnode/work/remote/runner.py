"""Runs units on other nodes: submits each once and follows it to its end (protocol section 10)."""

from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import trio

from meshnode.errors import CommandError, MeshnodeError, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.protocol.times import parse_duration
from meshnode.work.placement.nodes import NodeDirectory
from meshnode.work.placement.placer import AllRefuse, PassedOver, Placer
from meshnode.work.remote.adopted import GONE, FirstLook
from meshnode.work.remote.client import RemoteControl
from meshnode.work.remote.failures import (
    NoTlsClient,
    NotThere,
    RefusedThere,
    RemoteRefused,
    RemoteUnavailable,
    as_unavailable,
)
from meshnode.work.remote.follower import RemoteFollower
from meshnode.work.remote.outage import Outage
from meshnode.work.remote.reconcile import Lost, Reconciler
from meshnode.work.remote.reconnect import Dialer, LostRoutes, Reconnector
from meshnode.work.remote.replies import LongLines
from meshnode.work.remote.start import Expiry, RemoteStart, check_secrets
from meshnode.work.units.keys import new_secret
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.runner import FirstOutcome, Outcome, Plan
from meshnode.work.units.signatures import Signatures
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.submission import Submission
from meshnode.work.units.unit import Clock, Unit

if TYPE_CHECKING:
    from meshnode.security.tls import TlsClients, TlsSource

FORCE_TIMEOUT = 20.0
"""Seconds for the one try of a forced release: the other node may have to send SIGKILL first."""


class RemoteRunner:
    """Drives the units that this node has submitted to others."""

    def __init__(
        self,
        dialer: Dialer,
        store: UnitStore,
        signatures: Signatures,
        now: Clock,
        max_output: int,
        tls: "TlsClients | None" = None,
        placer: Placer | None = None,
    ) -> None:
        """``tls`` returns where to get the settings of a ``tls-client``, by its name; ``placer``
        chooses nodes for units that may run on several."""
        self._placer = placer or Placer(NodeDirectory(dialer))
        self._tls = tls or _no_tls
        self._dialer = dialer
        self._store = store
        self._signatures = signatures
        self._now = now
        self._max_output = max_output
        self._long_lines = LongLines()
        self._lost_routes = LostRoutes(dialer)

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Look at the routes for all units; each dials for itself."""
        await self._lost_routes.run(task_status=task_status)

    def plan(self, submission: Submission) -> Plan:
        """Return what is to be submitted to another node.

        Raises:
            CommandError, CannotSign: it cannot be.
        """
        name = submission.tls_client
        if name and self._tls(name) is None:
            raise CommandError(f"unknown TLS config {name}")
        check_secrets(name, submission.all_params)
        if submission.sign_work:
            self._signatures.require_signer()
        return Plan(
            remote=RemoteExtra(
                node=submission.node if submission.placement is None else "",
                placement=submission.placement,
                work_type=submission.work_type,
                params=dict(submission.params),
                sign_work=submission.sign_work,
                expiration=self._expiration(submission.ttl),
                key=new_secret(),
                tls_client=name,
            )
        )

    def _expiration(self, ttl: str) -> datetime | None:
        if not ttl:
            return None
        try:
            return self._now() + timedelta(seconds=parse_duration(ttl))
        except OverflowError:
            raise CommandError(f"ttl {ttl} ends after the year 9999") from None

    @property
    def stops_for_requests(self) -> bool:
        """Yes: a request changes the record, and the task then goes on from there."""
        return True

    async def run(self, unit: Unit, first: FirstOutcome) -> Outcome:
        """Do what the record asks for: release, cancel, or start and follow."""
        if unit.remote.placement is not None and unit.remote.node:
            self._placer.count(unit)
        reconnector = self._reconnector(unit)
        if unit.remote.released:
            if await self._release_there(unit, reconnector, first):
                return Outcome.REMOVABLE
        elif unit.remote.cancelled and not unit.is_final:
            await self._cancel_there(unit, reconnector, first)
        elif not unit.remote.started and not unit.is_final:
            await self._start(unit, first)
            return Outcome.DONE
        if not unit.is_final and unit.remote.is_unseen:
            await FirstLook(unit, reconnector).take(first)
        if not unit.is_final:
            await self._follow(unit, reconnector)
        return Outcome.DONE

    async def _start(self, unit: Unit, first: FirstOutcome) -> None:
        """Start a unit and follow it; one that may run on several nodes goes to the next."""
        passed = PassedOver()
        while True:
            is_free = unit.remote.placement is not None and not unit.remote.unit_id
            if is_free and not await self._give_node(unit, passed, first):
                return
            reconnector = self._reconnector(unit)
            async with AsyncExitStack() as stack:
                key = self._key(unit)
                start = RemoteStart(unit, reconnector, first, self._store, self._now, key, stack)
                try:
                    await start.run()
                except NotThere as error:
                    unit.log.info("node %s: %s; another one is chosen", unit.remote.node, error)
                    if isinstance(error, RefusedThere):
                        passed.refuse(unit.remote.node, str(error))
                    else:
                        passed.add(unit.remote.node)
                    continue
                if not unit.is_final:
                    await self._follow(unit, reconnector, start.followed)
            return

    async def _give_node(self, unit: Unit, passed: PassedOver, first: FirstOutcome) -> bool:
        """Choose a node for a unit; False if its time to start was over before one fitted."""
        expiry = Expiry(unit.remote.expiration, self._now)
        expiry.count()
        with expiry.scope:
            try:
                await self._placer.give_node(unit, passed, first)
            except AllRefuse as error:
                await unit.fail(f"Error starting worker: {error}")
                first.fail(CommandError(str(error)))
                return False
        if expiry.scope.cancelled_caught:
            text = f"{expiry.text}; {unit.outage}" if unit.outage else expiry.text
            await unit.fail(text)
            first.fail(CommandError(text))
            return False
        return True

    async def abandon(self, unit: Unit) -> None:
        """Leave the unit running on the other node, whose clients can still end it."""

    def _key(self, unit: Unit) -> str:
        """Return the key of the unit's submission."""
        if unit.remote.key:
            return f"{unit.unit_id}:{unit.remote.key}"
        # An older record, from when keys had no secret.
        return f"{self._dialer.node_id}:{unit.unit_id}"

    async def _follow(
        self, unit: Unit, reconnector: Reconnector, followed: RemoteControl | None = None
    ) -> None:
        with self._lost_routes.told(unit.remote.node, reconnector):
            await RemoteFollower(
                unit, reconnector, self._store, self._now, self._max_output, followed
            ).run()

    async def cancel(self, unit: Unit) -> Outcome:
        """Cancel at once a unit that was never submitted; else ask the other node to."""
        if unit.is_final:
            return Outcome.DONE
        if not unit.remote.unit_id:
            # The record of the end brings it to disk.
            await unit.note(lambda status: status.with_remote(cancelled=True))
            return Outcome.IDLE
        await unit.change(lambda status: status.with_remote(cancelled=True), durable=True)
        return Outcome.REQUESTED

    async def release(self, unit: Unit, *, force: bool, remote: bool) -> Outcome:
        """Have the other node release its unit; then this node's is removable.

        An adopted unit is another's, and stays there unless ``remote`` asks for it.
        """
        if not unit.remote.unit_id or (unit.remote.adopted and not remote):
            return Outcome.REMOVABLE
        if not force:
            try:
                await unit.change(
                    lambda status: status.with_remote(cancelled=True, released=True), durable=True
                )
            except WorkError:
                # The request cannot be recorded, so it cannot stay pending. A release that works
                # at once needs no record, and gives room on the disk back.
                if await self._try_release(unit):
                    return Outcome.REMOVABLE
                raise
            return Outcome.REQUESTED
        await self._try_release(unit)
        return Outcome.REMOVABLE

    def _reconnector(self, unit: Unit) -> Reconnector:
        remote = unit.remote
        sign = self._signatures.sign if remote.sign_work else None
        find_tls = partial(self._find_tls, remote.tls_client) if remote.tls_client else None
        outage = Outage(unit, self._now)
        return Reconnector(
            self._dialer,
            remote.node,
            unit.log,
            self._long_lines,
            outage,
            sign=sign,
            find_tls=find_tls,
        )

    def _find_tls(self, name: str) -> "TlsSource":
        """Return where to get the settings of a unit's ``tls-client``. Raises NoTlsClient."""
        found = self._tls(name)
        if found is None:
            # Units outlive configurations, and go nowhere without the settings that they ask for.
            raise NoTlsClient(name)
        return found

    async def _try_release(self, unit: Unit) -> bool:
        """Ask the other node once to release its unit; return whether it has none any more."""
        reconnector = self._reconnector(unit)
        try:
            with trio.fail_after(FORCE_TIMEOUT):
                async with await reconnector.open() as node:
                    await _ask(node, unit, "release")
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

    async def _release_there(
        self, unit: Unit, reconnector: Reconnector, first: FirstOutcome
    ) -> bool:
        """Have the other node release its unit; return False if it refuses."""
        try:
            await _ask_until_answered(reconnector, first, unit, subcommand="release")
        except RemoteRefused as refusal:
            if not refusal.unit_unknown:
                error = CommandError(f"error releasing remote unit: {refusal.reason}")
                unit.log.warning("%s", error)
                first.fail(error)
                # The request is over: the unit stays until somebody asks again.
                undo = partial(UnitStatus.with_remote, released=False)
                try:
                    await unit.change(undo, durable=True)
                except WorkError as refused:
                    unit.log.warning("%s: the next start asks again", refused)
                    await unit.note(undo)
                return False
        return True

    async def _cancel_there(
        self, unit: Unit, reconnector: Reconnector, first: FirstOutcome
    ) -> None:
        """Have the other node cancel; the follower then sees how the unit ends."""
        try:
            await _ask_until_answered(reconnector, first, unit, subcommand="cancel")
        except RemoteRefused as refusal:
            if not refusal.unit_unknown:
                error = CommandError(f"error cancelling remote unit: {refusal.reason}")
                unit.log.warning("%s", error)
                first.fail(error)
                return
            if unit.remote.started:
                await unit.fail(GONE)
        if not (unit.remote.started or unit.is_final):
            await self._end_unstarted(unit, reconnector, first)
        first.done()

    async def _end_unstarted(
        self, unit: Unit, reconnector: Reconnector, first: FirstOutcome
    ) -> None:
        """End a canceled unit that was never started on the other node, or that it cannot tell of.

        The node may not know the unit, or have failed it since its payload was incomplete.
        """
        reconciler = Reconciler(unit, self._key(unit), self._now)
        while not unit.is_final:
            try:
                async with await reconnector.open() as node:
                    started = await reconciler.started_unit(node)
                if started is not None:
                    await unit.note(partial(UnitStatus.with_remote, unit_id=started, started=True))
                    return
                await unit.end(UnitState.CANCELED, "Canceled")
            except Lost as error:
                await unit.fail(str(error))
            except (RemoteUnavailable, RemoteRefused) as error:
                first.pending()
                await reconnector.recover(as_unavailable(error))


async def _ask_until_answered(
    reconnector: Reconnector, first: FirstOutcome, unit: Unit, *, subcommand: str
) -> None:
    """Send a command about the unit to its node, however long it takes to reach it.

    Raises:
        RemoteRefused: the node refuses, and not for want of something.
    """
    while True:
        try:
            async with await reconnector.open() as node:
                await _ask(node, unit, subcommand)
        except RemoteUnavailable as error:
            failure = error
        except RemoteRefused as refusal:
            if not refusal.is_passing:
                reconnector.succeeded()
                raise
            failure = as_unavailable(refusal)
        else:
            reconnector.succeeded()
            return
        reconnector.show(failure)
        first.pending()
        await reconnector.recover(failure)


async def _ask(node: RemoteControl, unit: Unit, subcommand: str) -> None:
    """Have the other node cancel or release its unit, and tell it who asks for that here."""
    end = unit.status.ended_by
    canceler = None if end is None else end.by
    claim = node.claim_for(canceler if subcommand == "cancel" else unit.status.released_by)
    await node.ask(subcommand=subcommand, unitid=unit.remote.unit_id, **claim)


def _no_tls(name: str) -> None:
    """Find no TLS settings."""
