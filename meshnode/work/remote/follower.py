"""Follows a unit on another node: brings its status and its stdout here, until both are complete.

Two tasks run side by side. One takes over each status. One appends results, beginning where stdout
ends here, so that a lost connection costs nothing twice. The unit is final here only when stdout is
complete and synced: first the output, then the state that promises it.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import TRANSITIONS, UnitState
from meshnode.work.remote.adopted import why_gone
from meshnode.work.remote.client import RemoteControl
from meshnode.work.remote.failures import RemoteRefused, RemoteUnavailable
from meshnode.work.remote.reconnect import Reconnector
from meshnode.work.remote.replies import RemoteStatus, read_status
from meshnode.work.remote.stdout import CannotStore, StdoutCopy, StorageWait, TooMuch
from meshnode.work.units.endedby import ASKED, CANCELED, taken_over
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Clock, Unit

SHORT_TRIES = 3
"""Times that results of a final unit end short of its size, without a new byte, before the unit
fails: the other node has lost part of stdout."""

GATHER_BYTES = 512 * 1024
"""Bytes of results for one write where they come quickly. A write is a hop to a thread and wakes
the readers here, which costs as much as copying half of this."""

STEADY = 20.0
"""Seconds after which a conversation that brings results counts as a success. One that brings a
byte and breaks off must not be repeated without a pause."""

AHEAD = 64 * 1024 * 1024
"""Bytes of results that may come beyond the last size that the other node reported: receptor
measures it once a second."""

STOP_TIMEOUT = 20.0
"""Seconds to have a unit canceled whose results cannot be kept: the other node may have to send
SIGKILL."""

KEEP_DELAY = 0.1
"""Seconds after which the record of a unit that goes on is written to disk. A short unit is spared
the write, its largest cost here. A node that is killed before asks the other one about the ID."""

KEEP_INTERVAL = 1.0
"""Seconds between two writes of what is news within a state, at least: another node may change its
words as often as it likes. receptor measures a unit as often."""

GATHER_TIME = 0.02
"""Seconds for which results may gather before the next write, at most."""


class RemoteFollower:
    """Follows one remote unit until it is final here, too."""

    def __init__(
        self,
        unit: Unit,
        reconnector: Reconnector,
        store: UnitStore,
        now: Clock,
        limit: int,
        followed: RemoteControl | None = None,
    ) -> None:
        """``unit`` has started on the other node.

        ``limit`` bounds the bytes of its stdout. ``followed`` is an open conversation in which the
        other node reports the unit, if there is one.
        """
        self._unit = unit
        self._reconnector = reconnector
        self._results_reconnector = reconnector.another()
        self._store = store
        self._now = now
        self._limit = limit
        self._followed = followed
        self._output = trio.Event()
        """Set when results are to be asked for: there are some, or the node would not say so."""
        self._is_durable = followed is None
        """Whether another state goes to disk at once, and not only to memory."""
        self._noted = trio.Event()
        """Set when memory has what the disk has not."""
        self._end: RemoteStatus | None = None
        self._ended = trio.Event()
        self._complete = trio.Event()
        self._storage = StorageWait(unit)
        self._copy: StdoutCopy | None = None
        self._reported_size = 0
        """Bytes of stdout on the other node, as it last reported."""
        self._failure = ""
        self._may_run_on = False
        """Whether the work of a unit that failed here may still run: a node that sends too much may
        be wrong about the end as well."""

    async def run(self) -> None:
        """Return when the unit is final."""
        path = self._store.stdout_path(self._unit.unit_id)
        try:
            self._copy = await StdoutCopy.open(path, self._storage, self._limit)
        except CannotStore as error:
            await self._unit.fail(str(error) + await self._cancel_there())
            return
        try:
            while not self._unit.is_final:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._follow_status)
                    nursery.start_soon(self._follow_results)
                    nursery.start_soon(self._keep_on_disk)
                    await self._complete.wait()
                    nursery.cancel_scope.cancel()
                await self._settle()
        finally:
            self._copy.close()

    async def _settle(self) -> None:
        """Record the end. Stdout is synced before the state says that it is complete."""
        try:
            if not self._failure:
                await self._record_end()
        except CannotStore as error:
            # A failed sync may have lost data that a second one would not bring back.
            await self._fetch_again(error)
        if self._failure:
            if self._may_run_on:
                # Cancel first: a unit that is recorded as failed must not run on unnoticed.
                self._failure += await self._cancel_there()
            await self._record_failure()

    async def _fetch_again(self, error: CannotStore) -> None:
        """Drop what may be lost, and fetch it again once the disk has room."""
        cause = error.__cause__
        while isinstance(cause, OSError):
            try:
                await self._storage.wait(cause)
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
        failed = RemoteStatus(UnitState.FAILED, self._failure, 0)
        size = self._stdout.size
        await self._unit.change(
            lambda status: replace(self._merge(status, failed), stdout_size=size),
            level=logging.WARNING,
        )

    @property
    def _stdout(self) -> StdoutCopy:
        assert self._copy is not None
        return self._copy

    def _give_up(self, failure: str, *, may_run_on: bool = True) -> None:
        self._failure, self._may_run_on = failure, may_run_on
        self._complete.set()

    def _merge(self, old: UnitStatus, new: RemoteStatus) -> UnitStatus:
        """Return the status with the other node's in it; receptor gives no times."""
        started, finished, learned = new.started or old.started, None, None
        detail, end = self._storage.reason or new.detail, old.ended_by
        if new.state is UnitState.RUNNING and started is None:
            started = self._unit.time()
        if new.state.is_final:
            learned = self._unit.time()
            finished = new.finished or learned
            end = taken_over(old.ended_by, new.ended_by, self._unit.remote.node)
            is_asked = new.state is UnitState.CANCELED and end is not None and end.cause in ASKED
            detail = CANCELED if is_asked else new.detail
        return replace(
            old,
            state=new.state,
            detail=detail,
            ended_by=end,
            started=started,
            finished=finished,
            learned=learned,
            exit_code=new.exit_code,
            signal=new.signal,
        )

    async def _keep_on_disk(self) -> None:
        """Write what is only in memory to disk, unless the unit ends before."""
        if not self._is_durable:
            await trio.sleep(KEEP_DELAY)
            self._is_durable, self._noted = True, trio.Event()
            await self._persist(self._unit.keep)
        while True:
            await self._noted.wait()
            self._noted = trio.Event()
            await self._persist(partial(self._unit.keep, durable=False))
            await trio.sleep(KEEP_INTERVAL)

    async def _persist(self, record: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._storage.record(record)
        except WorkError as error:
            self._give_up(str(error))

    async def _record(self, status: RemoteStatus) -> None:
        """Take over what is not the end."""
        before = self._unit.status
        is_step = self._is_durable and status.state is not before.state
        record = self._unit.change if is_step else self._unit.note
        await self._persist(lambda: record(lambda old: self._merge(old, status)))
        if not is_step and self._unit.status != before:
            self._noted.set()

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
                await self._reconnector.recover(error)
            except RemoteRefused as refusal:
                if refusal.unit_unknown:
                    gone = await why_gone(self._unit, self._reconnector)
                    self._give_up(gone, may_run_on=False)
                    return
                # For instance, the node lacks descriptors. That says nothing about the unit.
                await self._reconnector.recover(RemoteUnavailable(f"status refused: {refusal}"))

    async def _watch(self) -> None:
        remote_id = self._unit.remote.unit_id
        followed, self._followed = self._followed, None
        if followed is not None:
            await self._listen(followed, await followed.next_status(remote_id))
            return
        # A watcher is not told of output, so ask for it now.
        self._output.set()
        async with await self._reconnector.open() as node:
            await self._listen(node, await node.watch(remote_id))

    async def _listen(self, node: RemoteControl, reply: Mapping[str, Any]) -> None:
        """Take over a status and those that follow it, until the final one."""
        while True:
            status = read_status(reply, self._now())
            self._reconnector.succeeded()
            await self._take(status)
            if status.state.is_final:
                return
            reply = await node.next_status(self._unit.remote.unit_id)

    async def _take(self, status: RemoteStatus) -> None:
        self._reported_size = status.stdout_size
        if not status.state.is_final:
            if status.state in {self._unit.status.state, *TRANSITIONS[self._unit.status.state]}:
                await self._record(status)
            if status.stdout_size:
                self._output.set()
            return
        if status.state not in TRANSITIONS[self._unit.status.state]:
            # The unit ran and ended between two looks.
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
        """Append what the other node's stdout has beyond the copy here, until it is complete."""
        await self._output.wait()
        short = 0
        while short < SHORT_TRIES and not self._complete.is_set():
            before, knew_end = self._stdout.size, self._ended.is_set()
            try:
                await self._receive()
            except RemoteUnavailable as error:
                await self._results_reconnector.recover(error)
                continue
            except RemoteRefused as refusal:
                if refusal.unit_unknown:
                    gone = await why_gone(self._unit, self._results_reconnector)
                    self._give_up(gone, may_run_on=False)
                    return
                await self._results_reconnector.recover(
                    RemoteUnavailable(f"results refused: {refusal}")
                )
                continue
            # The other node closes results when its unit is final; the status has their size.
            await self._ended.wait()
            if knew_end and self._stdout.size == before:
                short += 1
            if knew_end and not self._complete.is_set():
                await self._results_reconnector.recover(RemoteUnavailable(self._shortfall()))
        if not self._complete.is_set():
            self._give_up(self._shortfall(), may_run_on=False)

    def _shortfall(self) -> str:
        assert self._end is not None
        size = self._end.stdout_size
        return f"results of the remote unit ended at byte {self._stdout.size} of {size}"

    async def _receive(self) -> None:
        async with await self._results_reconnector.open() as node:
            await node.start_results(self._unit.remote.unit_id, self._stdout.size)
            self._results_reconnector.outage.end()
            opened = begun = trio.current_time()
            before = self._stdout.size
            while not self._complete.is_set() and (data := await node.receive_results()):
                taken = trio.current_time()
                if self._stdout.size + len(data) > self._reported_size + AHEAD:
                    await self._check_reported_size()
                await self._append(data)
                if taken - opened >= STEADY or self._stdout.size - before >= GATHER_BYTES:
                    self._results_reconnector.succeeded()
                self._check_complete()
                # Pause for as long as the next GATHER_BYTES need at the pace of these.
                pause = (taken - begun) * GATHER_BYTES / len(data)
                begun = taken
                await trio.sleep_until(taken + min(pause, GATHER_TIME))

    async def _check_reported_size(self) -> None:
        """Ask for the size: a watcher is told of growth only with other changes.

        Raises:
            RemoteUnavailable: it is less than was sent, or there is no answer now.
        """
        if self._ended.is_set():
            return
        async with await self._reconnector.open() as node:
            reply = await node.ask(subcommand="status", unitid=self._unit.remote.unit_id)
        self._reported_size = read_status(reply, self._now()).stdout_size
        if self._stdout.size > self._reported_size + AHEAD:
            raise RemoteUnavailable(
                f"it sends more results than the {self._reported_size} bytes that it says there are"
            )

    async def _append(self, data: bytes, *, small: bool = False) -> None:
        if self._end is not None:
            # Bytes beyond the final size are no part of the results.
            data = data[: self._end.stdout_size - self._stdout.size]
        try:
            await self._stdout.append(data, small=small)
        except TooMuch as error:
            node = self._unit.remote.node
            self._give_up(f"stopped: node {node} sent {error} (remote-maxoutput)")
        except CannotStore as error:
            self._give_up(str(error))

    async def _cancel_there(self) -> str:
        """Have the other node cancel the unit; return what the failure adds if that is in doubt."""
        unit = self._unit
        if unit.remote.adopted:
            return f"; it goes on, on node {unit.remote.node}, whose unit it is"
        with trio.move_on_after(STOP_TIMEOUT):
            while True:
                try:
                    async with await self._reconnector.open() as node:
                        await node.ask(subcommand="cancel", unitid=unit.remote.unit_id)
                except RemoteUnavailable as error:
                    await self._reconnector.recover(error)
                except RemoteRefused as refusal:
                    unit.log.warning("node %s refused the cancel: %s", unit.remote.node, refusal)
                    if refusal.unit_unknown:
                        return ""
                    break
                else:
                    return ""
        return f"; it may run on, on node {unit.remote.node}"
