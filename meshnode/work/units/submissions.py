"""The submissions that a store has taken: those whose units it has, and those whose units are gone.

A submission with a key is taken once. While its unit is there, the unit's own record says so. What
is left of it after its release is a tombstone, which costs the release nothing: the unlinked
directory keeps its status until the tombstones of a while have been brought to disk together.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import trio

from meshnode import files
from meshnode.errors import CommandError, WorkError
from meshnode.logs import subject_logger
from meshnode.work.units import directory
from meshnode.work.units.keys import ALREADY_SUBMITTED, KeyState, Receipt, work_digest
from meshnode.work.units.quarantine import UNKNOWN_TYPE
from meshnode.work.units.quotas import account
from meshnode.work.units.shortage import in_thread_or_here
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.submission import Submission
from meshnode.work.units.tombstones import Tombstone, TombstoneFile, Tombstones
from meshnode.work.units.unit import Clock, Unit
from meshnode.work.units.unitfiles import TRASH, is_unit_id
from meshnode.work.units.uploads import awaits_rest

KEEP_SECONDS = 7 * 86400.0
"""Seconds for which released units are remembered, unless the configuration says how many."""

SYNC_DELAY = 1.0
"""Seconds for which tombstones gather before they are synced together. Until then the
status in each unlinked directory says the same."""

RETRY_DELAY = 15.0
"""Seconds until a disk that refused tombstones is tried again."""

MARGIN = 60.0
"""Most seconds from the creation of a unit until its submitter has its receipt. The tombstone must
have a later time than the receipt, also if the clock was set back since."""


AHEAD = 86400.0
"""Seconds by which a unit may seem to have been created in the future: the clock was set back."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one submission."""

    key_state: KeyState
    unit: Unit | None = None
    state: int | None = None
    """How a released unit had ended."""


