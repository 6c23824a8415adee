"""Units that run on another node: submitted there once, mirrored here (reference section 10).

Nothing is kept but what the unit's record says, so a task may be cut off anywhere and be spawned
again. What makes a start happen once:

* The ID that the other node gives is on our disk before the first byte of payload is sent, and
  without the whole payload that node starts nothing.
* A meshnode is told how many bytes the payload has, and their digest, and starts nothing else.
* A meshnode is told whose submission it is, and refuses a second one as long as the first exists.
* Once the payload may be complete over there and the answer is missing, the other node is asked
  about that ID. Only a unit that it shows never to have started is submitted again.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import trio

from meshnode.errors import CommandError, MeshnodeError, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.farlines import LongLines, RemoteUnavailable
from meshnode.work.farside import AlreadySubmitted, RemoteRefused
from meshnode.work.reconnect import Reconnector
from meshnode.work.remote_client import POLL_INTERVAL, Dialer, RemoteControl
from meshnode.work.runners.base import Attempt, UnitTasks
from meshnode.work.runners.expiry import Expiry
from meshnode.work.runners.mirror import GONE, Mirror
from meshnode.work.shortage import Pauses, shortage_of
from meshnode.work.signatures import Signatures
from meshnode.work.status import SECRET_PREFIX
from meshnode.work.store import UnitStore
from meshnode.work.unit import Clock, Unit

ATTEMPT_TIMEOUT = 20.0
"""Seconds for which a client waits for the first try to reach the other node; then its wish is
pending. Longer than the handshake of a stream (15 s), so that a slow answer is still an answer."""

FORCE_TIMEOUT = 20.0
"""Seconds that a forced release gives its one try: longer than the other node takes to end a
command that is deaf to all but SIGKILL."""

END_TIMEOUT = 5.0
"""Seconds that a confirmed cancel waits for the rest of stdout before it is answered."""

SETTLE_TIMEOUT = 60.0
"""Seconds in which a receptor node must notice that our session broke off: twice the idle time-out
of its streams (reference section 7). Only then is a unit that it still shows as waiting for input
known not to start any more."""

_WAITING = ("Unit Created", "Waiting for Input Data")
_NEVER_STARTED = (
    "Error reading input data",
    "lost: the node ended before",
    "Pending at restart",
    "Failed to restart",
)
"""How the details begin of a unit that failed before anything was started: ours and receptor's."""


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

    async def run(self, unit: Unit, attempt: Attempt, tasks: UnitTasks) -> None:
        """Do what the record asks for: release, cancel, start, mirror."""
        link = self._link(unit)
        if unit.remote.released:
            if await self._release_there(unit, link, attempt):
                await tasks.remove(unit)
                attempt.done()
                return
        elif unit.remote.cancelled and not unit.is_final:
            await self._cancel_there(unit, link, attempt)
        elif not unit.remote.started and not unit.is_final:
            key = f"{self._dialer.node_id}:{unit.unit_id}"
            async with AsyncExitStack() as talk:
                start = _Start(unit, link, attempt, self._store, self._now, key, talk)
                await start.run()
                if not unit.is_final:
                    await self._mirror(unit, link, start.followed).run()
            return
        if not unit.is_final:
            await self._mirror(unit, link).run()

    def _mirror(
        self, unit: Unit, link: Reconnector, followed: RemoteControl | None = None
    ) -> Mirror:
        return Mirror(unit, link, self._store, self._now, self._max_output, followed)

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
                    await tasks.remove(unit)
                    return True
                if not unit.is_final:
                    tasks.spawn(unit)
                raise
            return await tasks.spawn(unit).wait(ATTEMPT_TIMEOUT)
        if unit.remote.unit_id:
            await self._try_release(unit)
        await tasks.remove(unit, force=force)
        return True

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

    async def _release_there(self, unit: Unit, link: Reconnector, attempt: Attempt) -> bool:
        """Return whether the other node has no such unit any more; else it refuses."""
        try:
            await _insist(link, attempt, unit, subcommand="release")
        except RemoteRefused as refusal:
            if not refusal.unit_unknown:
                error = CommandError(f"error releasing remote unit: {refusal.reason}")
                unit.log.warning("%s", error)
                # The wish is not pending: the unit is there until somebody has another one.
                await unit.change(lambda status: status.with_remote(released=False), durable=True)
                attempt.fail(error)
                return False
        return True

    async def _cancel_there(self, unit: Unit, link: Reconnector, attempt: Attempt) -> None:
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
            else:
                await unit.end(UnitState.CANCELED, "Canceled")
        attempt.done()


async def _insist(link: Reconnector, attempt: Attempt, unit: Unit, *, subcommand: str) -> None:
    """Have the other node do something with its unit, however long it takes to reach it."""
    while True:
        try:
            async with await link.open() as node:
                await node.ask(subcommand=subcommand, unitid=unit.remote.unit_id)
                return
        except RemoteUnavailable as error:
            attempt.pending()
            await link.recover(error)


