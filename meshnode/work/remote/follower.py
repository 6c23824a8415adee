"""Keeps a remote unit's record and stdout equal to what they are on the other node."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import TRANSITIONS, UnitState
from meshnode.work.remote.client import RemoteControl
from meshnode.work.remote.farside import FarStatus, NoStatus, RemoteRefused, RemoteUnavailable
from meshnode.work.remote.reconnect import Reconnector
from meshnode.work.remote.stdout import CannotStore, Patience, StdoutCopy, TooMuch, insist
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Clock, Unit

GONE = "Remote work unit is gone"
"""receptor's text, which clients match."""

SHORT_TRIES = 3
"""Results of a final unit that end before its size, without a byte more, so many times: the other
node has lost part of stdout, and asking for ever would leave the unit without an end."""

GATHER_BYTES = 512 * 1024
"""Bytes of results that one write should have where they come quickly: a write is a hop to a thread
and wakes whoever reads them here, which costs as much as copying half of this."""

STEADY = 20.0
"""Seconds after which a conversation that brings results counts as one that works: one that brings
a byte and breaks off must not be had again without a pause."""

AHEAD = 64 * 1024 * 1024
"""Bytes of results that may come beyond what the other node has last said that there are: receptor
looks at the size once a second."""

STOP_TIMEOUT = 20.0
"""Seconds to have a unit ended whose results cannot be kept here: longer than it takes to end a
command that is deaf to all but SIGKILL."""

KEEP_DELAY = 0.1
"""Seconds after which the record of a unit that goes on is brought to disk. Short units are spared
the write, which costs them more than all else here. A node that is killed before asks the other one
about the unit's ID."""

GATHER_TIME = 0.02
"""Seconds for which results may be left to gather after a write; what comes later is not held."""


