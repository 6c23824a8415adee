"""Has a unit started on another node, once: whatever dies or breaks, at whatever moment.

Nothing is kept but what the unit's record says, so a task may be cut off anywhere and be spawned
again. What makes a start happen once:

* The ID that the other node gives is on our disk before the first byte of payload is sent, and
  without the whole payload that node starts nothing.
* A meshnode is told how many bytes the payload has, and their digest, and starts nothing else.
* A meshnode is told the key of the submission, and refuses a second one of that key, also when the
  unit of the first is gone. It tells which store has taken it.
* Once the payload may be complete over there and the answer is missing, the other node is asked
  (:mod:`meshnode.work.remote.inquiry`). The unit is submitted again only if the store that has
  taken it is there, and says that no work of that key was ever started.
"""

import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime

import trio

from meshnode.errors import CommandError, MeshnodeError, WorkError
from meshnode.work.remote.client import RemoteControl
from meshnode.work.remote.farside import AlreadySubmitted, Created, RemoteRefused, RemoteUnavailable
from meshnode.work.remote.inquiry import Inquiry, Lost, discard
from meshnode.work.remote.reconnect import Reconnector
from meshnode.work.units.runner import FirstOutcome
from meshnode.work.units.shortage import Pauses, shortage_of
from meshnode.work.units.status import SECRET_PREFIX
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Clock, Unit

# --- The time by which a remote unit must have started

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


class Expiry:
    """Ends a block when a unit's time to start is over.

    While the unit *may* have started, because the other node could have got all of the payload and
    its answer is not here, time does not count: a unit that runs must not be called expired.
    """

    def __init__(self, moment: datetime | None, now: Clock) -> None:
        self._moment = moment
        self._now = now
        self.scope = trio.CancelScope()

    @property
    def text(self) -> str:
        """What clients match on (protocol section 8), in Go's layout; times are UTC."""
        assert self._moment is not None
        at = self._moment.astimezone(UTC)
        day = f"{_DAYS[at.weekday()]} {_MONTHS[at.month - 1]} {at.day}"
        return f"Work unit expired on {day} {at:%H:%M:%S}"

    def count(self) -> None:
        """Let time count."""
        if self._moment is not None:
            left = (self._moment - self._now()).total_seconds()
            self.scope.deadline = trio.current_time() + left

    def hold(self) -> None:
        """Let time not count."""
        self.scope.deadline = math.inf


pass  # SELFIMPORT


class Start:
    """The start of one unit."""

    def __init__(
        self,
        unit: Unit,
        link: Reconnector,
        first: FirstOutcome,
        store: UnitStore,
        now: Clock,
        key: str,
        talk: AsyncExitStack,
    ) -> None:
        """Make ready. ``key`` is that of the submission; ``talk`` closes ``followed``."""
        self.followed: RemoteControl | None = None
        """The conversation of the submission, if the other node goes on to tell of the unit."""
        self._talk = talk
        self._unit = unit
        self._link = link
        self._first = first
        self._store = store
        self._key = key
        self._inquiry = Inquiry(unit, key, now)
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
                    self._first.pending()
                    await self._link.recover(error)
                except Lost as error:
                    await self._unit.fail(str(error))
                    self._first.fail(error)
                    return
                except MeshnodeError as error:
                    if isinstance(error, WorkError) and isinstance(error.__cause__, OSError):
                        # The disk does not take where the unit is, and without that nothing is
                        # sent there that could be started.
                        self._first.pending()
                        await self._say(f"waiting for {shortage_of(error.__cause__)} to be started")
                        await pauses.take()
                        continue
                    await self._unit.fail(f"Error starting worker: {error}")
                    self._first.fail(error)
                    return
        if self._expiry.scope.cancelled_caught:
            await self._unit.fail(self._expiry.text)
            self._first.fail(CommandError(self._expiry.text))
        else:
            self._first.done()

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
                await discard(node, remote.unit_id)
            try:
                created = await self._announce(node)
            except AlreadySubmitted as known:
                # Our node ended between its answer and our record of it.
                await self._adopt(node, known.unit_id)
                return
            self._may_have_started = False
            await self._record_unit(created)
            stdin = self._store.stdin_path(self._unit.unit_id)
            if await node.send_payload(created.unit_id, stdin, before_end=self._payload_ends):
                # On disk it stands soon, or with the end: until then the next start would ask.
                await self._unit.note(lambda status: status.with_remote(started=True))
                self.followed = node
                self._talk.push_async_exit(talk.pop_all().__aexit__)
            else:
                await self._record_started(created.unit_id)
        self._link.succeeded()

    async def _announce(self, node: RemoteControl) -> Created:
        """Submit, and return what the other node calls its unit."""
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

    async def _adopt(self, node: RemoteControl, unit_id: str) -> None:
        """Take over a unit that the other node has of our key, once it is known to be our work."""
        try:
            mark = await self._inquiry.compare(node, unit_id)
        except RemoteRefused as refusal:
            raise RemoteUnavailable(f"it does not say which unit it has: {refusal}") from refusal
        self._may_have_started = True
        await self._record_unit(Created(unit_id, mark))

    def _payload_ends(self) -> None:
        self._may_have_started = True
        self._expiry.hold()

    async def _resolve(self) -> None:
        """Find out whether the unit that the record names has started; forget it if it has not."""
        unit_id = self._unit.remote.unit_id
        async with await self._link.open() as node:
            try:
                started = await self._inquiry.started_unit(node)
            except RemoteRefused as refusal:
                # Such as a lack of descriptors over there: it says nothing about the unit.
                raise RemoteUnavailable(
                    f"it does not say what became of unit {unit_id}: {refusal}"
                ) from refusal
        self._link.succeeded()
        if started is not None:
            await self._record_started(started)
        else:
            self._unit.log.info("remote unit %s never started; submitting anew", unit_id)
            await self._change_remote(unit_id="", durable=True)

    # --- our record -----------------------------------------------------------------------------

    async def _record_unit(self, created: Created) -> None:
        mark = str(created.mark) if created.mark is not None else ""
        await self._change_remote(unit_id=created.unit_id, mark=mark, durable=True)

    async def _record_started(self, unit_id: str) -> None:
        try:
            await self._change_remote(unit_id=unit_id, started=True)
        except WorkError as error:
            # Whatever our disk says, the work runs; the mirror brings it to disk when it can.
            self._unit.log.warning("that it has started is not on record yet: %s", error)
            await self._unit.note(lambda status: status.with_remote(unit_id=unit_id, started=True))

    async def _change_remote(self, *, durable: bool = False, **changes: object) -> None:
        await self._unit.change(lambda status: status.with_remote(**changes), durable=durable)


def check_way(tls_client: str, params: Mapping[str, str]) -> None:
    """Refuse what may not be sent as it would be: without TLS, which there is not yet.

    Raises:
        CommandError
    """
    if tls_client:
        raise CommandError(f"unknown TLS config {tls_client}")
    if any(key.lower().startswith(SECRET_PREFIX) for key in params):
        raise CommandError("cannot send secrets over a non-TLS connection")
