"""Has a unit started on another node, once, whatever fails at whatever moment.

All that is needed to go on is in the unit's record, so a task may be ended at any await and be
spawned again. These steps make the work run once:

1. The submission carries a key. A meshnode refuses a second submission with that key, also when the
   unit of the first is gone, and names the store that took it.
2. The ID that the other node gives is on this node's disk before the first byte of payload is sent.
   Without all of the payload the other node starts nothing. A meshnode is told the size and the
   digest of the payload, and starts nothing else. After a cut the same submission goes on: that
   node says how much it has, and is sent the rest.
3. Once the other node may have all of the payload and its answer is missing, this node asks what
   became of the submission (:mod:`meshnode.work.remote.reconcile`). It submits again only if the
   store that took the submission says that no work with this key was ever started.
"""

import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime

import trio

from meshnode.errors import CommandError, MeshnodeError, WorkError
from meshnode.protocol.control import RESUME_KEY
from meshnode.work.remote.client import RemoteControl
from meshnode.work.remote.failures import (
    AlreadySubmitted,
    NoTlsClient,
    NotThere,
    RefusedThere,
    RemoteDistrusted,
    RemoteRefused,
    RemoteUnavailable,
    as_unavailable,
)
from meshnode.work.remote.reconcile import AwaitsRest, Lost, Reconciler, release_unstarted
from meshnode.work.remote.reconnect import Reconnector
from meshnode.work.remote.submitted import Created
from meshnode.work.units.remoteextra import expired_words, is_secret
from meshnode.work.units.runner import FirstOutcome
from meshnode.work.units.shortage import Pauses, shortage_of
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Clock, Unit
from meshnode.work.units.uploads import LEAST_KEPT

UNKNOWN_TYPE = "unknown work type"
"""How a node begins its refusal of work that it offered a moment ago."""


class Expiry:
    """Ends a block when the time by which a unit must have started is over.

    The time stands still while the unit *may* have started: the other node may have all of the
    payload, and its answer is missing. A running unit must not be called expired.
    """

    def __init__(self, moment: datetime | None, now: Clock) -> None:
        self._moment = moment
        self._now = now
        self.scope = trio.CancelScope()

    @property
    def text(self) -> str:
        """The detail of an expired unit."""
        assert self._moment is not None
        return expired_words(self._moment)

    @property
    def is_over(self) -> bool:
        """Whether the time has passed."""
        return self._moment is not None and self._moment <= self._now()

    def count(self) -> None:
        """Let the time run."""
        if self._moment is not None:
            left = (self._moment - self._now()).total_seconds()
            self.scope.deadline = trio.current_time() + left

    def hold(self) -> None:
        """Let the time stand still."""
        self.scope.deadline = math.inf


