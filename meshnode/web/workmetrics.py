"""What metrics say of work: units by type and state, the queue, batches, the disk.

Units are counted as they come, change and go (:mod:`meshnode.work.units.tally`), so nothing here
takes longer the more there are.
"""

import os
from collections import Counter
from collections.abc import Mapping
from typing import Final

from meshnode.protocol.lifecycle import UnitState
from meshnode.web import metricfamilies as families
from meshnode.web.readings import Readings
from meshnode.work.batches.batches import Batches
from meshnode.work.local.runner import CommandRunner
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.queue import RunQueue
from meshnode.work.units.runner import WorkType
from meshnode.work.units.status import COMMAND
from meshnode.work.units.tally import TypeFigures

FINAL: Final = tuple(state for state in UnitState if state.is_final)
"""States in which units end."""


class WorkReader:
    """Reads a node's work for metrics."""

    def __init__(
        self,
        units: UnitManager,
        batches: Batches,
        commands: CommandRunner,
        offered: Mapping[str, WorkType],
    ) -> None:
        """``offered`` has the work types that this node offers now, by name."""
        self._units = units
        self._batches = batches
        self._commands = commands
        self._offered = offered

    def read(self, into: Readings, disk: os.statvfs_result | None) -> None:
        """Read it as it is now; ``disk`` is None if that of the units cannot be asked."""
        units = self._units
        units.tally.forget(self._offered)
        commands = (n for n, kind in self._offered.items() if isinstance(kind, CommandType))
        units.tally.offer(COMMAND, commands)
        for figures in units.tally:
            _read_type(into, figures)
        _read_queue(into, units.queue)
        _read_batches(into, self._batches)
        into.add(families.SUPERVISORS, self._commands.watched)
        into.add(families.STARTS_WAITING, self._commands.short)
        into.add(families.REFUSED_WRITES, units.store.refused_writes)
        into.add(families.SLOW_OPERATIONS, units.store.slow_operations)
        if disk is not None:
            _read_disk(into, disk)


def _read_type(into: Readings, figures: TypeFigures) -> None:
    name = (figures.runner, figures.work_type)
    for state, count in figures.states.items():
        into.add(families.UNITS, count, *name, state_label(state))
    into.add(families.UNITS_SUBMITTED, figures.submitted, *name)
    for state in FINAL:
        into.add(families.UNITS_ENDED, figures.ended.get(state, 0), *name, state_label(state))
    waits, runs = figures.distributions()
    into.distribute(families.START_DELAY, waits, *name)
    into.distribute(families.RUN_TIME, runs, *name)
    into.add(families.PAYLOAD_BYTES, figures.payload_bytes, *name)
    into.add(families.RESULT_BYTES, figures.result_bytes, *name)


def state_label(state: UnitState) -> str:
    """Return what a state is called in labels."""
    return state.label.lower()


def _read_queue(into: Readings, queue: RunQueue) -> None:
    running, waiting = queue.counts()
    bounds = queue.bounds
    for name in {*running, *waiting, *bounds.by_type}:
        into.add(families.QUEUE_RUNNING, running[name], name)
        into.add(families.QUEUE_LENGTH, waiting[name], name)
    for name, most in bounds.by_type.items():
        into.add(families.QUEUE_TYPE_LIMIT, most, name)
    if bounds.running is not None:
        into.add(families.QUEUE_NODE_LIMIT, bounds.running)


def _read_batches(into: Readings, batches: Batches) -> None:
    states = Counter(
        "stopped" if one.stopped else "ended" if one.is_done else "running" for one in batches.all()
    )
    for state in ("running", "ended", "stopped"):
        into.add(families.BATCHES, states[state], state)


def _read_disk(into: Readings, disk: os.statvfs_result) -> None:
    into.add(families.DISK_FREE, disk.f_bavail * disk.f_frsize)
    into.add(families.DISK_SIZE, disk.f_blocks * disk.f_frsize)
    if disk.f_files:  # file systems that make inodes as they need them say that there are none
        into.add(families.DISK_INODES, disk.f_favail)