class RemoteFollower:
    """Follows one remote unit until it is final here, too: over there, and stdout complete."""

    def __init__(
        self,
        unit: Unit,
        link: Reconnector,
        store: UnitStore,
        now: Clock,
        limit: int,
        followed: RemoteControl | None = None,
    ) -> None:
        """Follow a unit that has started over there.

        ``limit`` is the most bytes of stdout that it may bring. ``followed`` is a conversation in
        which the other node tells of the unit, if there is one.
        """
        self._unit = unit
        self._link = link
        self._results_link = link.another()
        self._store = store
        self._now = now
        self._limit = limit
        self._followed = followed
        self._output = trio.Event()
        """Set when results are to be asked for: there are any, or nobody would tell."""
        self._keeps = followed is None
        """Whether what is heard goes to disk at once, and not only to memory."""
        self._end: FarStatus | None = None
        self._ended = trio.Event()
        self._complete = trio.Event()
        self._patience = Patience(unit)
        self._copy: StdoutCopy | None = None
        self._stated = 0
        """Bytes of stdout that there are over there, by the newest word."""
        self._failure = ""
        self._may_run_on = False
        """Whether the work of a unit that failed here may not have ended: who sends too much may
        lie about its end as well."""

    async def run(self) -> None:
        """Return when the unit is final."""
        path = self._store.stdout_path(self._unit.unit_id)
        try:
            self._copy = await StdoutCopy.open(path, self._patience, self._limit)
        except CannotStore as error:
            await self._unit.fail(str(error) + await self._stop_there())
            return
        try:
            while not self._unit.is_final:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._follow_status)
                    nursery.start_soon(self._follow_results)
                    nursery.start_soon(self._keep_soon)
                    await self._complete.wait()
                    nursery.cancel_scope.cancel()
                await self._settle()
        finally:
            self._copy.close()

    async def _settle(self) -> None:
        """Record the end: stdout is on disk before the state says that it is complete."""
        try:
            if not self._failure:
                await self._record_end()
        except CannotStore as error:
            # What a sync that failed has lost, a second one does not bring back.
            await self._fetch_again(error)
        if self._failure:
            if self._may_run_on:
                # Or it would be called failed, and run.
                self._failure += await self._stop_there()
            await self._record_failure()
            self._unit.log.warning("failed: %s", self._failure)

    async def _fetch_again(self, error: CannotStore) -> None:
        """Drop what may be lost, to get it again as soon as the disk has room."""
        cause = error.__cause__
        while isinstance(cause, OSError):
            try:
                await self._patience.wait(cause)
            except CannotStore as lasting:
                self._failure = str(lasting)
                return
            try:
                self._stdout.drop()
            except OSError as again:
                cause = again
            else:
                break
        self._end, self._ended = None, trio.Event()
        self._complete = trio.Event()

    async def _record_end(self) -> None:
        assert self._end is not None
        end, size = self._end, self._end.stdout_size
        copy = self._stdout
        await self._unit.change(
            lambda status: replace(self._merge(status, end), stdout_size=size),
            before=(lambda: copy.finish(size)) if copy.size else None,
        )

    async def _record_failure(self) -> None:
        failed = FarStatus(UnitState.FAILED, self._failure, 0)
        size = self._stdout.size
        await self._unit.change(
            lambda status: replace(self._merge(status, failed), stdout_size=size)
        )

    @property
    def _stdout(self) -> StdoutCopy:
        assert self._copy is not None
        return self._copy

    def _give_up(self, failure: str, *, may_run_on: bool = True) -> None:
        self._failure, self._may_run_on = failure, may_run_on
        self._complete.set()

    def _merge(self, old: UnitStatus, new: FarStatus) -> UnitStatus:
        """Return our status with what the other node says in it; receptor leaves times to us."""
        started, finished, learned = new.started or old.started, None, None
        if new.state is UnitState.RUNNING and started is None:
            started = self._unit.time()
        if new.state.is_final:
            learned = self._unit.time()
            finished = new.finished or learned
        return replace(
            old,
            state=new.state,
            detail=new.detail if new.state.is_final else self._patience.lack or new.detail,
            started=started,
            finished=finished,
            learned=learned,
            exit_code=new.exit_code,
            signal=new.signal,
        )

    async def _keep_soon(self) -> None:
        """Bring to disk what is only in memory, unless the unit ends before."""
        if self._keeps:
            return
        await trio.sleep(KEEP_DELAY)
        self._keeps = True
        await self._insist(self._unit.keep)

    async def _insist(self, record: Callable[[], Awaitable[None]]) -> None:
        try:
            await insist(self._patience, record)
        except WorkError as error:
            self._give_up(str(error))

    async def _record(self, status: FarStatus) -> None:
        """Take over what is not the end."""
        record = self._unit.change if self._keeps else self._unit.note
        await self._insist(lambda: record(lambda old: self._merge(old, status)))

    def _check_complete(self) -> None:
        if self._end is not None and self._stdout.size >= self._end.stdout_size:
            self._complete.set()

    # --- status -------------------------------------------------------------------------------

    async def _follow_status(self) -> None:
        """Take over each status until the final one."""
        while not self._ended.is_set():
            try:
                await self._watch()
            except RemoteUnavailable as error:
                await self._link.recover(error)
            except RemoteRefused as refusal:
                if refusal.unit_unknown:
                    self._give_up(GONE, may_run_on=False)
                    return
                # Such as a lack of descriptors over there: nothing about the unit itself.
                await self._link.recover(RemoteUnavailable(f"status refused: {refusal}"))

    async def _watch(self) -> None:
        remote_id = self._unit.remote.unit_id
        followed, self._followed = self._followed, None
        if followed is not None:
            await self._listen(followed, await followed.next_status(remote_id))
            return
        # Who only watches is not told of output.
        self._output.set()
        async with await self._link.open() as node:
            await self._listen(node, await node.watch(remote_id))

    async def _listen(self, node: RemoteControl, reply: Mapping[str, Any]) -> None:
        """Take over a status and those that follow it, to the final one."""
        while True:
            status = _status(reply, self._now())
            self._link.succeeded()
            await self._take(status)
            if status.state.is_final:
                return
            reply = await node.next_status(self._unit.remote.unit_id)

    async def _take(self, status: FarStatus) -> None:
        self._stated = status.stdout_size
        if not status.state.is_final:
            if status.state in {self._unit.status.state, *TRANSITIONS[self._unit.status.state]}:
                await self._record(status)
            if status.stdout_size:
                self._output.set()
            return
        if status.state not in TRANSITIONS[self._unit.status.state]:
            # It ran and ended while nobody looked.
            await self._record(replace(status, state=UnitState.RUNNING, detail="Receiving results"))
        is_whole = len(status.stdout) == status.stdout_size
        if is_whole and not self._stdout.size and not self._output.is_set():
            await self._append(status.stdout, small=True)
        self._end = status
        self._ended.set()
        self._check_complete()
        if not self._complete.is_set():
            self._output.set()

    # --- results ------------------------------------------------------------------------------

    async def _follow_results(self) -> None:
        """Append to our stdout what the other node's has beyond it, until it is complete."""
        await self._output.wait()
        short = 0
        while short < SHORT_TRIES and not self._complete.is_set():
            before, knew_end = self._stdout.size, self._ended.is_set()
            try:
                await self._receive()
            except RemoteUnavailable as error:
                await self._results_link.recover(error)
                continue
            except RemoteRefused as refusal:
                if refusal.unit_unknown:
                    self._give_up(GONE, may_run_on=False)
                    return
                await self._results_link.recover(RemoteUnavailable(f"results refused: {refusal}"))
                continue
            # The other node ends results when its unit is final; how much they are, status says.
            await self._ended.wait()
            if knew_end and self._stdout.size == before:
                short += 1
            if knew_end and not self._complete.is_set():
                await self._results_link.recover(RemoteUnavailable(self._how_short()))
        if not self._complete.is_set():
            self._give_up(self._how_short(), may_run_on=False)

    def _how_short(self) -> str:
        assert self._end is not None
        size = self._end.stdout_size
        return f"results of the remote unit ended at byte {self._stdout.size} of {size}"

    async def _receive(self) -> None:
        async with await self._results_link.open() as node:
            await node.start_results(self._unit.remote.unit_id, self._stdout.size)
            opened = begun = trio.current_time()
            before = self._stdout.size
            while not self._complete.is_set() and (data := await node.receive_results()):
                taken = trio.current_time()
                if self._stdout.size + len(data) > self._stated + AHEAD:
                    await self._check_stated()
                await self._append(data)
                if taken - opened >= STEADY or self._stdout.size - before >= GATHER_BYTES:
                    self._results_link.succeeded()
                self._check_complete()
                # As long as they need at the pace at which these came.
                pause = (taken - begun) * GATHER_BYTES / len(data)
                begun = taken
                await trio.sleep_until(taken + min(pause, GATHER_TIME))

    async def _check_stated(self) -> None:
        """Ask how much there is: who watches is told of growth only with other news.

        Raises:
            RemoteUnavailable: not so much as was sent, or nobody answers now.
        """
        if self._ended.is_set():
            return
        async with await self._link.open() as node:
            reply = await node.ask(subcommand="status", unitid=self._unit.remote.unit_id)
        self._stated = _status(reply, self._now()).stdout_size
        if self._stdout.size > self._stated + AHEAD:
            raise RemoteUnavailable(
                f"it sends more results than the {self._stated} bytes that it says there are"
            )

    async def _append(self, data: bytes, *, small: bool = False) -> None:
        if self._end is not None:
            # What is behind the end is no part of the unit's.
            data = data[: self._end.stdout_size - self._stdout.size]
        try:
            await self._stdout.append(data, small=small)
        except TooMuch as error:
            node = self._unit.remote.node
            self._give_up(f"stopped: node {node} sent {error} (remote-maxoutput)")
        except CannotStore as error:
            self._give_up(str(error))

    async def _stop_there(self) -> str:
        """Have the other node end what nobody here can take any more; say if that is in doubt."""
        unit = self._unit
        with trio.move_on_after(STOP_TIMEOUT):
            while True:
                try:
                    async with await self._link.open() as node:
                        await node.ask(subcommand="cancel", unitid=unit.remote.unit_id)
                except RemoteUnavailable as error:
                    await self._link.recover(error)
                except RemoteRefused as refusal:
                    unit.log.warning("the cancel was refused there: %s", refusal)
                    if refusal.unit_unknown:
                        return ""
                    break
                else:
                    return ""
        return f"; it may run on, on node {unit.remote.node}"


def _status(reply: Mapping[str, Any], now: datetime) -> FarStatus:
    try:
        return FarStatus.from_reply(reply, now)
    except NoStatus as error:
        # The node may mend; until then nothing is known of the unit.
        raise RemoteUnavailable(f"the node sent no unit status: {error}") from error