class RemoteStart:
    """The start of one unit."""

    def __init__(
        self,
        unit: Unit,
        reconnector: Reconnector,
        first: FirstOutcome,
        store: UnitStore,
        now: Clock,
        key: str,
        stack: AsyncExitStack,
    ) -> None:
        """``key`` is that of the submission; ``stack`` closes ``followed``."""
        self.followed: RemoteControl | None = None
        """The conversation of the submission, if the other node reports the unit in it."""
        self._stack = stack
        self._unit = unit
        self._reconnector = reconnector
        self._first = first
        self._store = store
        self._key = key
        self._reconciler = Reconciler(unit, key, now)
        self._expiry = Expiry(unit.remote.expiration, now)
        self._came_late = self._expiry.is_over
        """Whether the time to start was over before this start began."""
        # How far the payload of an ID got that was recorded before is unknown.
        self._may_have_started = True
        self._resumes = True

    @property
    def _is_movable(self) -> bool:
        """Whether the unit may go to another node: it is not this one's, and nothing is there."""
        remote = self._unit.remote
        return remote.placement is not None and not remote.unit_id

    async def run(self) -> None:
        """Return when the unit has started there, or has ended as failed.

        Raises:
            NotThere: another node is to be chosen.
        """
        pauses = Pauses()
        with self._expiry.scope:
            while not (self._unit.remote.started or self._unit.is_final):
                begun = trio.current_time()
                try:
                    await self._try_here()
                except (RemoteDistrusted, NoTlsClient) as error:
                    if not await self._give_up(error):
                        await self._wait_out(error)
                except RemoteUnavailable as error:
                    await self._wait_out(error)
                except RemoteRefused as refusal:
                    if not refusal.is_passing:
                        remote = self._unit.remote
                        instead = self._reconnector.instead_of(remote.work_type)
                        await self._fail(refusal.told_by(remote.node) + instead)
                        return
                    await self._wait_out(as_unavailable(refusal), trio.current_time() - begun)
                except Lost as error:
                    await self._unit.fail(str(error))
                    self._first.fail(error)
                    return
                except NotThere:
                    raise
                except MeshnodeError as error:
                    if isinstance(error, WorkError) and isinstance(error.__cause__, OSError):
                        # The disk does not take the ID of the unit over there. Without that no
                        # payload is sent, so nothing can be started.
                        self._first.pending()
                        await self._show_waiting(
                            f"waiting for {shortage_of(error.__cause__)} to be started"
                        )
                        await pauses.take()
                        continue
                    await self._fail(str(error))
                    return
        if self._expiry.scope.cancelled_caught:
            await self._expire()
        else:
            self._first.done()

    async def _try_here(self) -> None:
        """Make one try; one that fails has a unit that may move do so."""
        try:
            await self._try()
        except (RemoteUnavailable, RemoteRefused) as error:
            if not self._is_movable:
                raise
            is_passing = not isinstance(error, RemoteRefused) or error.is_passing
            if is_passing or str(error).startswith(UNKNOWN_TYPE):
                raise NotThere(str(error)) from error
            if type(error) is not RemoteRefused:
                # Of the others no node has said that it has nothing, or all would say the same.
                raise
            raise RefusedThere(error.told_by(self._unit.remote.node)) from error

    async def _wait_out(self, error: RemoteUnavailable, spent: float = 0.0) -> None:
        # First, so that a client that is told of a wait finds the reason.
        self._reconnector.show(error)
        self._first.pending()
        await self._reconnector.recover(error, spent)

    async def _give_up(self, error: RemoteDistrusted | NoTlsClient) -> bool:
        """Fail a unit for want of TLS, as receptor does, if it was never submitted."""
        if self._unit.remote.unit_id:
            return False
        if isinstance(error, NoTlsClient):
            await self._fail(str(error))
        else:
            await self._unit.fail(str(error))
            self._first.fail(error)
        return True

    async def _fail(self, reason: str) -> None:
        await self._unit.fail(f"Error starting worker: {reason}")
        self._first.fail(CommandError(reason))

    async def _expire(self) -> None:
        node, cause = self._unit.remote.node, self._reconnector.outage.cause
        text = self._expiry.text
        if cause:
            text += f"; it waited for node {node}: {cause}"
        elif self._came_late:
            text += "; this node was not running then"
        else:
            text += f"; node {node} had not answered yet"
        await self._unit.fail(text)
        self._first.fail(CommandError(text))

    async def _show_waiting(self, detail: str) -> None:
        if self._unit.status.detail != detail:
            self._unit.log.warning("%s", detail)
            await self._unit.note(lambda status: replace(status, detail=detail))

    async def _try(self) -> None:
        if self._unit.remote.unit_id and self._may_have_started:
            self._expiry.hold()
            await self._resolve()
        else:
            self._expiry.count()
            await self._submit()

    async def _submit(self) -> None:
        async with AsyncExitStack() as conversation:
            node = await conversation.enter_async_context(await self._reconnector.open())
            await self._submit_to(node, conversation)

    async def _submit_to(self, node: RemoteControl, conversation: AsyncExitStack) -> None:
        """Submit in an open conversation, which the follower takes over where that node tells."""
        status, remote = self._unit.status, self._unit.remote
        # A record written by receptor may have secrets without TLS.
        check_secrets(remote.tls_client, {**remote.params, **status.job.as_params()})
        if remote.unit_id and not self._may_resume(node):
            await release_unstarted(node, remote.unit_id)
        try:
            created = await self._announce(node)
        except AlreadySubmitted as known:
            # This node ended between that node's answer and the record of it.
            await self._adopt(node, known.unit_id)
            return
        self._may_have_started = False
        self._expiry.count()
        if created.position:
            self._unit.log.info("node %s has %d bytes of it", remote.node, created.position)
        if created.unit_id != remote.unit_id:
            # Synced before the first byte of payload: this node must know the ID of any unit that
            # may start, to ask about it.
            await self._record_unit(created)
        payload = self._store.payload_paths(self._unit.unit_id, status.deps_size)
        if await node.send_payload(created, *payload, before_end=self._payload_ends):
            # In memory for now: the follower records it soon, or with the end. A node that is
            # killed before asks the other one what became of the ID.
            await self._unit.note(lambda status: status.with_remote(started=True))
            self.followed = node
            self._stack.push_async_exit(conversation.pop_all().__aexit__)
        else:
            await self._record_started(created.unit_id)
        self._reconnector.succeeded()

    def _may_resume(self, node: RemoteControl) -> bool:
        """Whether the other node may have the payload in parts; a short one is not worth that."""
        status = self._unit.status
        size = (status.stdin_size or 0) + status.deps_size
        has_digests = status.stdin_sha256 and (status.job.files.sha256 or not status.deps_size)
        return bool(self._resumes and node.resumes and has_digests and size >= LEAST_KEPT)

    async def _announce(self, node: RemoteControl) -> Created:
        """Submit, and return what the other node calls its unit."""
        status = self._unit.status
        # Asked first: what the node does not know, it must not take for parameters.
        job = node.settings_for(status.job)
        try:
            more = node.claim_for(status.submitted_by) | node.labels_for(status.labels) | job
            if self._may_resume(node):
                more |= {RESUME_KEY: "true"}
            return await node.submit(self._fields(with_meshnode=node.with_meshnode) | more)
        except AlreadySubmitted:
            raise
        except RemoteRefused:
            # A receptor node that is advertised as a meshnode takes these fields for parameters.
            # What its client gives the job would be lost.
            if job or not node.with_meshnode or await node.takes_keys():
                raise
        return await node.submit(self._fields(with_meshnode=False))

    def _fields(self, *, with_meshnode: bool) -> dict[str, str]:
        status, remote = self._unit.status, self._unit.remote
        fields = {**remote.params, "node": remote.node, "worktype": remote.work_type}
        if not with_meshnode:
            return fields
        fields["submissionkey"] = self._key
        fields["submissionfollow"] = "true"
        if status.stdin_size is not None:
            fields["stdinsize"] = str(status.stdin_size)
        if status.stdin_sha256:
            fields["stdinsha256"] = status.stdin_sha256
        return fields

    async def _adopt(self, node: RemoteControl, unit_id: str) -> None:
        """Take over a unit that the other node has under this key, if it is this work."""
        try:
            receipt = await self._reconciler.check_ours(node, unit_id)
        except RemoteRefused as refusal:
            raise RemoteUnavailable(f"it does not say which unit it has: {refusal}") from refusal
        self._may_have_started = True
        await self._record_unit(Created(unit_id, receipt))

    def _payload_ends(self) -> None:
        # Before the end is sent, not after: the other node may start the unit from then on.
        self._may_have_started = True
        self._expiry.hold()

    async def _resolve(self) -> None:
        """Find out whether the unit that the record names has started; forget it if it has not."""
        unit_id = self._unit.remote.unit_id
        async with AsyncExitStack() as conversation:
            node = await conversation.enter_async_context(await self._reconnector.open())
            resumes = self._may_resume(node)
            try:
                started = await self._reconciler.started_unit(node, resumes=resumes)
            except AwaitsRest:
                await self._go_on(node, conversation)
                return
            except RemoteRefused as refusal:
                # For instance, the node lacks descriptors. That says nothing about the unit.
                raise RemoteUnavailable(
                    f"it does not say what became of unit {unit_id}: {refusal}"
                ) from refusal
        if started is not None:
            self._reconnector.succeeded()
            await self._record_started(started)
        else:
            self._unit.log.info("remote unit %s never started; submitting the work again", unit_id)
            await self._change_remote(unit_id="", durable=True)

    async def _go_on(self, node: RemoteControl, conversation: AsyncExitStack) -> None:
        """Send the rest of a payload of which the other node has a part.

        Until that node has said that it takes the rest, the last of it may still come from an
        earlier session, and start the unit.
        """
        try:
            await self._submit_to(node, conversation)
        except RemoteRefused as refusal:
            if refusal.is_passing or not self._may_have_started:
                raise
            # It takes no such work any more, but may have started this: that is asked first.
            self._resumes = False
            raise RemoteUnavailable(f"it does not take the rest: {refusal}") from refusal
        if not self._unit.remote.started:
            raise RemoteUnavailable("it had the whole payload by then")

    # --- the record -----------------------------------------------------------------------------

    async def _record_unit(self, created: Created) -> None:
        receipt = str(created.receipt) if created.receipt is not None else ""
        await self._change_remote(unit_id=created.unit_id, receipt=receipt, durable=True)
        self._unit.log.info("is unit %s of %s", created.unit_id, self._unit.remote.node)

    async def _record_started(self, unit_id: str) -> None:
        try:
            await self._change_remote(unit_id=unit_id, started=True)
        except WorkError as error:
            # The work runs, whatever the disk says. The follower records it when it can.
            self._unit.log.warning("the start is not recorded yet: %s", error)
            await self._unit.note(lambda status: status.with_remote(unit_id=unit_id, started=True))

    async def _change_remote(self, *, durable: bool = False, **changes: object) -> None:
        await self._unit.change(lambda status: status.with_remote(**changes), durable=durable)


def check_secrets(tls_client: str, params: Mapping[str, str]) -> None:
    """Refuse work with secrets that would go over the mesh without TLS. Raises CommandError."""
    if not tls_client and any(map(is_secret, params)):
        raise CommandError("cannot send secrets over a non-TLS connection")
