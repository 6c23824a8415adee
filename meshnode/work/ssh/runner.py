"""Runs units on hosts that have only an SSH server, through OpenSSH's own client.

A unit is *placed* first: hosts are tried in turn until one takes it. Once a host is on its record
it may have been started there, and the unit goes on with that host and no other, however long that
is not reached.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.ssh.answers import FarState
from meshnode.work.ssh.ending import finish, is_collecting, left_out
from meshnode.work.ssh.failures import HostFailure, Phase
from meshnode.work.ssh.following import FarWork, within
from meshnode.work.ssh.hosts import Host
from meshnode.work.ssh.record import LEAST, RANDOM, SSH, SshRecord, recorded
from meshnode.work.ssh.seats import HostSeats, SessionLimits
from meshnode.work.ssh.session import FarSession, open_session
from meshnode.work.ssh.worktype import SshType
from meshnode.work.units.runner import FirstOutcome, Outcome, WorkType
from meshnode.work.units.shortage import NotNow, Pauses
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit

FORCE_TIMEOUT = 20.0
"""Seconds for the one try of a forced release: the command may have to be killed first."""

CLEAN_PATIENCE = 60.0
"""Seconds for which the directory of a unit whose end is known is tried to be removed; then the
unit ends, and its release tries once more."""

__all__ = ["SSH", "SshRunner"]

OpenSession = Callable[[Host, str, str], AbstractAsyncContextManager[FarSession]]


class Placement:
    """The search for a host of one unit."""

    def __init__(self) -> None:
        self._since: float | None = None

    def failing_for(self) -> float:
        """Return for how many seconds no host could be used: from the first failure on."""
        now = trio.current_time()
        self._since = now if self._since is None else self._since
        return now - self._since


class SshRunner:
    """Drives the units of ``work-ssh`` types. ``units`` returns all units of the node."""

    def __init__(
        self,
        store: UnitStore,
        types: Mapping[str, WorkType],
        units: Callable[[], Iterable[Unit]],
        *,
        open_session: OpenSession = open_session,
    ) -> None:
        self._store = store
        self._types = types
        self._open_session = open_session
        self._seats = HostSeats(units)
        self._limits = SessionLimits()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Nothing runs for all units together: each has ssh run for itself."""
        task_status.started()

    @property
    def stops_for_requests(self) -> bool:
        """Yes: a request changes the record, and needs the connection."""
        return True

    def _type_of(self, unit: Unit) -> SshType:
        """Return the type that a unit was submitted as; one without hosts if there is none now."""
        known = unit.work_type or self._types.get(unit.status.work_type)
        return known if isinstance(known, SshType) else SshType(unit.status.work_type, ())

    # --- driving --------------------------------------------------------------------------------

    async def run(self, unit: Unit, first: FirstOutcome) -> Outcome:
        """Place the unit on a host, and drive it there to its end."""
        if unit.status.release_asked:
            return await self._release_there(unit, first)
        pauses, cleaning = Pauses(), None
        placement = Placement()
        while not unit.is_final:
            host = SshRecord.of(unit.status).host
            try:
                if host is None:
                    await self._place(unit, placement, first)
                else:
                    self._seats.hold(unit, host)
                    await self._go_on(unit, host, first)
                continue
            except HostFailure as failure:
                reason = str(failure)
                if host is None or self._is_tried_again_soon(failure):
                    pauses = Pauses()
            except NotNow as lack:
                reason = str(lack)
            first.pending()
            if SshRecord.of(unit.status).end is not None and not is_collecting(unit.status):
                cleaning = trio.current_time() if cleaning is None else cleaning
                if trio.current_time() - cleaning >= CLEAN_PATIENCE:
                    await self._leave(unit, reason)
                    break
            await self._show(unit, reason)
            await pauses.take()
        return Outcome.DONE

    @staticmethod
    def _is_tried_again_soon(failure: HostFailure) -> bool:
        """Whether a try that failed so is followed by the next one soon: the host was reached."""
        # Files that break off are had again from their first byte, which takes its time.
        return failure.phase not in {Phase.CONNECT, Phase.COLLECT}

    async def _place(self, unit: Unit, placement: Placement, first: FirstOutcome) -> None:
        """Try hosts until one has taken the unit and its session has brought it to its end.

        Raises:
            HostFailure: the unit may have been started, or no host could be used now.
            NotNow: the machine lacks something.
        """
        kind, choice = self._type_of(unit), SshRecord.of(unit.status).choice
        hosts = kind.may_run_on(choice)
        if not hosts:
            which = "hosts" if choice in {LEAST, RANDOM} else f"host {choice}"
            raise NotNow(f"work type {unit.status.work_type} has no {which} in this configuration")
        failures: dict[str, HostFailure] = {}
        while untried := [host for host in hosts if host.name not in failures]:
            try:
                if self._must_wait(kind, untried):
                    first.pending()
                seat = await self._seats.take(unit, kind, choice, untried)
                self._seats.hold(unit, seat.host)
                await self._go_on(unit, seat.host, first, seat.reason)
            except HostFailure as failure:
                if SshRecord.of(unit.status).host is not None:
                    raise
                failures[failure.host.name] = failure
                unit.log.warning("not started there: %s", failure)
            else:
                return
            finally:
                if SshRecord.of(unit.status).host is None:
                    self._seats.free(unit)
        await self._judge(unit, kind, placement, tuple(failures.values()), first)

    def _must_wait(self, kind: SshType, hosts: Iterable[Host]) -> bool:
        return all(self._seats.count(kind, host) >= kind.most_on(host) for host in hosts)

    async def _judge(
        self,
        unit: Unit,
        kind: SshType,
        placement: Placement,
        failures: tuple[HostFailure, ...],
        first: FirstOutcome,
    ) -> None:
        """Fail a unit that no host will take; of one that may wait, raise why."""
        told = "; ".join(map(str, failures))
        waited = placement.failing_for()
        if all(failure.is_lasting for failure in failures):
            error = WorkError(f"no host can run it: {told}")
        elif waited >= kind.patience:
            error = WorkError(f"no host could be used for {waited:.0f} s: {told}")
        else:
            raise NotNow(told)
        await unit.fail(str(error))
        first.fail(error)

    async def _go_on(
        self, unit: Unit, host: Host, first: FirstOutcome, why_there: str = ""
    ) -> None:
        """Bring a unit on in one session. Raises HostFailure, NotNow."""
        kind = self._type_of(unit)
        async with self._session(unit, host, kind) as (far, state):
            unit.show_outage("")
            await FarWork(unit, self._store, kind, far, first, why_there).go_on(state)

    @asynccontextmanager
    async def _session(
        self, unit: Unit, host: Host, kind: SshType
    ) -> AsyncIterator[tuple[FarSession, FarState]]:
        """Open a session, as soon as the host may have one more. Raises HostFailure, NotNow."""
        key = SshRecord.of(unit.status).key
        async with self._limits.one(host):
            if unit.status.state is UnitState.PENDING:
                detail = f"Connecting to host {host.name}"
                await unit.note(lambda old: replace(old, detail=detail))
            # The deadline is for the way there; what follows has its own.
            async with self._open_session(host, f"{unit.unit_id}-{key}", key) as far:
                with within(host, Phase.CONNECT, kind.connect):
                    state = await far.look()
                yield far, state

    async def _show(self, unit: Unit, reason: str) -> None:
        """Tell clients why the unit does not go on, in memory only: it changes often."""
        if unit.status.release_asked:
            text = f"its release waits: {reason}"
        elif unit.status.state is UnitState.PENDING or is_collecting(unit.status):
            text = f"waiting: {reason}"
        else:
            text = f"not heard from now: {reason}"
        if text != unit.outage:
            unit.log.warning("%s", text)
            unit.show_outage(text)

    async def _leave(self, unit: Unit, reason: str) -> None:
        """End a unit whose output is here and whose directory cannot be removed now."""
        end = SshRecord.of(unit.status).end
        assert end is not None
        unit.log.warning("its directory may be left: %s", reason)
        await finish(unit, end, is_left=True)

    # --- requests -------------------------------------------------------------------------------

    async def cancel(self, unit: Unit) -> Outcome:
        """Cancel at once a unit that was never started; else have its task end it there."""
        if unit.is_final:
            return Outcome.DONE
        if SshRecord.of(unit.status).host is None:
            return Outcome.IDLE
        # Nothing is left to be ended of a command whose files are brought back.
        more = {"brought": left_out(unit, self._store)} if is_collecting(unit.status) else {}
        await unit.change(lambda old: recorded(old, is_canceled=True, **more), durable=True)
        return Outcome.REQUESTED

    async def release(self, unit: Unit, *, force: bool, remote: bool) -> Outcome:
        """Have the command ended and its directory removed; then the unit is removable."""
        try:
            record = SshRecord.of(unit.status)
        except WorkError as error:
            if not force:
                raise
            unit.log.warning("released by force: %s", error)
            return Outcome.REMOVABLE
        if record.host is None or (unit.is_final and not record.is_left):
            return Outcome.REMOVABLE
        if force or unit.is_final:
            await self._try_to_end(unit, record.host)
            return Outcome.REMOVABLE
        await unit.change(
            lambda old: recorded(replace(old, release_asked=True), is_canceled=True), durable=True
        )
        return Outcome.REQUESTED

    async def _release_there(self, unit: Unit, first: FirstOutcome) -> Outcome:
        """End a unit on its host however long that is not reached, and leave nothing there."""
        record, pauses = SshRecord.of(unit.status), Pauses()
        while record.host is not None:
            try:
                await self._end_there(unit, record.host, first)
                break
            except (HostFailure, NotNow) as failure:
                first.pending()
                await self._show(unit, str(failure))
                await pauses.take()
        return Outcome.REMOVABLE

    async def _end_there(self, unit: Unit, host: Host, first: FirstOutcome) -> None:
        kind = self._type_of(unit)
        async with self._session(unit, host, kind) as (far, state):
            work = FarWork(unit, self._store, kind, far, first)
            if state.is_there:
                await work.stop()
            await work.clean()

    async def _try_to_end(self, unit: Unit, host: Host) -> None:
        """End a unit on its host in one try, and leave nothing there."""
        reason = f"not done within {FORCE_TIMEOUT:g} s"
        with trio.move_on_after(FORCE_TIMEOUT):
            try:
                await self._end_there(unit, host, FirstOutcome())
                return
            except (HostFailure, NotNow) as failure:
                reason = str(failure)
        unit.log.warning("it may be left on host %s: %s", host.name, reason)

    async def abandon(self, unit: Unit) -> None:
        """End on its host a unit whose task had a fault, in one try."""
        host = SshRecord.of(unit.status).host
        if host is not None and not unit.is_final:
            await self._try_to_end(unit, host)
