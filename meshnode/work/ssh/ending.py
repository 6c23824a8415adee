"""How a unit ends whose command on a host has ended, and whose files were brought back or not."""

import logging
from dataclasses import replace

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.collector import end_with_files
from meshnode.work.local.launcher.records import FILES, SIZE_KEYS
from meshnode.work.ssh.record import Brought, FarEnd, SshRecord, recorded
from meshnode.work.units.endedby import CANCELED
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit

COLLECTING = "Collecting files"
"""The detail of a unit whose command has ended and whose files are brought back."""


def ended(old: UnitStatus, end: FarEnd) -> UnitStatus:
    """Return the status of a unit whose command has ended, and all of whose output is here."""
    detail = COLLECTING if old.job.files.output else old.detail
    return replace(old, stdout_size=end.size, detail=detail)


def is_collecting(status: UnitStatus) -> bool:
    """Whether a command has ended whose files are to be brought back, and were not yet."""
    record = SshRecord.of(status)
    wants = bool(status.job.files.output)
    return wants and record.end is not None and record.brought is None


def left_out(unit: Unit, store: UnitStore) -> Brought:
    """Return what becomes of the files of a unit for which nobody waits any more."""
    return Brought("", store.output_size(unit.unit_id, FILES), UnitState.CANCELED)


async def finish(unit: Unit, end: FarEnd, *, is_left: bool = False) -> None:
    """Give a unit the final state that its end on the host means."""
    record, finished = SshRecord.of(unit.status), unit.time()
    state, detail = _what_came(end, record)

    def final(old: UnitStatus) -> UnitStatus:
        new = replace(
            old,
            state=state,
            detail=detail,
            exit_code=end.code,
            stdout_size=end.size,
            finished=finished,
        )
        if (brought := record.brought) is not None:
            new = end_with_files(new, brought.words, brought.instead, old.ended_by)
            new = new.with_sizes({SIZE_KEYS[FILES]: brought.size})
        return recorded(new, is_left=is_left)

    if unit.status.state is UnitState.PENDING and state is UnitState.SUCCEEDED:
        # It was started and ended between two looks.
        await unit.note(lambda old: replace(old, state=UnitState.RUNNING))
    is_failure = final(unit.status).state is UnitState.FAILED
    level = logging.WARNING if is_failure else logging.INFO
    await unit.change(final, level=level)


def _what_came(end: FarEnd, record: SshRecord) -> tuple[UnitState, str]:
    """Return state and detail of a unit whose command has ended like this."""
    if end.why == "cancel" or (record.is_canceled and end.code is None):
        return UnitState.CANCELED, CANCELED
    if end.why == "timeout":
        return UnitState.FAILED, f"timed out after {record.timeout:g} s"
    if end.why:
        return UnitState.FAILED, end.why
    if end.code is None:
        name = record.host.name if record.host else ""
        text = f"lost: its supervisor on host {name} ended without recording an end"
        return UnitState.FAILED, text
    state = UnitState.FAILED if end.code else UnitState.SUCCEEDED
    return state, f"exit status {end.code}"
