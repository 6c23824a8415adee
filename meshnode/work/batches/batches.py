"""The batches of a node: taken in, found, taken over from the last run, and driven."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from meshnode import files
from meshnode.errors import CommandError, MeshnodeError, WorkError
from meshnode.logs import subject_logger
from meshnode.permissions import Verb
from meshnode.work.batches.access import BatchAccess, UnknownBatch
from meshnode.work.batches.after import Predecessors
from meshnode.work.batches.batch import Batch
from meshnode.work.batches.files import BatchFiles
from meshnode.work.batches.members import Members
from meshnode.work.batches.memberunits import MemberUnits
from meshnode.work.batches.spec import (
    MAX_LINE_BYTES,
    MAX_LIST_BYTES,
    MAX_MEMBERS,
    MAX_PLACES,
    BatchSpec,
    parse_line,
)
from meshnode.work.units.access import Caller
from meshnode.work.units.jsonreader import format_datetime
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.shortage import in_thread_or_here
from meshnode.work.units.unit import Clock, wall_clock

MAX_BATCHES = 1000
"""Batches of a node that are not released; a list of them is a reply, and each has its files."""

RECEIVE = 256 * 1024
"""Bytes of a list that are asked of a client at a time."""

Receive = Callable[[int], Awaitable[bytes]]


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
        self._nursery: trio.Nursery | None = None
        self._taking = 0
        """Batches that are being taken in."""
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

    # --- what clients ask for -------------------------------------------------------------------

    def time(self) -> str:
        """Return the time now as a specification has it."""
        return format_datetime(self._now())

    async def create(self, spec: BatchSpec, receive: Receive) -> Batch:
        """Take in a batch; ``receive`` returns the bytes of its list, none at the end.

        Its first member is judged as its submission will be; the others are when they come.

        Raises:
            MeshnodeError: it is refused; nothing of it is left.
            trio.BrokenResourceError: the client is gone; nothing is left either.
        """
        if len(self._batches) + self._taking >= MAX_BATCHES:
            raise CommandError(f"this node has {MAX_BATCHES} batches: release some")
        self._taking += 1
        try:
            return await self._create(spec, receive)
        except OSError as error:
            raise WorkError(f"cannot keep the batch: {files.reason(error)}") from error
        finally:
            self._taking -= 1

    async def _create(self, spec: BatchSpec, receive: Receive) -> Batch:
        self.units.store.check()
        scratch = await in_thread_or_here(self._files.scratch)
        try:
            first = b""
            if spec.has_lines:
                places: set[tuple[str, str]] = set()
                count, first = await _take_lines(scratch / "lines", receive, places)
                spec = spec.with_lines(count, places)
            submission, _ = spec.member("b-00000000", spec.array.index(0), first, "")
            self.units.check(submission, spec.caller)
            batch_id = await in_thread_or_here(self._files.put_in_place, scratch, spec)
        except BaseException:
            self._files.discard(scratch)
            raise
        batch = self._batches[batch_id] = self._make(batch_id, spec, Members(spec))
        batch.log.info("created: %d members, by %s", len(batch.members), spec.caller.client)
        self._start(batch)
        return batch

    async def retry(self, batch: Batch) -> int:
        """Have all members run again that have not succeeded; return how many there are.

        Raises:
            CommandError: it has not ended.
        """
        count = await batch.retry()
        if count:
            self._start(batch)
        return count

    async def release(self, batch: Batch) -> None:
        """Have a batch end and go away, with its units. Raises CommandError."""
        await batch.release()
        self._start(batch)


async def _take_lines(
    path: Path, receive: Receive, places: set[tuple[str, str]]
) -> tuple[int, bytes]:
    """Write a list to a file and sync it; return how many lines there are, and the first one.

    The work types and nodes that its lines name come to ``places``.

    Raises:
        CommandError: a line is none of a member, or there are too many.
        OSError: the disk refuses.
    """
    count, size, first, rest = 0, 0, b"", b""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while True:
            data = await receive(RECEIVE)
            *lines, rest = (rest + data).split(b"\n")
            if not data and rest:
                lines, rest = [rest], b""
            kept = [line for line in lines if line.strip()]
            for number, line in enumerate(kept, count + 1):
                _check_line(number, line, places)
            count, size = count + len(kept), size + sum(map(len, kept)) + len(kept)
            first = first or (kept[0] if kept else b"")
            if len(rest) > MAX_LINE_BYTES:
                raise CommandError(f"line {count + 1} has more than {MAX_LINE_BYTES} bytes")
            if count > MAX_MEMBERS or size > MAX_LIST_BYTES:
                raise CommandError(
                    f"a list has at most {MAX_MEMBERS} lines and {MAX_LIST_BYTES} bytes"
                )
            if kept:
                await in_thread_or_here(file.write, b"".join(line + b"\n" for line in kept))
            if not data:
                break
        if not count:
            raise CommandError("there is no line: a batch has at least one member")
        file.flush()
        await in_thread_or_here(os.fsync, file.fileno())
    return count, first


def _check_line(number: int, line: bytes, places: set[tuple[str, str]]) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise CommandError(f"line {number} has more than {MAX_LINE_BYTES} bytes")
    try:
        more = parse_line(line)
    except MeshnodeError as error:
        raise CommandError(f"line {number}: {error}") from error
    if "worktype" in more or "node" in more:
        places.add((more.get("worktype", ""), more.get("node", "")))
        if len(places) > MAX_PLACES:
            raise CommandError(f"a list has at most {MAX_PLACES} pairs of a work type and a node")
