"""The manager of a node's units: it makes, finds, lists and drives them. The life of a unit.

**States.** Pending, Running, then Succeeded, Failed or Canceled; or from Pending to Failed or
Canceled at once. Nothing leaves a final state, and every unit reaches one. The table is in
:mod:`meshnode.protocol.lifecycle`.

**Who writes the status, and when.** The disk has the truth; memory follows it. While a command is
Pending, the node and supervisors may write, each under the lock of the unit's directory. From its
claim on only the supervisor writes; after the supervisor's end the node may again. Of a remote unit
the node is the only writer.

**A submission**: check, make, take in, start.

1. ``create`` checks what can be checked, then makes the directory with all its files. A unit exists
   from here on, so its client can be told an ID before it sends the payload.
2. ``start`` takes in the payload. The size goes on record only when all of it is there: a record
   without a size says that nothing was started, and nothing ever is with half a payload.
3. The task of the unit is spawned, and its runner starts the work. A command is started by a
   supervisor in three steps: *claim, reserve, execute*. The claim (Pending to Running, under the
   lock) comes first, so that of two supervisors one executes the command, and none does after a
   cancel. The room that the record of the end needs is reserved next, before the command can fill
   the disk. What is Pending on disk was therefore never executed; what is not never is again.

**An end**: *sync, write, rename, tell*. Stdout is synced first: a final state says that it is
complete. The new status is synced under another name and renamed, so that a reader, or a start
after a power cut, finds the old one or the new one, whole. Only then memory changes and whoever
waits is told: nobody hears of an end that a crash can take back. If the disk refuses, the unit
stays what it is on disk, its detail says what is awaited, and the record is tried again.

**A release**: *stop, unlink, remember, purge*. What runs is ended first. One rename takes the
unit away: a crash leaves a whole unit or none. If work was started under a submission key, a
tombstone remembers that. Until it is synced, the unlinked directory keeps its status, which says
the same; only then all of it is purged. So no crash makes a node forget that the work ran.

**A start of the node** finds each unit at one of these steps and goes on from there; see
:mod:`.adoption`. A task may be ended between any two of them, for the same reason.
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from meshnode.control.events import EventHub
from meshnode.errors import CommandError, MeshnodeError, UnknownUnit, WorkError
from meshnode.permissions import Verb
from meshnode.protocol.control import STDOUT
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.access import AccessRules
from meshnode.security.audit import AuditLog
from meshnode.security.auditlines import Kind
from meshnode.work.units.access import Allowed, Caller, UnitAccess
from meshnode.work.units.adoption import Adoption
from meshnode.work.units.after import is_batch_id
from meshnode.work.units.chains import Chains
from meshnode.work.units.ending import UnitEnder
from meshnode.work.units.follow import send_followed
from meshnode.work.units.intake import Payload
from meshnode.work.units.journal import Journal
from meshnode.work.units.planning import Planner
from meshnode.work.units.queue import RunQueue
from meshnode.work.units.quotas import Quotas
from meshnode.work.units.requests import AdoptRequest
from meshnode.work.units.results import SendFile, stream_results
from meshnode.work.units.runner import FirstOutcome, MissingRunner, Outcome, Plan, Runner, WorkType
from meshnode.work.units.shortage import in_thread_or_here
from meshnode.work.units.signatures import Signatures
from meshnode.work.units.starting import UnitStarter
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.submission import Submission
from meshnode.work.units.submissions import KEEP_SECONDS, Submissions
from meshnode.work.units.tally import UnitTally
from meshnode.work.units.tasks import FIRST_TIMEOUT, UnitTasks
from meshnode.work.units.unit import Clock, Unit, wall_clock
from meshnode.work.units.unitevents import UnitEvents
from meshnode.work.units.unitfiles import StoredUnit
from meshnode.work.units.uploads import Uploads
from meshnode.work.units.watcher import FileWatcher


class UnitManager:
    """The units of one node.

    ``runners`` has a runner for each kind of unit, ``elsewhere`` plans work for other nodes.
    ``work_types`` may be changed while the node runs; a unit keeps the type that it was made by.

    Resource handling: :meth:`run` owns what runners serve, the watches on stdout and one task for
    each unit that is not final; everything else must be called while it runs.
    """

    def __init__(
        self,
        *,
        store: UnitStore,
        runners: Mapping[str, Runner],
        work_types: Mapping[str, WorkType],
        elsewhere: Callable[[Submission], Plan],
        node_id: str,
        signatures: Signatures | None = None,
        rules: AccessRules | None = None,
        forwarding: bool = False,
        remember: float = KEEP_SECONDS,
        now: Clock = wall_clock,
        boot: str = "",
        audit: AuditLog | None = None,
        hub: EventHub | None = None,
    ) -> None:
        self.node_id = node_id
        self.store = store
        self._runners = runners
        self._missing = MissingRunner()
        self._work_types = work_types
        self._now = now
        self.watcher = FileWatcher()
        """Tells of changed files, also those that are none of a unit's."""
        self.access = UnitAccess(
            node_id,
            work_types,
            signatures or Signatures(),
            rules=rules,
            forwarding=forwarding,
        )
        """Judges who may ask what of units."""
        self.journal = Journal(audit)
        """Tells the audit log of units."""
        self._planner = Planner(self.access, work_types, elsewhere, now, boot)
        self._told = self.journal.changed
        self.events = UnitEvents(hub or EventHub(), node_id)
        """Tells clients that listen what becomes of units."""
        self._watched = self.events.changed
        self.tally = UnitTally()
        """Figures of all units, by their types."""
        self._units: dict[str, Unit] = {}
        self.uploads = Uploads(store, now)
        """Payloads that come in parts, and wait for the rest."""
        self.quotas = Quotas(self._units, self.uploads.received)
        self.submissions = Submissions(store, self._units, now, remember)
        """What is known of submissions, of units that are gone as well."""
        self._admission = trio.Lock()
        self._tasks = UnitTasks(self._drive, lambda unit: self._runner(unit).abandon(unit))
        self.queue = RunQueue(self._begin_next)
        """Has units wait until others have ended, where the configuration bounds how many run."""
        self.chains = Chains(self.find, self._wake, now)
        """Has units wait until others, or batches, have ended."""
        self.ender = UnitEnder(
            store,
            self._units,
            self.submissions,
            self._tasks,
            self._runner,
            self.journal,
            self.queue,
            self.chains,
        )
        """Cancels and releases units."""
        self._starter = UnitStarter(
            store, self._tasks, self.ender, self.quotas, self.queue, self.chains, self.uploads
        )
        self._adoption = Adoption(
            store, self._tasks, self.ender, boot, self._starter.begin, self.uploads
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take over the units on disk and drive all units until cancelled.

        Commands go on when it ends; the next run adopts them.

        Raises:
            WorkError: the store or a runner cannot be used.
        """
        await self.store.open()
        try:
            await in_thread_or_here(self.submissions.open)
            found = await self.store.load_all()
            await in_thread_or_here(self.submissions.note_damaged)
            async with trio.open_nursery() as services:
                services.start_soon(self.submissions.run)
                services.start_soon(self.chains.run)
                services.start_soon(self.uploads.run, self._starter.refuse_input)
                await services.start(self.watcher.run)
                for runner in self._runners.values():
                    await services.start(runner.serve)
                async with self._tasks.open():
                    await self._take_over(found)
                    self.queue.open()
                    task_status.started()
                    await self.queue.run()
        finally:
            self.store.close()

    async def _take_over(self, found: list[StoredUnit]) -> None:
        """Have all units go on that the last run has left."""
        # All are known before any is driven: a runner may count who is where already.
        units = [self._add(stored) for stored in found]
        # Not kept while the node runs: each would hold on to a unit's first status.
        found.clear()
        for unit in units:
            self.journal.found(unit.unit_id, unit.status)
            await self._adoption.adopt(unit)

    # --- what there is ------------------------------------------------------------------------

    def find(self, unit_id: str) -> Unit:
        """Return the unit of that ID. Raises UnknownUnit."""
        try:
            return self._units[unit_id]
        except KeyError:
            raise UnknownUnit(unit_id) from None

    def all(self) -> tuple[Unit, ...]:
        """Return every unit."""
        return tuple(self._units.values())

    async def warnings(self) -> list[str]:
        """Return what a person should look after, one line each."""
        return [
            *await self.store.find_warnings(),
            *self._adoption.warnings(self._units),
        ]

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a person should look at about where the units are kept, one line each."""
        return self.store.doubts

    async def send_followed(
        self, unit: Unit, send: Callable[[bytes], Awaitable[None]], *, shows_output: bool = True
    ) -> None:
        """Tell the unit's submitter of it until it is final."""
        await send_followed(unit, self.store, self.watcher, send, shows_output=shows_output)

    async def send_results(
        self, unit: Unit, start: int, send: SendFile, stream: str = STDOUT
    ) -> int:
        """Send a unit's output from byte ``start`` until it is final; see ``stream_results``."""
        return await stream_results(unit, self.store, start, self.watcher, send, stream)

    # --- new units ----------------------------------------------------------------------------

    def check(self, submission: Submission, caller: Caller) -> None:
        """Check all of a submission that can be checked now. Raises as :meth:`create`."""
        self._planner.plan(submission, caller)

    async def create(self, submission: Submission, caller: Caller) -> Unit:
        """Check all of a submission that can be checked, and make its unit.

        Of one whose payload was cut off it is the unit that awaits the rest.

        Raises:
            CommandError, SecurityError: it is refused; nothing has been made.
            WorkError: the disk refuses.
        """
        status, allowed = self._planner.plan(submission, caller)
        for one in submission.after:
            self.check_known(one.target, caller)

        def is_known(unit: Unit) -> bool:
            return self.access.is_known(unit.unit_id, unit.status, caller)

        work_type = self._work_types.get(status.work_type)
        # Of two submissions with one key, the second one must find the unit of the first.
        async with self._admission:
            begun = self.submissions.resumed(status, submission, is_known)
            if begun is None:
                status = self.submissions.admit(status, submission, is_known)
                self.quotas.admit(status)
                unit = self._add_new(StoredUnit(await self.store.add(status), status))
        if begun is not None:
            return await self._resume(begun, caller, allowed)
        await self.ender.keep_if_told(Kind.SUBMIT, unit, caller, allowed)
        unit.work_type = work_type
        remote = status.remote
        what = f"{remote.work_type} for {remote.aim}" if remote else status.work_type
        signed = f", signed with key {status.signed_by}" if status.signed_by else ""
        params = f": {status.submitted_params}" if status.submitted_params else ""
        unit.log.info("created: %s, by %s%s%s", what, caller.client, signed, params)
        return unit

    async def _resume(self, unit: Unit, caller: Caller, allowed: Allowed) -> Unit:
        if self.journal.is_on:
            await self.journal.accepted(Kind.RESUME, unit.unit_id, unit.status, caller, allowed)
        unit.log.info("another session brings its payload, by %s", caller.client)
        return unit

    def check_known(self, target: str, caller: Caller) -> None:
        """Return if a client may know of a unit or batch.

        Raises:
            CommandError, SecurityError: it may not, or there is none.
        """
        if not is_batch_id(target):
            unit = self.find(target)
            self.access.check_visible(Verb.STATUS, target, unit.status, "", caller)
        elif self.chains.batches is None:
            raise CommandError(f"unknown batch {target}")
        else:
            self.chains.batches.check_known(target, caller)

    async def adopt(self, request: AdoptRequest, caller: Caller) -> Unit:
        """Follow a unit that another node has, as if this node had submitted it.

        Returns once the other node has shown the unit, or cannot be reached now. Nothing is left
        here of a unit that cannot be followed.

        Raises:
            CommandError, SecurityError: it is refused, here or there.
            WorkError: the disk refuses.
        """
        status, allowed = self._planner.plan_adoption(request, caller)
        async with self._admission:
            self._check_not_followed(request, caller)
            self.quotas.admit(status)
            unit = self._add_new(StoredUnit(await self.store.add(status), status))
        await self.ender.keep_if_told(Kind.ADOPT, unit, caller, allowed)
        unit.log.info(
            "adopts unit %s of node %s, by %s", request.unit_id, request.node, caller.client
        )
        try:
            if not await self._tasks.spawn(unit).wait(FIRST_TIMEOUT):
                # Before the client is told: it must outlive even a power cut.
                await unit.keep()
        except MeshnodeError:
            await self.ender.release(unit)
            raise
        return unit

    def _check_not_followed(self, request: AdoptRequest, caller: Caller) -> None:
        for unit in self._units.values():
            remote = unit.status.remote
            if remote is None or (remote.node, remote.unit_id) != (request.node, request.unit_id):
                continue
            if not self.access.is_known(unit.unit_id, unit.status, caller):
                raise CommandError(
                    f"unit {request.unit_id} of node {request.node} cannot be adopted here"
                )
            how = "adopted" if remote.adopted else "submitted"
            raise CommandError(
                f"unit {request.unit_id} of node {request.node} was {how} here already: "
                f"it is unit {unit.unit_id}"
            )

    async def start(self, unit: Unit, payload: Payload) -> bool:
        """Take in a unit's payload and start it; see :meth:`.starting.UnitStarter.start`."""
        return await self._starter.start(unit, payload)

    def _wake(self, unit: Unit) -> None:
        """Have a unit hear of the end of what it waits for, unless the node is ending."""
        if self._tasks.are_open and not self._tasks.has(unit):
            self._tasks.spawn(unit)

    def _begin_next(self, unit: Unit) -> None:
        """Start a unit whose turn has come, unless the node is ending."""
        if self._tasks.are_open:
            self._tasks.spawn(unit)

    # --- what drives units --------------------------------------------------------------------

    async def _drive(self, unit: Unit, first: FirstOutcome) -> None:
        """Bring a unit on, from wherever its record says that it stands."""
        if unit.status.after and not await self._starter.may_go_on(unit, first):
            return
        if await self._runner(unit).run(unit, first) is not Outcome.REMOVABLE:
            return
        try:
            await self.ender.remove(unit, unit.status.released_by)
        except WorkError as error:
            unit.log.warning("%s", error)
            first.fail(error)
            if not unit.is_final:
                await unit.end(UnitState.CANCELED, "Canceled")
            # Not pending any more: a retention tries it again, or who asked, or the next start.
            await unit.note(UnitStatus.without_release)
        else:
            first.done()

    def _runner(self, unit: Unit) -> Runner:
        return self._runners.get(unit.status.kind, self._missing)

    def _add_new(self, stored: StoredUnit) -> Unit:
        unit = self._add(stored)
        if unit.figures is not None:
            unit.figures.submitted += 1
        self.events.created(unit)
        return unit

    def _add(self, stored: StoredUnit) -> Unit:
        unit = Unit(stored.unit_id, stored.status, self.store, self._now)
        unit.figures = self.tally.figures_of(unit.status)
        unit.figures.came(unit.status)
        unit.tell = self._told
        unit.watch = self._watched
        self._units[unit.unit_id] = unit
        self.submissions.add(unit)
        return unit
