"""The contract between the manager of units and the runners that do their work.

Calls go one way: a command asks the manager, the manager asks a runner, the runner returns an
outcome, and the manager carries it out. A runner reads and changes the record of a unit. It never
spawns, stops or removes one: of the tasks of units only the manager knows.

All that a runner must know to go on with a unit is in the unit's record. So its task may be ended
at any await, by a request of a client or with the node, and be spawned again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Protocol

import trio

from meshnode.errors import MeshnodeError, WorkError
from meshnode.work.units.jsonreader import NOTHING, JsonObject
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.submission import Submission
from meshnode.work.units.unit import Unit


@dataclass(frozen=True, slots=True)
class Plan:
    """What the first record of a unit has for its runner; see the fields of ``UnitStatus``."""

    params: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    """The files of output that the unit has beside stdout."""
    limits: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    isolation: str = ""
    remote: RemoteExtra | None = None
    runner: str = ""
    runner_data: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


class WorkType(Protocol):
    """A type of work that this node offers."""

    @property
    def verify_signature(self) -> bool:
        """Whether submissions must be signed."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds that a unit of it may run, None for ever."""
        ...

    @property
    def takes_settings(self) -> bool:
        """Whether it looks at what clients give the job; for another that is refused."""
        ...

    def described(self, name: str) -> JsonObject:
        """Return what clients are told of the type of that name: what it takes, and what bounds it.

        All of it can stand in JSON; how the work is done is not among it.
        """
        ...

    def plan(self, submission: Submission) -> Plan:
        """Return what is to be done, for which kind of runner.

        Raises:
            CommandError: it cannot be done.
        """
        ...


class Outcome(Enum):
    """What a runner leaves to the manager when it returns."""

    DONE = auto()
    """Nothing: the unit has ended, or its record says what is to come."""
    IDLE = auto()
    """Nothing of the unit runs or can be started by anybody else: stop its task and end it."""
    REQUESTED = auto()
    """The request is on record: run the unit's task, which carries it out and reports."""
    REMOVABLE = auto()
    """Nothing is left of the unit but what is kept here: remove it."""


class FirstOutcome:
    """The outcome of the first try of something, for a client that waits while it is made.

    Only the first outcome counts, and nobody need be waiting: a client may leave, the try goes on.
    """

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._done = False
        self._error: MeshnodeError | None = None

    def done(self) -> None:
        """It has happened."""
        self._settle(done=True)

    def pending(self) -> None:
        """It could not be done at once, and is tried again until it is."""
        self._settle(done=False)

    def fail(self, error: MeshnodeError) -> None:
        """It was refused, and is not tried again."""
        if not self._settled.is_set():
            self._error = error
        self._settle(done=False)

    def _settle(self, *, done: bool) -> None:
        if not self._settled.is_set():
            self._done = done
            self._settled.set()

    async def wait(self, seconds: float) -> bool:
        """Return whether it is done; what takes longer than ``seconds`` counts as pending.

        Raises:
            MeshnodeError: it was refused.
        """
        with trio.move_on_after(seconds):
            await self._settled.wait()
        if self._error is not None:
            raise self._error
        return self._done


class Runner(Protocol):
    """Runs the units of one kind."""

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Have running what all its units need, until cancelled; with nothing to run, return.

        Raises:
            WorkError: it cannot run, and without it the node cannot.
        """
        ...

    @property
    def stops_for_requests(self) -> bool:
        """Whether the manager stops a unit's task before it asks for a cancel or a release.

        The task of a remote unit is stopped, so that nothing but the request changes the record.
        The task of a command goes on: it sees the command end and records that.
        """
        ...

    async def run(self, unit: Unit, first: FirstOutcome) -> Outcome:
        """Drive the unit to its end, from wherever its record says that it stands.

        ``first`` is settled with the outcome of the first try.
        """
        ...

    async def abandon(self, unit: Unit) -> None:
        """See that nothing runs on here of a unit whose task had a fault; it fails then."""
        ...

    async def cancel(self, unit: Unit) -> Outcome:
        """Stop a unit that is not final, or record that it is to be stopped.

        Raises:
            MeshnodeError: it cannot be stopped.
        """
        ...

    async def release(self, unit: Unit, *, force: bool, remote: bool) -> Outcome:
        """Stop a unit and let go of all that is elsewhere, or record that this is to be done.

        With ``force`` the unit is removable in any case, after one try to do it properly. What
        this node has only adopted stays elsewhere, unless ``remote`` says that it is to go, too.

        Raises:
            MeshnodeError: it cannot be released.
        """
        ...


class MissingRunner:
    """Stands in for a runner that the configuration no longer asks for: its units wait for it."""

    stops_for_requests = True

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Nothing runs."""
        task_status.started()

    async def run(self, unit: Unit, first: FirstOutcome) -> Outcome:
        """Say what the unit waits for."""
        if not unit.is_final:
            await unit.note(lambda old: replace(old, detail=_missing(unit)))
        first.pending()
        return Outcome.DONE

    async def abandon(self, unit: Unit) -> None:
        """Leave what may run of it."""

    async def cancel(self, unit: Unit) -> Outcome:
        """Refuse: nobody knows how."""
        raise WorkError(_missing(unit))

    async def release(self, unit: Unit, *, force: bool, remote: bool) -> Outcome:
        """Let only go of the record, and only by force."""
        if not force:
            raise WorkError(f"{_missing(unit)}, or force its release")
        return Outcome.REMOVABLE


def _missing(unit: Unit) -> str:
    return f"no work type of this node has the runner {unit.status.kind}: configure one"
