"""What is done with one unit in one session: start it once, follow it, stop it, clean up.

**Once.** The unit's directory on the host is made, and everything sent into it, before the host is
put on record. Only then the host is told to go. What starts the command there takes a name in that
directory that nobody can take twice, so a start whose answer was lost is asked for again and finds
itself done. A session that was frozen meanwhile gets nobody's word to go; and once the directory is
removed, nothing can be started in it any more.

**To the last byte.** The output is taken from where the copy here ends. The end is recorded once
all of it is here and synced; then the files that the unit brings back are put into a tar here, and
that is recorded; then the directory is removed; then the unit is final. Whatever the node is cut
off in, its next start finds one of these steps undone and goes on with it.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import trio

from meshnode import files
from meshnode.errors import MeshnodeError, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.files.archive import CannotCollect
from meshnode.work.local.launcher.records import FILES
from meshnode.work.remote.storage import (
    Allowance,
    CannotStore,
    OutputCopy,
    StorageWait,
    TooMuch,
)
from meshnode.work.ssh.answers import FarState
from meshnode.work.ssh.bringing import FarCollection
from meshnode.work.ssh.ending import ended, finish, is_collecting
from meshnode.work.ssh.failures import HostFailure, Phase, Refused
from meshnode.work.ssh.hosts import Host, job_text
from meshnode.work.ssh.record import Brought, FarEnd, SshRecord, recorded
from meshnode.work.ssh.session import FarSession
from meshnode.work.ssh.worktype import SCRIPT, SCRIPT_NAME, SshType
from meshnode.work.units.endedby import CANCELED
from meshnode.work.units.placement import ChosenHost
from meshnode.work.units.runner import FirstOutcome
from meshnode.work.units.shortage import LACKS, NotNow, in_thread_or_here, shortage_of
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit

STALL = 60.0
"""Seconds without a byte of the rest of an output, after its end is known, until it is asked for
again in another session."""

STOP_MARGIN = 20.0
"""Seconds beyond the grace time in which a host has ended a command: after half of them it kills a
supervisor that does not."""

CLEAN_TIMEOUT = 30.0
"""Seconds to remove a unit's directory; then it is tried again."""

SMALL_PIECE = 16 * 1024
"""Bytes of output that are written without a hop to a thread, which takes longer."""

UNBOUND = 2**63 - 1
"""Bytes of output where the work type sets no limit."""

Change = Callable[[UnitStatus], UnitStatus]
Part = Callable[[OutputCopy, trio.CancelScope], Awaitable[None]]


