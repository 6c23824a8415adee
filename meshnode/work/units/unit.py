"""One unit in memory: its status, and whoever waits for it to change."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import trio

from meshnode import files
from meshnode.errors import UnknownUnit, WorkError
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.protocol.lifecycle import UnitState, check_transition
from meshnode.resources import BriefLock
from meshnode.work.units.jsonreader import format_datetime
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.shortage import NotRecorded, Pauses, shortage_of
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusfiles import Locked, Overtaken
from meshnode.work.units.store import UnitStore
from meshnode.work.units.tally import TypeFigures

Clock = Callable[[], datetime]
"""Returns the wall-clock time, aware of its zone."""


def wall_clock() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class Unit:
    """The record of a unit in memory, which everything in the node looks at.

    Only :meth:`change` and :meth:`reload` give it a new status; each time all waiters wake.
    """

    __slots__ = (
        "_changed",
        "_listeners",
        "_lock",
        "_now",
        "_store",
        "command_lock",
        "end_waits",
        "figures",
        "measure",
        "outage",
        "place",
        "released",
        "status",
        "tell",
        "unit_id",
        "version",
        "watch",
        "work_type",
    )

    def __init__(
        self, unit_id: str, status: UnitStatus, store: UnitStore, now: Clock = wall_clock
    ) -> None:
        self.unit_id = unit_id
        self.status = status.without_spent_params()
        self.version = 0
        """Counts the changes, so that a waiter can say which it has seen."""
        self.released = False
        """Whether the unit's files are gone; no change comes after that."""
        self.end_waits = False
        """Whether the unit has ended but the disk does not take the record now."""
        self.work_type: object = None
        """The type that it was submitted as, for its runner: a reload may have replaced it since.
        None for a unit from an earlier run of the node, whose type is the configuration's."""
        self.outage = ""
        """Why the unit's node is not reached, while it is not. In memory only: it changes often."""
        self.place: Callable[[], str] | None = None
        """Says where the unit stands in the queue, while it waits there; see ``queue``."""
        self.measure: Callable[[], Mapping[str, object]] | None = None
        """Returns keys for a reply that say what the unit uses now; it blocks a little."""
        self.command_lock = BriefLock()
        """Held by a start, a cancel or a release: one request at a time."""
        self.figures: TypeFigures | None = None
        """Where what happens to the unit is counted, with others of its type; see ``tally``."""
        self.tell: Callable[[str, UnitStatus, UnitStatus], None] | None = None
        """Is told of each change of state: the unit's ID, the status before and after."""
        self.watch: Callable[[Unit, UnitStatus], None] | None = None
        """Is told of each change, and of the status before it."""
        self._store = store
        self._now = now
        self._lock = BriefLock()
        self._changed: trio.Event | None = None
        self._listeners: tuple[Callable[[], None], ...] = ()

    @property
    def log(self) -> SubjectLogger:
        """The logger for this unit.

        Its lines are limited until another node has taken the unit: a client can submit any number
        of units that run nowhere.
        """
        remote = self.status.remote
        is_untaken = remote is not None and not remote.unit_id
        return subject_logger("unit", self.unit_id, limited=is_untaken)

    @property
    def is_final(self) -> bool:
        """Whether nothing will change the state any more."""
        return self.released or self.status.state.is_final

    @property
    def remote(self) -> RemoteExtra:
        """What is known of the remote side. Raises WorkError for a unit of another type."""
        if self.status.remote is None:
            raise WorkError(f"unit {self.unit_id} is not a remote one")
        return self.status.remote

    def time(self) -> str:
        """Return the time now in the form of a status."""
        return format_datetime(self._now())

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file of output now, by its key in a status."""
        recorded = self.status.sizes
        if self.is_final or self.place is not None:
            return recorded
        return self._store.output_sizes(self.unit_id, recorded)

    @property
    def awaits(self) -> str:
        """What keeps the unit from going on at this moment, for a person; empty if nothing does."""
        return self.outage or ("" if self.place is None else self.place())

    @property
    def watchers(self) -> int:
        """How many wait for a change of the unit, or listen to each."""
        return len(self._listeners) + (self._changed is not None)

    def tell_watchers(self) -> None:
        """Have those who watch the unit look again: what it awaits is another thing by now."""
        self._publish(self.status)

    def show_outage(self, text: str) -> None:
        """Tell clients why the other node is not reached; nothing if it is."""
        if text != self.outage:
            self.outage = text
            self._publish(self.status)

    async def change(
        self,
        new: Callable[[UnitStatus], UnitStatus],
        *,
        durable: bool = False,
        patient: bool = True,
        before: Callable[[], None] | None = None,
        level: int = logging.INFO,
    ) -> None:
        """Replace the status by ``new(status)``, first on disk, then in memory; wake all waiters.

        A final state is always durable. While the disk refuses one, the unit stays what it is on
        disk, its detail says what is awaited, and the write is tried again: cancel the call, or
        release the unit, to stop that. Without ``patient`` it is not tried again.
        What must be on disk first, ``before`` brings there, in a thread. ``level`` is that of the
        line in the log if the state is another one. The input of a unit that
        ends without having been started is dropped. Of a unit whose directory is gone, memory has
        the only record.

        Raises:
            WorkError: the change is illegal, or the disk refuses one that is not final; or what
                ``before`` raises.
            Overtaken: a supervisor was first; the status is what it wrote.
            UnknownUnit: the unit has been released.
            NotRecorded: the disk refuses a final state, and the caller is not patient.
        """
        pauses: Pauses | None = None
        refused: UnitStatus | None = None
        try:
            while refused := await self._try_change(new, durable, before, refused, level):
                self.end_waits = True
                if not patient:
                    raise self._not_recorded()
                pauses = pauses or Pauses()
                await pauses.take()
        finally:
            if pauses is not None:
                self.end_waits = False

    async def _try_change(
        self,
        new: Callable[[UnitStatus], UnitStatus],
        durable: bool,
        before: Callable[[], None] | None,
        refused: UnitStatus | None,
        level: int,
    ) -> UnitStatus | None:
        """Make a change; return the final status that the disk refuses now, as ``refused`` before.

        Raises: as :meth:`change`.
        """
        async with self._lock:
            if self.released:
                raise UnknownUnit(self.unit_id)
            status = new(self.status)
            check_transition(self.status.state, status.state)
            if status == self.status:
                return None
            is_end = status.state.is_final
            try:
                await self._write(status, refused, durable=durable or is_end, before=before)
            except OSError as error:
                if error.errno in files.GONE:
                    text = "its directory is gone, so this is known only while the node runs: %s"
                    self.log.warning(text, status.in_words)
                elif is_end:
                    self._await_disk(status, shortage_of(error))
                    return status
                else:
                    raise WorkError(f"cannot record the status: {files.reason(error)}") from error
            except Locked as error:
                if not is_end:
                    raise
                self._await_disk(status, f"to be let ({error})")
                return status
            self._publish(status, level)
            return None

    def _await_disk(self, end: UnitStatus, what: str) -> None:
        """Say in the detail, and once in the log, what keeps an end from being recorded."""
        detail = f"waiting for {what} to record: {end.in_words}"
        if detail != self.status.detail:
            self.log.warning("%s", detail)
            self._publish(replace(self.status, detail=detail))

    async def note(self, new: Callable[[UnitStatus], UnitStatus]) -> None:
        """Replace the status by ``new(status)`` in memory; the next write takes it to disk.

        Raises:
            WorkError: the change is illegal.
            UnknownUnit: the unit has been released.
        """
        async with self._lock:
            if self.released:
                raise UnknownUnit(self.unit_id)
            status = new(self.status)
            check_transition(self.status.state, status.state)
            if status != self.status:
                self._publish(status)

    async def keep(self, *, durable: bool = True) -> None:
        """Write what is only in memory to disk; ``durable`` has it outlive a power cut, too.

        Raises:
            WorkError: the disk refuses.
        """
        async with self._lock:
            if self.is_final or not self._is_ours:
                return
            try:
                await self._write(self.status, durable=durable)
            except Overtaken:
                # The status is what the supervisor wrote.
                return
            except OSError as error:
                raise WorkError(f"cannot record the status: {files.reason(error)}") from error

    @property
    def _is_ours(self) -> bool:
        """Whether this node writes the status on disk; of a unit that runs here it does not."""
        return not self.status.is_command or self.status.state is UnitState.PENDING

    async def _write(
        self,
        status: UnitStatus,
        refused: UnitStatus | None = None,
        *,
        durable: bool,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Bring a status to disk, if that says what it should before.

        Raises:
            OSError: the disk refuses.
            Locked: somebody keeps the lock of the unit.
            Overtaken: a supervisor was first; the status in memory is what it wrote.
        """
        found = await self._store.record(
            self.unit_id, self.status, status, durable=durable, refused=refused, before=before
        )
        if found is not None:
            self._publish(found)
            raise Overtaken(f"unit {self.unit_id} is {found.state.label} on disk already")

    def _not_recorded(self) -> NotRecorded:
        return NotRecorded(f"work unit {self.unit_id}: {self.status.detail}")

    async def end(
        self, state: UnitState, detail: str, *, patient: bool = True, level: int = logging.INFO
    ) -> None:
        """Give the unit a final state, unless it has one; its output is taken as it is now.

        Returns when it is on disk, however long that has no room: see :meth:`change`.

        Raises:
            Overtaken: a supervisor has taken the unit meanwhile.
            NotRecorded: as :meth:`change`.
        """
        if self.is_final:
            return
        sizes = self.sizes()
        finished = self.time()

        def end(status: UnitStatus) -> UnitStatus:
            if status.state.is_final:
                return status
            ended = replace(status, state=state, detail=detail, finished=finished)
            return ended.with_sizes(sizes)

        await self.change(end, patient=patient, level=level)

    async def fail(self, detail: str, *, patient: bool = True) -> None:
        """End the unit as Failed, unless it has ended, and warn of it. Raises as :meth:`end`."""
        await self.end(UnitState.FAILED, detail, patient=patient, level=logging.WARNING)

    async def reload(self) -> None:
        """Take over what the supervisor has written to disk.

        Raises:
            WorkError: the status cannot be read.
        """
        async with self._lock:
            status = (await self._store.load(self.unit_id)).asked_to_end(self.status.ended_by)
            if status != self.status and not self.released:
                self._publish(status)

    async def take_over(self, changes: Mapping[str, Any]) -> None:
        """Take over what a supervisor has changed on disk, as it tells it.

        Raises:
            WorkError: with it, the status is none.
        """
        async with self._lock:
            if not self.released:
                self._publish(self.status.merged(changes))

    def mark_released(self) -> None:
        """Tell everybody that the unit's files are gone."""
        self.released = True
        self._publish(self.status)

    def _publish(self, status: UnitStatus, level: int = logging.INFO) -> None:
        if status.state is not self.status.state:
            self.log.log(level, "%s", status.in_words)
            if status.state.is_final:
                self.outage = ""
            if self.figures is not None:
                self.figures.changed(self.status, status)
            if self.tell is not None:
                self.tell(self.unit_id, self.status, status)
        old, self.status = self.status, status.without_spent_params()
        self.version += 1
        if self.watch is not None:
            self.watch(self, old)
        if self._changed is not None:
            self._changed.set()
            self._changed = None
        for listener in self._listeners:
            listener()

    async def wait_changed(self, seen: int) -> int:
        """Return the version as soon as it is not ``seen``."""
        while self.version == seen:
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()
        return self.version

    async def wait_final(self) -> None:
        """Return once the unit is final, or released."""
        while not self.is_final:
            await self.wait_changed(self.version)

    async def wait_ended(self) -> None:
        """Return once the unit is final, or released.

        Raises:
            NotRecorded: all is done, but the disk does not take the end now.
        """
        while not self.is_final:
            if self.end_waits:
                raise self._not_recorded()
            await self.wait_changed(self.version)

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called after each change, until it is removed. It must not block."""
        self._listeners += (listener,)

    def remove_listener(self, listener: Callable[[], None]) -> None:
        """Undo :meth:`add_listener`."""
        index = self._listeners.index(listener)
        self._listeners = self._listeners[:index] + self._listeners[index + 1 :]
