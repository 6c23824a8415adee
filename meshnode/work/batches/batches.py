"""The batches of a node: taken in, found, taken over from the last run, and driven."""

from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio

from meshnode import files
from meshnode.errors import CommandError, WorkError
from meshnode.logs import subject_logger
from meshnode.permissions import Verb
from meshnode.work.batches.access import BatchAccess, UnknownBatch
from meshnode.work.batches.after import Predecessors
from meshnode.work.batches.batch import Batch
from meshnode.work.batches.files import DEPS, BatchFiles
from meshnode.work.batches.intake import Turn, take_files, take_lines
from meshnode.work.batches.members import Members
from meshnode.work.batches.memberunits import MemberUnits
from meshnode.work.batches.spec import BatchSpec
from meshnode.work.units.access import Caller
from meshnode.work.units.intake import Receive
from meshnode.work.units.jsonreader import format_datetime
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.quotas import BatchesHeld, account
from meshnode.work.units.shortage import check_fits, in_thread_or_here
from meshnode.work.units.unit import Clock, wall_clock

MAX_BATCHES = 1000
"""Batches of a node that are not released; a list of them is a reply, and each has its files."""


class Batches:
    """The batches of one node, whose ``units`` their members are.

    Resource handling: :meth:`run` owns a task for each batch that has not ended; it must begin
    after the units are there, and everything else must be called while it runs.
    """

    def __init__(
        self, units: UnitManager, batch_files: BatchFiles, now: Clock = wall_clock
    ) -> None:
        self.units = units
        self._files = batch_files
        self._now = now
        self._batches: dict[str, Batch] = {}
        self._before = Predecessors(units, self._batches.get)
        self.access = BatchAccess(units, self.find)
        """Judges who may ask what of batches."""
        units.quotas.of_batches = self._held_by
        self._nursery: trio.Nursery | None = None
        self._taking: Counter[Hashable] = Counter()
        """Batches that are being taken in, by their submitter."""
        self._named: dict[tuple[Hashable, str], Turn] = {}
        """Those of them that have a key, until it is known what has become of them."""
        self._log = subject_logger("batches")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have the batches on disk go on, and those that come, until cancelled.

        A batch that cannot be read is left as it is.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for batch in await in_thread_or_here(self._load_all):
                self._batches[batch.batch_id] = batch
                if not batch.members.finished or batch.members.is_released:
                    self._start(batch)
            self.units.chains.batches = self
            task_status.started()
            await trio.sleep_forever()

    def _load_all(self) -> list[Batch]:
        loaded: list[Batch] = []
        try:
            names = self._files.found()
        except WorkError as error:
            self._log.error("%s", error)
            return []
        for name in names:
            try:
                spec = self._files.read_spec(name)
                members = Members(spec)
                for line in self._files.read_journal(name):
                    if not members.replay(line):
                        self._log.warning("batch %s: a line of its journal is damaged", name)
            except (WorkError, OSError) as error:
                self._log.error("batch %s does not go on: %s", name, error)
            else:
                loaded.append(self._make(name, spec, members))
        return loaded

    def _make(self, batch_id: str, spec: BatchSpec, members: Members) -> Batch:
        units = MemberUnits(batch_id, spec, self._files, self.units)
        return Batch(batch_id, spec, self._files, units, members, self._before, self._now)

    def _start(self, batch: Batch) -> None:
        if self._nursery is not None and not batch.is_running:
            batch.is_running = True
            self._nursery.start_soon(self._run, batch, name=f"batch {batch.batch_id}")

    async def _run(self, batch: Batch) -> None:
        try:
            await batch.run()
        except Exception as error:
            # The next start of the node has it go on from what is on record.
            batch.stopped = f"stopped until the node starts again: {type(error).__name__}"
            batch.log.exception("it stops: %s", error)
        if batch.gone:
            self._batches.pop(batch.batch_id, None)
        self.units.chains.look(batch.batch_id)

    # --- what units ask that wait for a batch -------------------------------------------------

    def check_known(self, batch_id: str, caller: Caller) -> None:
        """Return if a client may know of a batch. Raises MeshnodeError."""
        self.access.find(batch_id, caller, Verb.STATUS)

    def standing(self, batch_id: str) -> tuple[str, bool]:
        """Return how a batch stands at this moment, and whether that is its end."""
        return self._before.standing(batch_id)

    # --- what there is ------------------------------------------------------------------------

    def find(self, batch_id: str) -> Batch:
        """Return the batch of that ID. Raises UnknownBatch."""
        try:
            return self._batches[batch_id]
        except KeyError:
            raise UnknownBatch(batch_id) from None

    def all(self) -> tuple[Batch, ...]:
        """Return every batch."""
        return tuple(self._batches.values())

    async def read_part(self, batch: Batch, start: int) -> bytes:
        """Return lines of a batch's journal from a position on. Raises CommandError."""
        try:
            return await in_thread_or_here(self._files.read_part, batch.batch_id, start)
        except OSError as error:
            raise CommandError(
                f"the journal of batch {batch.batch_id} cannot be read: {files.reason(error)}"
            ) from error

    def _held_by(self, owner: Hashable) -> BatchesHeld:
        """Return what a submitter's batches keep; one that comes is counted by its bytes."""
        specs = [one.spec for one in self.all() if account(one.spec.caller.client) == owner]
        return BatchesHeld(
            len(specs) + self._taking[owner], sum(spec.payload_size for spec in specs)
        )

    # --- what clients ask for -------------------------------------------------------------------

    def time(self) -> str:
        """Return the time now as a specification has it."""
        return format_datetime(self._now())

    @asynccontextmanager
    async def once(self, spec: BatchSpec) -> AsyncIterator[tuple[Batch | None, Turn]]:
        """Have a submission to oneself; yield the batch that an earlier one of its key has made.

        Waits while such a one comes: its client may have lost it, and sends it again. So the
        earlier one ends when nothing comes of it. What is yielded besides receives the payload.

        Raises:
            CommandError: the key is that of another batch.
        """
        turn = Turn()
        if not spec.key:
            yield None, turn
            return
        owner = account(spec.caller.client)
        while (other := self._named.get((owner, spec.key))) is not None:
            await other.wait_over()
        known = self._of_key(owner, spec.key)
        if known is not None:
            if known.spec.asked != spec.asked:
                raise CommandError(f"field submissionkey is that of batch {known.batch_id}")
            yield known, turn
            return
        self._named[owner, spec.key] = turn
        try:
            yield None, turn
        finally:
            del self._named[owner, spec.key]
            turn.over.set()

    def _of_key(self, owner: Hashable, key: str) -> Batch | None:
        for batch in self.all():
            if batch.spec.key == key and account(batch.spec.caller.client) == owner:
                return batch
        return None

    async def create(self, spec: BatchSpec, receive: Receive) -> Batch:
        """Take in a batch; ``receive`` returns the bytes of its payload, none at the end.

        That is the tar of its files, if it has any, and then its list.

        Its first member is judged as its submission will be; the others are when they come.

        Raises:
            MeshnodeError: it is refused; nothing of it is left.
            trio.BrokenResourceError: the client is gone; nothing is left either.
        """
        if len(self._batches) + self._taking.total() >= MAX_BATCHES:
            raise CommandError(f"this node has {MAX_BATCHES} batches: release some")
        quotas, client = self.units.quotas, spec.caller.client
        quotas.admit_batch(client)
        owner = account(client)
        self._taking[owner] += 1
        try:
            # Before a byte of it comes.
            with quotas.receiving(client, spec.files.size, receive) as counted:
                return await self._create(spec, counted)
        except OSError as error:
            raise WorkError(f"cannot keep the batch: {files.reason(error)}") from error
        finally:
            self._taking[owner] -= 1
            if not self._taking[owner]:
                del self._taking[owner]

    async def _create(self, spec: BatchSpec, receive: Receive) -> Batch:
        self.units.store.check()
        scratch = await in_thread_or_here(self._files.scratch)
        try:
            first = b""
            if not spec.has_lines:
                self._check_first(spec, first)
            if spec.files.size:
                await check_fits(scratch, spec.files.size)
                sha256 = await take_files(scratch / DEPS, receive, spec.files)
                spec = spec.with_digest(sha256)
            if spec.has_lines:
                places: set[tuple[str, str]] = set()
                taken = await take_lines(scratch / "lines", receive, places)
                if spec.list_sha256 not in ("", taken.sha256):
                    raise CommandError("the list is not the one that was announced: send it again")
                spec = spec.with_lines(taken.count, places, taken.size)
                self._check_first(spec, taken.first)
            elif spec.files.size and await receive(1):
                raise CommandError(f"there is more than the {spec.files.size} bytes of its files")
            batch_id = await in_thread_or_here(self._files.put_in_place, scratch, spec)
        except BaseException:
            self._files.discard(scratch)
            raise
        batch = self._batches[batch_id] = self._make(batch_id, spec, Members(spec))
        batch.log.info("created: %d members, by %s", len(batch.members), spec.caller.client)
        self._start(batch)
        return batch

    def _check_first(self, spec: BatchSpec, line: bytes) -> None:
        submission, _ = spec.member("b-00000000", spec.array.index(0), line, "")
        self.units.check(submission, spec.caller)

    async def retry(self, batch: Batch) -> int:
        """Have all members run again that have not succeeded; return how many there are.

        Raises:
            CommandError: it has not ended.
        """
        count = await batch.retry()
        if count:
            self._start(batch)
        return count

    async def release(self, batch: Batch, by: Caller) -> None:
        """Have a batch end and go away, with its units; ``by`` is who asks. Raises CommandError."""
        await batch.release(by)
        self._start(batch)
