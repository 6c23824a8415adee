"""The running tasks of units: at most one for each, which drives it or records its end."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from meshnode.errors import CommandError, MeshnodeError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.runner import FirstOutcome
from meshnode.work.units.shortage import NotNow
from meshnode.work.units.statusfiles import Overtaken
from meshnode.work.units.unit import Unit

FIRST_TIMEOUT = 20.0
"""Seconds for which a client waits for the first try of its request; then it is pending. Longer
than the handshake of a stream (15 s), so that a slow answer of another node is still an answer."""

Drive = Callable[[Unit, FirstOutcome], Awaitable[None]]


@dataclass(slots=True)
class _Task:
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class UnitTasks:
    """Spawns and stops the tasks of units.

    A task is the boundary of its unit: whatever goes wrong in it costs only that unit, which then
    fails. ``drive`` brings a unit on from wherever its record says that it stands; ``abandon`` sees
    that nothing runs on of one that could not be driven.
    """

    def __init__(self, drive: Drive, abandon: Callable[[Unit], Awaitable[None]]) -> None:
        self._drive = drive
        self._abandon = abandon
        self._tasks: dict[str, _Task] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def are_open(self) -> bool:
        """Whether tasks can be spawned: the node is not ending."""
        return self._nursery is not None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Own the tasks for as long as the context lasts; they are cancelled at its end."""
        try:
            async with trio.open_nursery() as self._nursery:
                yield
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None

    def spawn(self, unit: Unit) -> FirstOutcome:
        """Have the unit driven in a task of its own. Raises NotNow if the node is stopping."""
        first = FirstOutcome()
        self._spawn(unit, first, partial(self._run, unit, first))
        return first

    def spawn_end(
        self,
        unit: Unit,
        state: UnitState,
        detail: str,
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Have an end recorded as soon as the disk takes it; call ``then`` if the unit is final.

        Raises:
            NotNow: the node is stopping.
        """
        self._spawn(unit, FirstOutcome(), partial(self._end, unit, state, detail, then))

    async def stop(self, unit: Unit) -> None:
        """End the unit's task, if it has one; return when it has ended."""
        task = self._tasks.get(unit.unit_id)
        if task is not None:
            task.scope.cancel()
            await task.ended.wait()

    def has(self, unit: Unit) -> bool:
        """Whether the unit has a task."""
        return unit.unit_id in self._tasks

    def _spawn(self, unit: Unit, first: FirstOutcome, job: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is None:
            raise NotNow("the node is stopping")
        assert unit.unit_id not in self._tasks
        self._tasks[unit.unit_id] = task = _Task()
        self._nursery.start_soon(self._work, unit, task, first, job, name=f"unit {unit.unit_id}")

    async def _work(
        self, unit: Unit, task: _Task, first: FirstOutcome, job: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            with task.scope:
                await job()
        finally:
            del self._tasks[unit.unit_id]
            task.ended.set()
            first.pending()

    async def _run(self, unit: Unit, first: FirstOutcome) -> None:
        try:
            await self._drive(unit, first)
        except Exception as error:
            known = isinstance(error, MeshnodeError)
            detail = str(error) if known else f"internal error: {type(error).__name__}"
            unit.log.error("cannot go on: %s", detail, exc_info=None if known else error)
            await self._fail(unit, detail, first)
            first.fail(CommandError(detail))

    async def _fail(self, unit: Unit, detail: str, first: FirstOutcome) -> None:
        try:
            # Before the record, or the unit would be called failed and run on.
            await self._abandon(unit)
        except Exception as error:
            unit.log.error("cannot be ended: %s", error, exc_info=error)
        else:
            await self._record(unit, UnitState.FAILED, detail, first)

    async def _end(
        self,
        unit: Unit,
        state: UnitState,
        detail: str,
        then: Callable[[], Awaitable[None]] | None,
    ) -> None:
        await self._record(unit, state, detail, FirstOutcome())
        if unit.is_final and then is not None:
            await then()

    async def _record(self, unit: Unit, state: UnitState, detail: str, first: FirstOutcome) -> None:
        """Record an end, however long the disk refuses it, unless the unit runs after all."""
        try:
            await (unit.fail(detail) if state is UnitState.FAILED else unit.end(state, detail))
        except Overtaken:
            # A supervisor has it, or has recorded its end: the runner goes on from there.
            await self._run(unit, first)
        except Exception as error:
            # What ends units is at fault itself. The unit stays as it is; the node lives.
            unit.log.error("cannot be ended: %s", error, exc_info=error)
