"""One batch: it submits its members, some at a time, and records what comes of each.

**Exactly once.** Each member has a submission key, made of the batch's ID and its index, and before
a member is submitted the node's units are asked for that key: what was submitted before the node
was killed is found again, whatever it had come to. So nothing is recorded before a submission, and
a journal that lacks an end is only slower.

**What is recorded** goes to the journal first. Then it is shown, to all who wait for it.
"""

from functools import partial

import trio

from meshnode import files
from meshnode.errors import CommandError, MeshnodeError
from meshnode.logs import subject_logger
from meshnode.work.batches.after import Predecessors
from meshnode.work.batches.files import BatchFiles
from meshnode.work.batches.flights import Flights
from meshnode.work.batches.members import MAX_DETAIL, Members, MemberState, end_of, event
from meshnode.work.batches.memberunits import MemberUnits
from meshnode.work.batches.spec import BatchSpec, caller_json
from meshnode.work.units.access import Caller
from meshnode.work.units.jsonreader import JsonObject, format_datetime
from meshnode.work.units.shortage import (
    LogOnce,
    Pauses,
    in_thread_or_here,
    is_lack,
    shortage_of,
)
from meshnode.work.units.unit import Clock, Unit

SUBMITTED_AT_ONCE = 8
"""Members that are being submitted at a time. A node far away answers in a round trip or two, and
this node has other clients."""

LOOKED_AT = 256
"""Members that are looked at in a row, before others have their turn."""