class _Start:
    """Has a unit started on the other node, once."""

    def __init__(
        self,
        unit: Unit,
        link: Reconnector,
        attempt: Attempt,
        store: UnitStore,
        now: Clock,
        key: str,
        talk: AsyncExitStack,
    ) -> None:
        self.followed: RemoteControl | None = None
        """The conversation of the submission, if the other node goes on to tell of the unit in it.
        ``talk`` closes it."""
        self._talk = talk
        self._unit = unit
        self._link = link
        self._attempt = attempt
        self._store = store
        self._key = key
        self._expiry = Expiry(unit.remote.expiration, now)
        # Of an ID that stands in the record from before, nobody knows how far its payload got.
        self._may_have_started = True

    async def run(self) -> None:
        """Return when the unit has started there, or has ended as failed."""
        pauses = Pauses()
        with self._expiry.scope:
            while not (self._unit.remote.started or self._unit.is_final):
                try:
                    await self._try()
                except RemoteUnavailable as error:
                    self._attempt.pending()
                    await self._link.recover(error)
                except MeshnodeError as error:
                    if isinstance(error, WorkError) and isinstance(error.__cause__, OSError):
                        # The disk does not take where the unit is, and without that nothing is
                        # sent there that could be started.
                        self._attempt.pending()
                        await self._say(f"waiting for {shortage_of(error.__cause__)} to be started")
                        await pauses.take()
                        continue
                    await self._unit.fail(f"Error starting worker: {error}")
                    self._attempt.fail(error)
                    return
        if self._expiry.scope.cancelled_caught:
            await self._unit.fail(self._expiry.text)
            self._attempt.fail(CommandError(self._expiry.text))
        else:
            self._attempt.done()

    async def _say(self, detail: str) -> None:
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
        remote = self._unit.remote
        # A record that receptor left may ask for a way that this node does not have.
        check_way(remote.tls_client, remote.params)
        async with AsyncExitStack() as talk:
            node = await talk.enter_async_context(await self._link.open())
            if remote.unit_id:
                await self._discard(node, remote.unit_id)
            try:
                unit_id = await self._announce(node)
            except AlreadySubmitted as known:
                # Our node ended between its answer and our record of it: ask about that unit.
                self._may_have_started = True
                unit_id = known.unit_id
                await self._unit.change(
                    lambda status: status.with_remote(unit_id=unit_id), durable=True
                )
                return
            self._may_have_started = False
            await self._unit.change(
                lambda status: status.with_remote(unit_id=unit_id), durable=True
            )
            stdin = self._store.stdin_path(self._unit.unit_id)
            if await node.send_payload(unit_id, stdin, before_end=self._payload_ends):
                # On disk it stands soon, or with the end: until then the next start would ask.
                await self._unit.note(lambda status: status.with_remote(started=True))
                self.followed = node
                self._talk.push_async_exit(talk.pop_all().__aexit__)
            else:
                await self._unit.change(lambda status: status.with_remote(started=True))
        self._link.succeeded()

    async def _announce(self, node: RemoteControl) -> str:
        """Submit, and return the ID that the other node gives its unit."""
        try:
            return await node.submit(self._fields(with_meshnode=node.with_meshnode))
        except AlreadySubmitted:
            raise
        except RemoteRefused:
            # A receptor node that is wrongly called one of ours takes our keys for parameters.
            if not node.with_meshnode or await node.takes_keys():
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

    def _payload_ends(self) -> None:
        self._may_have_started = True
        self._expiry.hold()

    async def _resolve(self) -> None:
        """Find out whether the unit that the record names has started; forget it if it has not."""
        unit_id = self._unit.remote.unit_id
        async with await self._link.open() as node:
            try:
                started = await self._has_started(node, unit_id)
                if not started:
                    await self._discard(node, unit_id)
            except RemoteRefused as refusal:
                if not refusal.unit_unknown:
                    raise
                started = False
        self._link.succeeded()
        if started:
            await self._unit.change(lambda status: status.with_remote(started=True))
        else:
            self._unit.log.info("remote unit %s never started; submitting anew", unit_id)
            await self._unit.change(lambda status: status.with_remote(unit_id=""), durable=True)

    async def _has_started(self, node: RemoteControl, unit_id: str) -> bool:
        """Ask about a unit that may still get the rest of what was sent before the break.

        A meshnode is told to end it unless it has started, in one step. A receptor node is watched
        until it notices the break.
        """
        status = await node.ask(subcommand="status", unitid=unit_id)
        if is_waiting(status) and "Created" in status:
            try:
                await node.ask(subcommand="cancel", unitid=unit_id, unless="started")
            except RemoteRefused as refusal:
                if refusal.unit_unknown:
                    raise
                status = await node.ask(subcommand="status", unitid=unit_id)
            else:
                return False
        with trio.move_on_after(SETTLE_TIMEOUT):
            while is_waiting(status):
                await trio.sleep(POLL_INTERVAL)
                status = await node.ask(subcommand="status", unitid=unit_id)
        return not never_started(status)

    async def _discard(self, node: RemoteControl, unit_id: str) -> None:
        try:
            await node.ask(subcommand="release", unitid=unit_id)
        except RemoteRefused as refusal:
            if not refusal.unit_unknown:
                raise


def check_way(tls_client: str, params: Mapping[str, str]) -> None:
    """Refuse what may not be sent as it would be: without TLS, which there is not yet.

    Raises:
        CommandError
    """
    if tls_client:
        raise CommandError(f"unknown TLS config {tls_client}")
    if any(key.lower().startswith(SECRET_PREFIX) for key in params):
        raise CommandError("cannot send secrets over a non-TLS connection")


def is_waiting(status: Mapping[str, Any]) -> bool:
    """Whether a unit waits for its payload."""
    return status.get("State") == UnitState.PENDING and status.get("Detail") in _WAITING


def never_started(status: Mapping[str, Any]) -> bool:
    """Whether a status shows that nothing was started, nor ever will be.

    In doubt the answer is no: a unit may be lost, but never run twice.
    """
    if status.get("State") != UnitState.FAILED:
        return is_waiting(status)
    return str(status.get("Detail", "")).startswith(_NEVER_STARTED)
