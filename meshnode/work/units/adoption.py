"""What a start of the node makes of a unit that its last run left unfinished.

A unit goes on if its record shows that nothing can run twice: a supervisor has it, another node
has it, or its payload is complete and nothing of it was ever started. It waits on if the rest of
its payload may still come. Every other unit is lost, and its detail says why.
"""

from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from meshnode.errors import MeshnodeError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.ending import UnitEnder, is_disposable
from meshnode.work.units.shortage import NotRecorded
from meshnode.work.units.status import NOT_STARTED, UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.tasks import UnitTasks
from meshnode.work.units.unit import Unit
from meshnode.work.units.uploads import Uploads

INPUT_LOST = "lost: the node ended before it had all of the input data"
"""How the detail begins of a unit that was not started; remote nodes know it by that."""

ADOPT_PATIENCE = 0.5
"""Seconds for which a start waits until one unit has ended: somebody may hold its lock. After that
its task goes on trying while the node starts."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the ID of this start of the machine; empty where the system has none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


class Adoption:
    """Takes over the units that the last run of the node has left. ``boot`` is :func:`boot_id`."""

    def __init__(
        self,
        store: UnitStore,
        tasks: UnitTasks,
        ender: UnitEnder,
        boot: str,
        begin: Callable[[Unit], Awaitable[object]],
        uploads: Uploads,
    ) -> None:
        """``begin`` has a unit go on, as soon as it may."""
        self._uploads = uploads
        self._begin = begin
        self._store = store
        self._tasks = tasks
        self._ender = ender
        self._boot = boot
        self._failed: dict[str, str] = {}
        """Units that could not be taken over, with the reason."""

    def warnings(self, units: Container[str]) -> Iterator[str]:
        """Return a line for a person about each of these units that nothing drives."""
        for unit_id, reason in self._failed.items():
            if unit_id in units:
                yield f"unit {unit_id} could not be taken over from the last run: {reason}"

    async def adopt(self, unit: Unit) -> None:
        """Have a unit go on, or end as lost.

        Whatever stands in its files, the node starts. A unit that cannot be taken over is listed
        as it was read, and nothing drives it until the next start.
        """
        try:
            await self._adopt(unit)
        except Exception as error:
            reason = str(error) if isinstance(error, MeshnodeError) else type(error).__name__
            self._failed[unit.unit_id] = reason
            unit.log.exception("it could not be taken over: %s", reason)

    async def _adopt(self, unit: Unit) -> None:
        if unit.status.has_spent_secrets:
            # receptor keeps them for as long as the unit, also in units that it left here.
            await _forget_secrets(unit)
        status = unit.status
        if status.state.is_final:
            if status.releasing:
                self._tasks.spawn(unit)
        elif _is_elsewhere(status) or self._may_start(unit):
            await self._begin(unit)
        elif not await self._uploads.adopt(unit):
            detail = _why_lost(status, self._boot)
            then = partial(self._remove_disposable, unit)
            # Somebody may hold its lock, or the disk be full: no reason to hold up the start of
            # the node.
            self._tasks.spawn_end(unit, UnitState.FAILED, detail, then)
            with trio.move_on_after(ADOPT_PATIENCE), suppress(NotRecorded):
                await unit.wait_ended()

    def _may_start(self, unit: Unit) -> bool:
        has_input = self._store.has_input
        size = unit.status.stdin_size
        return _may_start(unit.status, self._boot) and has_input(unit.unit_id, size)

    async def _remove_disposable(self, unit: Unit) -> None:
        if is_disposable(unit.status):
            await self._ender.remove(unit)


async def _forget_secrets(unit: Unit) -> None:
    public = unit.remote.open_params
    try:
        await unit.change(lambda old: old.with_remote(params=public))
    except MeshnodeError as error:
        unit.log.warning("spent secrets stay on disk: %s", error)


def _is_elsewhere(status: UnitStatus) -> bool:
    """Whether a supervisor or another node may have the unit: its runner finds out what is so."""
    if status.remote is not None:
        return bool(status.remote.unit_id) or status.remote.started
    if status.runner:
        # Its input was on disk before the record said so; the rest is in what its runner keeps.
        return status.input_complete
    # A unit that is Running without a supervisor counts too: its runner ends what is left of it.
    return status.supervisor is not None or status.state is not UnitState.PENDING


def _may_start(status: UnitStatus, boot: str) -> bool:
    """Whether a unit that nobody has can be started, if its payload is here.

    A command's claim and payload are not always synced. After another start of the machine, a
    record that says Pending does not show that the command never ran, unless the unit has waited in
    the queue: of such a unit both are synced.
    """
    if status.is_command and not status.queued and (not boot or status.boot != boot):
        return False
    return status.input_complete


def _why_lost(status: UnitStatus, boot: str) -> str:
    """Return the detail of a unit that can neither go on nor be started."""
    if not status.is_command:
        return INPUT_LOST
    if status.boot == boot or status.submission_key:
        return NOT_STARTED if status.input_complete else f"{INPUT_LOST}, or started the work"
    # Of units with a submission key the claim is synced, since their node submits them again if
    # they never started. Of others, a power cut may have undone the record of the start.
    return "lost: the machine went down when the work was about to start, or just had"