@contextmanager
def within(host: Host, phase: Phase, seconds: float) -> Iterator[None]:
    """Give a phase so many seconds. Raises HostFailure when they are over."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise HostFailure(host, phase, f"not done within {seconds:g} s") from None


class FarWork:
    """One unit in one session with its host; ``why_there`` is told of one that is yet to start."""

    def __init__(
        self,
        unit: Unit,
        store: UnitStore,
        kind: SshType,
        far: FarSession,
        first: FirstOutcome,
        why_there: str = "",
    ) -> None:
        self._unit = unit
        self._store = store
        self._kind = kind
        self._far = far
        self._first = first
        self._why_there = why_there
        self._storage = StorageWait(unit)
        self._end: FarEnd | None = None
        self._dry = trio.Event()
        """Set when this session brings no more of the output."""

    @property
    def _record(self) -> SshRecord:
        return SshRecord.of(self._unit.status)

    async def go_on(self, state: FarState) -> None:
        """Bring the unit on from wherever record and host say that it stands.

        Raises:
            HostFailure: this session cannot; the next one may.
        """
        record = self._record
        if record.end is not None:
            await self._wind_up(record.end)
        elif record.is_canceled:
            await self._cancel()
        elif state.is_claimed or await self._start(state):
            await self._note_running(state.pid)
            if self._unit.status.deps_size:
                # What runs is never sent again.
                await self._store.drop_deps(self._unit.unit_id)
            await self._follow()

    # --- start ----------------------------------------------------------------------------------

    async def _start(self, state: FarState) -> bool:
        """Start the command, if it certainly never was; return whether it runs."""
        record, host = self._record, self._far.host
        if record.host is not None:
            is_new_boot = not state.is_there and state.boot != record.boot
            if self._unit.status.state is not UnitState.PENDING or is_new_boot:
                await self._unit.fail(f"lost: its directory on host {host.name} is gone")
                return False
        with within(host, Phase.COPY, self._kind.copy):
            await self._copy()
        if record.host is None:
            await self._bind(host, state.boot)
        try:
            with within(host, Phase.START, self._kind.start):
                pid = await self._far.start(self._record.timeout, self._kind.grace)
        except Refused:
            # It says that nothing was started, so another host may be tried.
            await self._change(
                lambda old: recorded(replace(old, started=None, host=None), host=None, boot="")
            )
            raise
        await self._note_running(pid or "")
        return True

    async def _copy(self) -> None:
        """Send everything that the command needs."""
        far, kind, unit_id = self._far, self._kind, self._unit.unit_id
        sent = self._unit.status.job.files
        if sent.size:
            await self._check_files()
        # What brings files back is missed before the command has run for hours.
        await far.make(with_tar=bool(sent))
        job = job_text(
            self._unit.status.params, {**kind.env, **self._unit.status.job.variables}, kind.cwd
        )
        await far.put("supervisor.sh", job)
        try:
            await far.put_file("stdin", self._store.stdin_path(unit_id))
            if kind.script is not None:
                await far.put("work/script", await in_thread_or_here(kind.script.read_bytes))
            if sent.size:
                await far.put_file("deps", self._store.deps_path(unit_id))
        except OSError as error:
            raise WorkError(f"cannot read what is to be sent: {error.strerror}") from error

    async def _check_files(self) -> None:
        """Refuse a tar that the host must not unpack. Raises WorkError."""
        try:
            unit = self._unit
            await self._store.check_files(unit.unit_id, unit.status.job.files.script)
        except WorkError as error:
            raise WorkError(f"cannot send its dependencies: {error}") from error
        except OSError as error:
            raise WorkError(f"cannot read its dependencies: {error.strerror}") from error

    async def _bind(self, host: Host, boot: str) -> None:
        """Put the host on record: from here on the unit may have been started there."""
        started, detail = self._unit.time(), f"Starting on host {host.name}"
        # On record as well: a reload may give the type another one while the unit runs.
        limit = self._unit.status.job.timeout_within(self._kind.timeout) or 0.0
        chosen = ChosenHost(host.name, self._why_there)
        await self._change(
            lambda old: recorded(
                replace(old, started=started, detail=detail, host=chosen),
                host=host,
                boot=boot,
                timeout=limit,
            )
        )

    async def _note_running(self, pid: str) -> None:
        """Record that the command runs; nothing is lost if that is not known after a crash."""
        if self._unit.status.state is UnitState.PENDING:
            process = f"PID {pid} on host" if pid else "on host"
            detail = f"Running: {process} {self._far.host.name}"
            await self._change(lambda old: replace(old, state=UnitState.RUNNING, detail=detail))
        self._first.done()

    async def _change(self, new: Change) -> None:
        """Record something, however long the disk has no room for it."""
        await self._storage.record(lambda: self._unit.change(new, durable=True))

    # --- stop -----------------------------------------------------------------------------------

    async def _cancel(self) -> None:
        was_started = await self.stop()
        self._first.done()
        if was_started:
            await self._follow()
        else:
            await self._unit.end(UnitState.CANCELED, CANCELED)

    async def stop(self) -> bool:
        """End the command; return whether it was ever started."""
        with within(self._far.host, Phase.RUN, self._kind.grace + STOP_MARGIN):
            return await self._far.stop(self._kind.grace)

    # --- the output, and the end ----------------------------------------------------------------

    async def _follow(self) -> None:
        """Take the output until the command has ended and all of it is here; then clean up."""
        path = self._store.stdout_path(self._unit.unit_id)
        limit = self._kind.max_output or UNBOUND
        copy = await OutputCopy.open(path, self._storage, Allowance(limit))
        try:
            try:
                await self._far.follow(copy.size)
                await self._take(copy)
            except TooMuch:
                await self.stop()
                text = f"stopped: it printed more than {limit} bytes"
                await self._end_with(copy, FarEnd(None, text, copy.size))
                return
            assert self._end is not None
            if self._end.code is None and not self._record.is_canceled:
                # Nobody watches over what may be left of it.
                await self.stop()
            await self._end_with(copy, self._end)
        finally:
            copy.close()

    async def _take(self, copy: OutputCopy) -> None:
        """Append the output as it comes, until all of it is here.

        Raises:
            HostFailure: the session ended before.
            TooMuch, CannotStore: no more can be kept.
        """
        faults: list[MeshnodeError] = []
        async with trio.open_nursery() as nursery:

            async def guarded(part: Part) -> None:
                try:
                    await part(copy, nursery.cancel_scope)
                except MeshnodeError as error:
                    # Raised here, inside the nursery, it would be wrapped in a group.
                    faults.append(error)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(guarded, self._hear_end)
            nursery.start_soon(guarded, self._bring)
        if faults:
            raise faults[0]

    async def _hear_end(self, copy: OutputCopy, both: trio.CancelScope) -> None:
        self._end = end = await self._far.wait_end()
        while copy.size < end.size:
            before = copy.size
            with trio.move_on_after(STALL):
                await self._dry.wait()
            is_stalled = copy.size == before and not self._storage.reason
            if copy.size < end.size and (self._dry.is_set() or is_stalled):
                text = f"its output ended at byte {copy.size} of {end.size}"
                raise HostFailure(self._far.host, Phase.RUN, text)
        both.cancel()

    async def _bring(self, copy: OutputCopy, both: trio.CancelScope) -> None:
        while data := await self._far.receive():
            if self._end is not None:
                data = data[: max(0, self._end.size - copy.size)]
            await copy.append(data, small=len(data) <= SMALL_PIECE)
            if self._end is not None and copy.size >= self._end.size:
                both.cancel()
        self._dry.set()

    async def _end_with(self, copy: OutputCopy, end: FarEnd) -> None:
        """Record how the command ended; then clean up, and end the unit."""
        end = replace(end, size=copy.size)
        sync = (lambda: copy.finish(end.size)) if end.size else None
        try:
            await self._storage.record(
                lambda: self._unit.change(
                    lambda old: recorded(ended(old, end), end=end),
                    durable=True,
                    before=sync,
                )
            )
        except CannotStore as error:
            # A failed sync may have lost data. The host has it still, and is asked again.
            try:
                copy.drop()
            except OSError as again:
                raise CannotStore(again) from error
            raise HostFailure(self._far.host, Phase.RUN, str(error)) from error
        await self._wind_up(end)

    async def _wind_up(self, end: FarEnd) -> None:
        """Bring files back of a command whose end is on record; then clean up, and end the unit."""
        if is_collecting(self._unit.status):
            brought = await self._collect()
            await self._change(lambda old: recorded(old, brought=brought))
            if not self._far.is_free:
                # It may go on for long with what nobody takes; the next session finds it ended.
                return
        await self.clean()
        await self.finish(end)

    async def _collect(self) -> Brought:
        """Bring the files back. Raises HostFailure, NotNow: not in this session."""
        unit, seconds = self._unit, self._kind.collect
        place = self._store.output_path(unit.unit_id, FILES)
        # What was sent there as the operator's is not the client's.
        hidden = frozenset({SCRIPT_NAME} if unit.status.params[:1] == (SCRIPT,) else ())
        collection = FarCollection(self._far, place, unit.status.job.files.output, hidden)
        words, why, instead = "", f"not done within {seconds:g} s", None
        try:
            with trio.move_on_after(seconds):
                words = await collection.run()
        except CannotCollect as error:
            why = str(error)
        except OSError as error:
            if error.errno in LACKS:
                raise NotNow(f"this node lacks {shortage_of(error)}") from error
            why = files.reason(error)
        if not words:
            failure = HostFailure(self._far.host, Phase.COLLECT, why)
            words, instead = f"its files were not collected: {failure}", UnitState.FAILED
        # Also without words there may be a tar, of a try whose end was not recorded any more.
        return Brought(words, self._store.output_size(unit.unit_id, FILES), instead)

    async def clean(self) -> None:
        """Remove all that the host has of the unit."""
        with within(self._far.host, Phase.CLEAN, CLEAN_TIMEOUT):
            await self._far.remove()

    async def finish(self, end: FarEnd) -> None:
        """Give the unit its final state."""
        await finish(self._unit, end)