class Submissions:
    """The submissions of one store.

    ``units`` are the store's, by ID; the manager reports each that comes and goes.
    """

    def __init__(
        self,
        store: UnitStore,
        units: Mapping[str, Unit],
        now: Clock,
        keep: float = KEEP_SECONDS,
    ) -> None:
        self._identity = ""
        self._taking = 0
        """Which directory of the store's is known: see :meth:`_look`."""
        self._store = store
        self._units = units
        self._now = now
        self._log = subject_logger("store", str(store.root))
        self._by_key: dict[tuple[str, str], Unit] = {}
        self._tombstones = Tombstones(keep)
        self._file = TombstoneFile(store.root, self._log)
        self._pending: list[_Pending] = []
        self._wake = trio.Event()

    # --- submitting ---------------------------------------------------------------------------

    def admit(
        self,
        status: UnitStatus,
        submission: Submission,
        is_known: Callable[[Unit], bool] = lambda _: True,
    ) -> UnitStatus:
        """Return the first status of a unit with its key in it.

        ``is_known`` says whether the submitter may be told of a unit that has the key already.

        Raises:
            CommandError: the submission was taken before.
            WorkError: there is no directory for units.
        """
        key = submission.key
        if not key:
            return status
        # What a directory that is there again remembers may be this very submission.
        self._store.check()
        self._look()
        digest = _work_of(submission)
        unit = self._unit_of(status.submitter, key)
        if unit is not None:
            if unit.status.submission_work not in {"", digest}:
                raise CommandError("field submissionkey is that of other work")
            if not is_known(unit):
                raise CommandError("field submissionkey is that of another client's work")
            raise CommandError(f"{ALREADY_SUBMITTED} {unit.unit_id}")
        if stone := self._tombstones.find(status.submitter, key):
            raise CommandError(f"{ALREADY_SUBMITTED} {stone.unit_id}, which was released")
        return replace(status, submission_key=key, submission_work=digest)

    def resumed(
        self, status: UnitStatus, submission: Submission, is_known: Callable[[Unit], bool]
    ) -> Unit | None:
        """Return the unit of an earlier session with the same submission, if that awaits the rest.

        Args:
            status: the first status of a unit of this submission.
            submission: what the client asks for, all of it.
            is_known: as in :meth:`admit`.

        Raises:
            WorkError: there is no directory for units.
        """
        if not submission.resumes:
            return None
        self._store.check()
        self._look()
        unit = self._unit_of(status.submitter, submission.key)
        is_same = (
            unit is not None
            and awaits_rest(unit)
            and unit.status.submission_work == _work_of(submission)
            and account(unit.status.submitted_by) == account(status.submitted_by)
            and is_known(unit)
        )
        return unit if is_same else None

    def receipt(self) -> Receipt:
        """Return the receipt that a submitter gets with the ID of its new unit."""
        return Receipt(self.identity(), self._tombstones.now(self._now().timestamp()))

    def identity(self) -> str:
        """Return the store's identity; another directory, or an emptied one, has another.

        Blocks where the directory is another one since the last time, which is rare.
        """
        self._look()
        return self._identity

    def _look(self) -> None:
        """Learn what the directory remembers if it is another one since the last look.

        It may be one that was missing when the node started, or was away for a while. Who shows a
        store's identity must know all that was ever released in it.
        """
        if self._taking == self._store.takings:
            return
        self._taking = self._store.takings
        is_new = not os.path.lexists(self._store.root / directory.FILE)
        self._identity = directory.store_identity(self._store.root, self._log)
        self._file = TombstoneFile(self._store.root, self._log)
        now = self._now().timestamp()
        self._file.load(self._tombstones, now, is_new=is_new)
        try:
            names = self._store.trash()
        except WorkError as error:
            self._log.warning("%s; what it remembers is unknown", error)
            self._tombstones.forget_until(self._tombstones.now(now))
            names = []
        waiting = {pending.trash.name for pending in self._pending if pending.trash is not None}
        for name in names:
            if name not in waiting:
                self._remember_trash(name, now)
        self.note_damaged()

    def find(self, submitter: str, key: str, unit_id: str, receipt: Receipt | None) -> Found:
        """Return what is known of a submission, for its submitter.

        ``unit_id`` and ``receipt`` are what the submitter was told when it was taken, if it knows.
        """
        self._look()
        unit = self._unit_of(submitter, key)
        if unit is not None:
            return Found(KeyState.UNIT, unit)
        if stone := self._tombstones.find(submitter, key):
            return Found(KeyState.RELEASED, state=stone.state)
        if self._tombstones.is_damaged(unit_id) or self._is_unreadable(unit_id):
            return Found(KeyState.DAMAGED)
        if receipt is not None and receipt.moment <= self._tombstones.horizon(submitter):
            return Found(KeyState.FORGOTTEN)
        return Found(KeyState.NOTHING)

    def _unit_of(self, submitter: str, key: str) -> Unit | None:
        unit = self._by_key.get((submitter, key))
        if unit is None and submitter and key.startswith(f"{submitter}:"):
            # A record from before submitters were recorded.
            unit = self._by_key.get(("", key))
        return unit

    def _is_unreadable(self, unit_id: str) -> bool:
        """Whether something of that name is there and cannot be read."""
        if not is_unit_id(unit_id):
            return False
        if unit := self._units.get(unit_id):
            return unit.status.work_type == UNKNOWN_TYPE
        return os.path.lexists(self._store.directory(unit_id))

    # --- units that come and go -----------------------------------------------------------------

    def add(self, unit: Unit) -> None:
        """Take note of a unit, a new one or one of the last run."""
        key = (unit.status.submitter, unit.status.submission_key)
        known = self._by_key.get(key)
        # Of two with one key (a power cut may have undone a release) only one can have been
        # started.
        if key[1] and (known is None or known.status.never_ran):
            self._by_key[key] = unit

    def forget(self, unit: Unit, trash: Path | None) -> bool:
        """Forget a unit that was just unlinked; return whether its status is still needed there."""
        status = unit.status
        key = (status.submitter, status.submission_key)
        if self._by_key.get(key) is unit:
            del self._by_key[key]
        if not key[1] or status.never_ran:
            return False
        self._remember(self._stone(unit.unit_id, status, self._now().timestamp()), trash)
        self._wake.set()
        return trash is not None

    def _stone(self, unit_id: str, status: UnitStatus, now: float) -> Tombstone:
        moment = now
        if status.created is not None and _seconds(status.created) < now + AHEAD:
            moment = max(now, _seconds(status.created) + MARGIN)
        return Tombstone.of(
            status.submitter,
            status.submission_key,
            unit_id,
            int(status.state),
            self._tombstones.now(moment),
        )

    def _remember(self, stone: Tombstone, trash: Path | None = None) -> None:
        self._tombstones.add(stone)
        self._pending.append(_Pending(stone, trash))

    # --- the disk -----------------------------------------------------------------------------

    def open(self) -> None:
        """Load what the store remembers, before its units are read. Blocks."""
        self._look()

    def note_damaged(self) -> None:
        """Remember the quarantined units, also if somebody deletes them. Blocks."""
        for name in self._store.quarantined():
            if is_unit_id(name) and not self._tombstones.is_damaged(name):
                self._remember(Tombstone.of_damaged(name, self._tombstones.now(0)))
        self._write_pending()

    def _remember_trash(self, name: str, now: float) -> None:
        """Remember a unit whose release was interrupted; the scan of units purges it."""
        unit_id = name.removeprefix(TRASH)
        if not is_unit_id(unit_id):
            return  # not ours: it may be no text
        try:
            status = self._store.read_status(name)
        except WorkError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                self._remember(Tombstone.of_damaged(unit_id, self._tombstones.now(0)))
            return
        if status.submission_key and not status.never_ran:
            self._remember(self._stone(unit_id, status, now))

    def _write_pending(self) -> None:
        if not self._pending:
            return
        try:
            if self._file.is_due:
                self._file.replace(self._tombstones.prune())
            else:
                self._file.append([pending.stone for pending in self._pending])
        except OSError as error:
            self._say_refused(error)
        else:
            written, self._pending = self._pending, []
            self._purge(pending.trash for pending in written if pending.trash is not None)

    async def run(self) -> None:
        """Bring tombstones to disk, until cancelled."""
        if self._pending:
            self._wake.set()
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await trio.sleep(SYNC_DELAY)
            batch, self._pending = self._pending, []
            try:
                await self._write(batch)
            except OSError as error:
                self._say_refused(error)
                self._pending = batch + self._pending
                self._wake.set()
                await trio.sleep(RETRY_DELAY)

    async def _write(self, batch: list["_Pending"]) -> None:
        self._look()
        if self._file.is_due:
            await in_thread_or_here(self._file.replace, self._tombstones.prune())
        else:
            await in_thread_or_here(self._file.append, [pending.stone for pending in batch])
        await in_thread_or_here(self._purge, [p.trash for p in batch if p.trash is not None])

    def _purge(self, trash: Iterable[Path]) -> None:
        for place in trash:
            self._store.purge(place)

    def _say_refused(self, error: OSError) -> None:
        self._log.warning(
            "what is released is remembered in memory only, for now: %s", files.reason(error)
        )


@dataclass(frozen=True, slots=True)
class _Pending:
    """A tombstone that is not on disk yet."""

    stone: Tombstone
    trash: Path | None
    """The unlinked directory, whose status says the same."""


def _work_of(submission: Submission) -> str:
    """Return the digest of what is submitted."""
    job = submission.job.fields()
    return work_digest(submission.work_type, submission.params, submission.announced, job)


def _seconds(time: str) -> float:
    moment = datetime.fromisoformat(time)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
