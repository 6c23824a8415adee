"""What the launcher is asked for to start a unit, and the directory that its files lie in.

And what is told meanwhile, to whom.
"""

import errno
from dataclasses import replace

from meshnode import files
from meshnode.errors import WorkError
from meshnode.work.local.launcher.records import FILES, INDEX, SIZE_KEYS, STDERR
from meshnode.work.local.launcherprocess import StartRequest
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.shortage import LACKS, NotNow, shortage_of
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit


def start_request(unit: Unit, kind: CommandType, store: UnitStore) -> StartRequest:
    """Return what starts a unit of a type, as its record says."""
    status = unit.status
    # What the files are for was decided when they were made.
    outputs = [one for one in SIZE_KEYS if status.size_of(one) is not None]
    return StartRequest(
        unit_id=unit.unit_id,
        unit_dir=store.directory(unit.unit_id),
        argv=status.params,
        grace=kind.grace,
        env=kind.environment(status.job.variables),
        cwd=_cwd(unit, kind, store),
        timeout=status.job.timeout_within(kind.timeout),
        max_output=kind.max_output,
        leave=kind.leave,
        separate=STDERR in outputs,
        indexed=INDEX in outputs,
        known=status.input_to_disk(),
        isolation=None if kind.isolation is None else kind.isolation.order,
        holds=FILES in outputs,
    )


def _cwd(unit: Unit, kind: CommandType, store: UnitStore) -> str | None:
    if unit.status.job.files:
        return str(store.work_directory(unit.unit_id))
    return unit.status.job.cwd or kind.cwd


async def unpack_files(unit: Unit, store: UnitStore) -> None:
    """Make the directory of a unit's command, with its files; a second time, it is made anew.

    Raises:
        NotNow: the machine has no room for them, or lacks something else.
        WorkError: they cannot be unpacked.
    """
    if not unit.status.job.files:
        return
    try:
        if unit.status.job.files.size:
            await store.unpack_files(unit.unit_id, unit.status.job.files.script)
        else:
            await store.make_work_directory(unit.unit_id)
    except OSError as error:
        if error.errno in LACKS:
            raise NotNow(f"no {shortage_of(error)} for its files") from error
        if error.errno == errno.ENOENT and error.filename == str(store.deps_path(unit.unit_id)):
            raise WorkError("its dependencies are not there any more") from error
        raise WorkError(f"cannot unpack its dependencies: {files.reason(error)}") from error
    except WorkError as error:
        raise WorkError(f"cannot unpack its dependencies: {error}") from error


async def drop_tar(unit: Unit, store: UnitStore) -> None:
    """Give back the room of what was unpacked, once the unit has started."""
    if unit.status.deps_size:
        await store.drop_deps(unit.unit_id)


async def say(unit: Unit, detail: str) -> None:
    """Say in the unit's detail, and once in the log, what it waits for."""
    if unit.status.detail != detail:
        unit.log.warning("%s", detail)
        await unit.note(lambda old: replace(old, detail=detail))


async def tell_asker(unit: Unit, store: UnitStore) -> None:
    """Let the supervisor know who asks for the end, for its record of that."""
    end = unit.status.ended_by
    if end is None:
        return
    try:
        await store.leave_cancel(unit.unit_id, end)
    except OSError as error:
        unit.log.info("who asked is not on record: %s", files.reason(error))