class Batch:
    """A batch in memory; everything but :meth:`run` returns at once."""

    def __init__(
        self,
        batch_id: str,
        spec: BatchSpec,
        batch_files: BatchFiles,
        units: MemberUnits,
        members: Members,
        before: Predecessors,
        now: Clock,
    ) -> None:
        self.batch_id = batch_id
        self.spec = spec
        self.members = members
        self.version = 0
        """Counts what was recorded, so that a waiter can say which it has seen."""
        self.is_running = False
        self.stopped = ""
        """Why nothing drives it, if a fault has ended its task."""
        self.gone = False
        """Whether it was released, and nothing is left of it."""
        self.log = subject_logger("batch", batch_id)
        self._files = batch_files
        self._units = units
        self._flights = Flights(lambda position, unit: self._end(position, *end_of(unit)))
        self._unwritten: list[bytes] = []
        self._full = ""
        """Why the journal takes nothing now."""
        self._before = before
        self._now = now
        self._lock = trio.Lock()
        self._changed = trio.Event()
        self._told = trio.Event()
        self._places = trio.Semaphore(SUBMITTED_AT_ONCE)

    @property
    def is_done(self) -> bool:
        """Whether all members have ended, and that is on record."""
        return self.gone or (bool(self.members.finished) and not self.is_running)

    def status(self) -> JsonObject:
        """Return what clients see."""
        members, counts = self.members, self.members.counts
        told = {
            "Batch": self.batch_id,
            "StateName": self.state_name,
            "Detail": self._detail,
            "Work": self.spec.work_type,
            "Node": self.spec.node,
            "Members": len(members),
            "Waiting": counts[MemberState.WAITING],
            "InFlight": counts[MemberState.IN_FLIGHT],
            "Succeeded": counts[MemberState.SUCCEEDED],
            "Failed": counts[MemberState.FAILED],
            "Canceled": counts[MemberState.CANCELED],
            "Refused": counts[MemberState.REFUSED],
            "MaxInFlight": self.spec.max_in_flight,
            "Created": self.spec.created,
            "Finished": members.finished,
            "SubmittedBy": str(self.spec.caller.client),
        }
        return {key: value for key, value in told.items() if value != ""}

    @property
    def state_name(self) -> str:
        """How it stands, for a person."""
        if not self.is_done:
            return "Pending" if self.is_waiting else "Running"
        counts = self.members.counts
        failed = counts[MemberState.FAILED] or counts[MemberState.REFUSED]
        if self.members.is_canceled or (counts[MemberState.CANCELED] and not failed):
            return "Canceled"
        return "Failed" if failed else "Succeeded"

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for others, and has not begun."""
        members = self.members
        return bool(self.spec.after) and not (members.is_begun or members.is_canceled)

    @property
    def _detail(self) -> str:
        if self.is_waiting:
            return f"waits for {', '.join(one.words for one in self.spec.after)}"
        return self.stopped or self.members.reason or self._full or self._units.awaits

    async def wait_done(self) -> str:
        """Return how it has ended, once it has."""
        while not self.is_done:
            await self.wait_changed(self.version)
        return self.state_name

    async def wait_changed(self, seen: int) -> int:
        """Return the version as soon as it is not ``seen``."""
        while self.version == seen:
            await self._told.wait()
        return self.version

    # --- what clients ask for -------------------------------------------------------------------

    async def cancel(self, by: Caller) -> None:
        """Submit nothing more, and cancel what is in flight. Raises CommandError.

        ``by`` is who asks. Where the journal has no room, it is canceled all the same, and done as
        soon as that is on record.
        """
        async with self._lock:
            if self.is_done or self.members.is_canceled:
                return
            await self._record_end(event("cancel", By=caller_json(by)))
            self.members.is_canceled, self.members.asker = True, by
            self._wake()

    async def retry(self) -> int:
        """Have all wait again that have not succeeded, and return how many; the caller runs it.

        Raises:
            CommandError: it has not ended.
        """
        async with self._lock:
            if not self.is_done or self.members.is_released:
                raise CommandError(f"batch {self.batch_id} has not ended yet")
            if self.members.counts[MemberState.SUCCEEDED] == len(self.members):
                return 0
            await self._record(event("retry"))
            self._flights.ask_anew()
            self._units.go_on()
            return self.members.retry()

    async def release(self, by: Caller) -> None:
        """Have it end, and go away with all of its units; the caller runs it. Raises CommandError.

        A second one does nothing. It needs no room on the disk, and makes some.
        """
        async with self._lock:
            if not self.members.is_released:
                await self._record_end(event("cancel", By=caller_json(by)) + event("release"))
                self.members.is_canceled = self.members.is_released = True
                self.members.asker = by
                self._wake()

    async def _record_end(self, lines: bytes) -> None:
        """Record a request for the end, later if the disk does not take it now."""
        try:
            await self._record(lines)
        except CommandError as error:
            if self.gone or self.stopped or not is_lack(error):
                raise
            self.log.warning("what is asked for is done, and recorded later: %s", error)
            self._unwritten.append(lines)

    async def _record(self, lines: bytes) -> None:
        if self.gone:
            raise CommandError(f"batch {self.batch_id} was released")
        try:
            await in_thread_or_here(partial(self._append, lines, durable=True))
        except OSError as error:
            raise CommandError(f"cannot record it: {files.reason(error)}") from error

    def _append(self, lines: bytes, *, durable: bool) -> None:
        self._files.append(self.batch_id, lines, durable=durable)

    # --- its task ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Submit members and record their ends, until all have ended or the batch is released."""
        try:
            if self.is_waiting:
                await self._wait_turn()
                if self._unwritten:
                    # Before anything is submitted: what has ended may be released from now on.
                    await self._write(durable=True)
            async with trio.open_nursery() as nursery:
                while not self.members.all_ended or self._unwritten:
                    self._changed = trio.Event()
                    if self.members.is_canceled:
                        await self._cancel_all(nursery)
                    else:
                        self._submit_more(nursery)
                    if self._unwritten:
                        await self._write()
                    elif not self.members.all_ended:
                        await self._changed.wait()
            await self._finish()
            if self.members.is_released:
                await self._remove()
        finally:
            self.is_running = False
            self._tell()

    async def _wait_turn(self) -> None:
        """Return once what the batch waits for has ended well, or the batch is canceled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._decide)
            while self.is_waiting:
                self._changed = trio.Event()
                await self._changed.wait()
            nursery.cancel_scope.cancel()
        self._tell()

    async def _decide(self) -> None:
        refusal = await self._before.refusal(self.spec.after)
        async with self._lock:
            if not self.is_waiting:
                return
            if refusal:
                self._unwritten.append(event("cancel", Detail=refusal))
                self.members.is_canceled, self.members.reason = True, refusal
                self.log.info("canceled: %s", refusal)
            else:
                self._unwritten.append(event("begin"))
                self.members.is_begun = True
            self._wake()

    def _submit_more(self, nursery: trio.Nursery) -> None:
        counts = self.members.counts
        while counts[MemberState.IN_FLIGHT] < self.spec.max_in_flight:
            position = self.members.next_waiting()
            if position is None:
                return
            self.members.set(position, MemberState.IN_FLIGHT)
            nursery.start_soon(self._submit, position)

    async def _cancel_all(self, nursery: trio.Nursery) -> None:
        """Cancel what is in flight, or was before the node was started again."""
        self._units.stop()
        looked = 0
        while (waiting := self.members.next_waiting()) is not None:
            looked += 1
            if looked % LOOKED_AT == 0:
                await trio.lowlevel.checkpoint()
            self.members.set(waiting, MemberState.IN_FLIGHT)
            found = self._units.find(self._key(waiting))
            if isinstance(found, Unit):
                self._flights.follow(waiting, found)
            else:
                self.members.set(waiting, found or MemberState.CANCELED)
        for unit in self._flights.to_ask():
            nursery.start_soon(self._units.cancel, unit, self.members.asker)
        self._tell()

    async def _submit(self, position: int) -> None:
        """Submit a member, or find it again."""
        async with self._places:
            if self.members.is_canceled:
                self.members.set(position, MemberState.WAITING)
                self._wake()
                return
            key = self._key(position)
            try:
                found = await self._units.find_started(key)
                if found is None:
                    await self._submit_new(position, key)
                elif isinstance(found, Unit):
                    self._flights.follow(position, found)
                else:
                    self._end(position, found, {"Detail": "its unit was released"})
            except MeshnodeError as error:
                self._end(position, MemberState.REFUSED, {"Detail": str(error)[:MAX_DETAIL]})
        # A cancel may have come meanwhile, which has not seen this one.
        self._wake()

    async def _submit_new(self, position: int, key: str) -> None:
        def follow(unit: Unit | None) -> None:
            if unit is None:
                self._flights.forget(position)
            else:
                self._flights.follow(position, unit)

        with self._flights.starting(position):
            if not await self._units.submit(position, key, follow):
                # The cancel that has stopped it looks at it again.
                self.members.set(position, MemberState.WAITING)

    def _key(self, position: int) -> str:
        return next(self.members.keys(self.batch_id, position))

    # --- units that end -----------------------------------------------------------------------

    def _end(self, position: int, state: MemberState, told: JsonObject) -> None:
        self.members.set(position, state)
        self._unwritten.append(self.members.line(position, state, told))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()

    def _tell(self) -> None:
        self.version += 1
        self._told.set()
        self._told = trio.Event()

    async def _write(self, *, durable: bool = False, more: bytes = b"") -> None:
        """Bring ends to the journal, and tell who waits for them; the disk may take its time."""
        pauses, log_once = Pauses(), LogOnce(partial(self.log.warning, "journal: %s"))
        lines, self._unwritten = self._unwritten, []
        while True:
            try:
                await in_thread_or_here(
                    partial(self._append, b"".join(lines) + more, durable=durable)
                )
            except OSError as error:
                if error.errno in files.GONE:
                    self.log.warning("its directory is gone: %s", files.reason(error))
                    break
                log_once(files.reason(error))
                self._full = f"waiting for {shortage_of(error)} to record what became of members"
                if self.members.is_released:
                    # The journal goes; its room, and that of the units, may be what is lacking.
                    break
                await pauses.take()
            else:
                break
        self._full = ""
        self._tell()

    async def _finish(self) -> None:
        if not self.members.finished:
            finished = format_datetime(self._now())
            await self._write(durable=True, more=event("end", Finished=finished))
            self.members.finished = finished
            counts = self.members.counts
            self.log.info(
                "ended: %d succeeded, %d failed, %d canceled, %d refused",
                *counts[MemberState.SUCCEEDED :],
            )

    # --- its release ----------------------------------------------------------------------------

    async def _remove(self) -> None:
        """Release all units, then the batch itself."""
        async with trio.open_nursery() as nursery:
            for position in range(len(self.members)):
                if position % LOOKED_AT == 0:
                    await trio.lowlevel.checkpoint()
                for key in self.members.keys(self.batch_id, position):
                    unit = self._units.find(key)
                    if isinstance(unit, Unit):
                        await self._places.acquire()
                        nursery.start_soon(self._release, unit)
        await in_thread_or_here(self._files.remove, self.batch_id)
        self.gone = True
        self.log.info("released")

    async def _release(self, unit: Unit) -> None:
        try:
            await self._units.release(unit, self.members.asker)
        finally:
            self._places.release()
