"""The units of one batch's members: found by their submission keys, submitted, and ended.

All is done for the client that has submitted the batch: its identity is on record, its rights are
asked for each member, and the audit log hears of it.
"""

from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from meshnode.errors import CommandError, MeshnodeError, WorkError
from meshnode.logs import subject_logger
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.auditlines import Kind
from meshnode.work.batches.files import BatchFiles
from meshnode.work.batches.members import MemberState, state_of
from meshnode.work.batches.spec import BatchSpec
from meshnode.work.units.access import Allowed, Caller
from meshnode.work.units.intake import Input, Payload
from meshnode.work.units.keys import KeyState
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.quotas import account
from meshnode.work.units.shortage import LogOnce, Pauses, in_thread_or_here, is_lack
from meshnode.work.units.unit import Unit


class MemberUnits:
    """What a batch asks of the units of its node."""

    def __init__(
        self, batch_id: str, spec: BatchSpec, batch_files: BatchFiles, units: UnitManager
    ) -> None:
        self.awaits = ""
        """What the machine lacks to make the next unit."""
        self._batch_id = batch_id
        self._spec = spec
        self._files = batch_files
        self._units = units
        self._starts: array[int] | None = None
        self._stopped = trio.Event()
        self._log_once = LogOnce(partial(subject_logger("batch", batch_id).warning, "waits: %s"))

    def find(self, key: str) -> Unit | MemberState | None:
        """Return what became of a submission: a unit, an end, or None if nothing was submitted."""
        caller = self._spec.caller
        found = self._units.submissions.find(caller.node, key, "", None)
        match found.key_state:
            case KeyState.UNIT:
                unit = found.unit
                owner = unit.status.submitted_by if unit is not None else None
                if owner is not None and account(owner) != account(caller.client):
                    # Somebody has guessed the key: their unit is none of ours.
                    return MemberState.REFUSED
                return unit
            case KeyState.RELEASED:
                return state_of(found.state or 0)
            case KeyState.NOTHING:
                return None
        return MemberState.FAILED

    async def find_started(self, key: str) -> Unit | MemberState | None:
        """Return the same; of a unit that never had its input nothing is left. Raises CommandError.

        The node was killed before its input was there, so nothing of it ever runs.
        """
        found = self.find(key)
        if not isinstance(found, Unit) or not _is_unstarted(found):
            return found
        await self._units.ender.release(found)
        return None

    def stop(self) -> None:
        """Wait no longer for what the machine lacks to make a unit."""
        self._stopped.set()

    def go_on(self) -> None:
        """Wait for it again."""
        self._stopped = trio.Event()

    async def submit(self, position: int, key: str, follow: Callable[[Unit | None], None]) -> bool:
        """Submit a member; ``follow`` gets its unit before it starts, and None if that is gone.

        Return whether there is a unit; there is none when :meth:`stop` came before it. A start for
        which the machine lacks something is made again, with another unit.

        Raises:
            MeshnodeError: it is refused.
        """
        index = self._spec.array.index(position)
        line = await self._line(position)
        submission, stdin = self._spec.member(self._batch_id, index, line, key)
        pauses = Pauses()
        while True:
            try:
                unit = await self._units.create(submission, self._spec.caller)
                follow(unit)
                await self._start(unit, stdin, lambda: follow(None))
            except MeshnodeError as error:
                if not is_lack(error):
                    raise
                self.awaits = str(error)
                self._log_once(self.awaits)
            else:
                self.awaits = ""
                return True
            if await pauses.take_unless(self._stopped):
                self.awaits = ""
                return False

    async def _start(self, unit: Unit, stdin: bytes, forget: Callable[[], None]) -> None:
        """Start a unit.

        Raises:
            MeshnodeError: the machine lacks what that takes, and nothing is left of the unit.
        """
        deps = self._files.deps_path(self._batch_id) if self._spec.files.size else None
        try:
            await self._units.start(unit, _payload(stdin, deps))
        except MeshnodeError as error:
            if is_lack(error) and _is_unstarted(unit):
                forget()
                if not unit.released:
                    await self._units.ender.release(unit)
                raise
            # The unit itself says how it has ended, or goes on.
            unit.log.debug("not started yet: %s", error)

    async def _line(self, position: int) -> bytes:
        if not self._spec.has_lines:
            return b""
        try:
            if self._starts is None:
                self._starts = await in_thread_or_here(self._files.line_starts, self._batch_id)
            start, end = self._starts[position : position + 2]
            return await in_thread_or_here(self._files.read_line, self._batch_id, start, end)
        except (OSError, ValueError) as error:
            raise WorkError(f"its line cannot be read: {error}") from error

    async def cancel(self, unit: Unit, by: Caller | None) -> None:
        """Cancel a unit for a client, None is the batch's; what keeps it from that is logged."""
        caller, journal = by or self._spec.caller, self._units.journal
        try:
            with journal.request(
                Kind.CANCEL, unit.unit_id, unit.status, caller, Allowed()
            ) as asked:
                asked.is_done = await self._units.ender.cancel(unit, caller.client)
        except CommandError as error:
            unit.log.warning("it is not canceled with batch %s: %s", self._batch_id, error)

    async def release(self, unit: Unit, by: Caller | None) -> None:
        """Release a unit in the same way; one that cannot be released stays."""
        caller, journal = by or self._spec.caller, self._units.journal
        try:
            with journal.request(
                Kind.RELEASE, unit.unit_id, unit.status, caller, Allowed()
            ) as asked:
                asked.is_done = await self._units.ender.release(unit, caller.client)
        except MeshnodeError as error:
            unit.log.warning("it stays when batch %s goes: %s", self._batch_id, error)


def _is_unstarted(unit: Unit) -> bool:
    status = unit.status
    is_lost = status.state is UnitState.FAILED or not unit.is_final
    return is_lost and status.stdin_size is None and status.never_ran


def _payload(stdin: bytes, deps: Path | None) -> Payload:
    pieces = [stdin] if stdin else []

    async def invite(position: int) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return pieces.pop() if pieces else b""

    return Payload(Input(len(stdin)), invite, receive, deps)
