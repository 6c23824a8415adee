"""Follows a unit on another node: brings its status and its output here, until both are complete.

Tasks run side by side. One takes over each status. One for each file of output appends to it here:
to stdout, and to stderr and index where the other node tells of them. The unit is final here only
when all of them are complete and synced: first the output, then the state that promises it.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import TRANSITIONS, UnitState
from meshnode.work.local.launcher.records import FILES, SIZE_KEYS
from meshnode.work.remote.adopted import why_gone
from meshnode.work.remote.client import RemoteControl
from meshnode.work.remote.failures import RemoteRefused, RemoteUnavailable
from meshnode.work.remote.reconnect import Reconnector
from meshnode.work.remote.replies import RemoteStatus, read_status
from meshnode.work.remote.storage import Allowance, CannotStore, OutputCopy, StorageWait
from meshnode.work.remote.stream import GivenUp, OutputStream
from meshnode.work.units.endedby import ASKED, CANCELED, taken_over
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Clock, Unit

STOP_TIMEOUT = 20.0
"""Seconds to have a unit canceled whose results cannot be kept: the other node may have to send
SIGKILL."""

KEEP_DELAY = 0.1
"""Seconds after which the record of a unit that goes on is written to disk. A short unit is spared
the write, its largest cost here. A node that is killed before asks the other one about the ID."""

KEEP_INTERVAL = 1.0
"""Seconds between two writes of what is news within a state, at least: another node may change its
words as often as it likes. receptor measures a unit as often."""


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

        ``limit`` bounds the bytes of its output. ``followed`` is an open conversation in which the
        other node reports the unit, if there is one.
        """
        self._unit = unit
        self._reconnector = reconnector
        self._store = store
        self._now = now
        self._followed = followed
        self._is_durable = followed is None
        """Whether another state goes to disk at once, and not only to memory."""
        self._noted = trio.Event()
        """Set when memory has what the disk has not."""
        self._end: RemoteStatus | None = None
        self._ended = trio.Event()
        self._complete = trio.Event()
        self._storage = StorageWait(unit)
        self._allowance = Allowance(limit)
        self._copies: dict[str, OutputCopy] = {}
        self._streams: dict[str, OutputStream] = {}
        self._asks_at_once = False
        """Whether output is asked for before the other node has told that there is some."""
        self._nursery: trio.Nursery | None = None
        """Where the files are followed, while they are."""
        self._failure = ""
        self._may_run_on = False
        """Whether the work of a unit that failed here may still run: a node that sends too much may
        be wrong about the end as well."""

    async def run(self) -> None:
        """Return when the unit is final."""
        try:
            for name in SIZE_KEYS:
                if self._unit.status.size_of(name) is not None:
                    await self._add(name)
            while not self._unit.is_final:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._follow_status)
                    for stream in self._streams.values():
                        nursery.start_soon(self._follow_output, stream)
                    nursery.start_soon(self._keep_on_disk)
                    await self._complete.wait()
                    nursery.cancel_scope.cancel()
                self._nursery = None
                await self._settle()
        except CannotStore as error:
            await self._unit.fail(str(error) + await self._cancel_there())
        finally:
            for copy in self._copies.values():
                copy.close()

    async def _add(self, name: str) -> None:
        """Have a file of output, too, from now on. Raises CannotStore."""
        path = self._store.output_path(self._unit.unit_id, name)
        copy = self._copies[name] = await OutputCopy.open(path, self._storage, self._allowance)
        stream = self._streams[name] = OutputStream(
            name,
            self._unit,
            copy,
            self._reconnector.another(),
            self._ask_sizes,
            self._check_complete,
        )
        if self._nursery is not None:
            self._nursery.start_soon(self._follow_output, stream)

    async def _follow_output(self, stream: OutputStream) -> None:
        try:
            await stream.run()
        except GivenUp as error:
            self._give_up(str(error), may_run_on=error.may_run_on)

    async def _ask_sizes(self) -> Mapping[str, int]:
        async with await self._reconnector.open() as node:
            reply = await node.ask(subcommand="status", unitid=self._unit.remote.unit_id)
        return read_status(reply, self._now()).sizes

    async def _settle(self) -> None:
        """Record the end. Output is synced before the state says that it is complete."""
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
                for copy in self._copies.values():
                    copy.drop()
            except OSError as again:
                cause = again
            else:
                break
        self._end, self._ended = None, trio.Event()
        self._complete = trio.Event()
        for stream in self._streams.values():
            stream.begin_again()

    async def _record_end(self) -> None:
        assert self._end is not None
        end = self._end
        sizes = {name: end.sizes.get(name, stream.size) for name, stream in self._streams.items()}
        await self._unit.change(
            lambda status: self._merge(status, end).with_sizes(_by_key(sizes)),
            before=partial(self._finish, sizes) if self._allowance.used else None,
        )

    def _finish(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            self._copies[name].finish(size)

    async def _record_failure(self) -> None:
        failed = RemoteStatus(UnitState.FAILED, self._failure, {})
        sizes = {name: stream.size for name, stream in self._streams.items()}
        await self._unit.change(
            lambda status: self._merge(status, failed).with_sizes(_by_key(sizes)),
            level=logging.WARNING,
        )

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
            pid=new.pid or old.pid,
            limits=new.limits or old.limits,
            usage=new.usage or old.usage,
            isolation=new.isolation or old.isolation,
            host=new.host or old.host,
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
        # What it uses is news all the time, and only worth a write when something else is.
        if not is_step and replace(self._unit.status, usage=before.usage) != before:
            self._noted.set()

    def _check_complete(self) -> None:
        if self._ended.is_set() and all(one.is_complete for one in self._streams.values()):
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
        self._asks_at_once = True
        self._ask_for_output()
        async with await self._reconnector.open() as node:
            await self._listen(node, await node.watch(remote_id))

    async def _listen(self, node: RemoteControl, reply: Mapping[str, Any]) -> None:
        """Take over a status and those that follow it, until the final one."""
        while True:
            status = read_status(reply, self._now())
            if not node.has_streams:
                status = status.of_stdout_only()
            self._reconnector.succeeded()
            try:
                await self._take(status)
            except (GivenUp, CannotStore) as error:
                self._give_up(str(error))
                return
            if status.state.is_final:
                return
            reply = await node.next_status(self._unit.remote.unit_id)

    async def _take(self, status: RemoteStatus) -> None:
        """Take over a status. Raises GivenUp, CannotStore."""
        await self._take_sizes(status)
        if not status.state.is_final:
            if status.state in {self._unit.status.state, *TRANSITIONS[self._unit.status.state]}:
                await self._record(status)
            if any(status.sizes.values()):
                # From here on it tells no more that there is output.
                self._asks_at_once = True
            if self._asks_at_once:
                self._ask_for_output()
            return
        if status.state not in TRANSITIONS[self._unit.status.state]:
            # The unit ran and ended between two looks.
            await self._record(replace(status, state=UnitState.RUNNING, detail="Receiving results"))
        await self._take_inline(status)
        self._end = status
        self._ended.set()
        for name, stream in self._streams.items():
            stream.end_at(status.sizes.get(name))
        self._check_complete()
        if not self._complete.is_set():
            self._ask_for_output()

    async def _take_sizes(self, status: RemoteStatus) -> None:
        """Take over how much output there is, and of which files. Raises CannotStore."""
        news = [name for name in status.sizes if name not in self._streams]
        for name in news:
            await self._add(name)
        if news:
            # Readers may wait for the file, which is there now.
            empty = _by_key(dict.fromkeys(news, 0))
            await self._persist(lambda: self._unit.note(lambda old: old.with_sizes(empty)))
            self._noted.set()
        for name, size in status.sizes.items():
            self._streams[name].reported = size

    async def _take_inline(self, end: RemoteStatus) -> None:
        """Store the output that came with the end, if nothing of it is here. Raises GivenUp."""
        for name, data in end.inline.items():
            stream = self._streams.get(name)
            if stream is None or stream.is_asked_for or stream.size:
                continue
            if len(data) == end.sizes.get(name):
                await stream.append(data, small=True)

    def _ask_for_output(self) -> None:
        for name, stream in self._streams.items():
            # There are no files to bring back before the end: a conversation would only wait.
            if name != FILES or self._ended.is_set():
                stream.ask()

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


def _by_key(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return sizes of files by their keys in a status, and not by their names."""
    return {SIZE_KEYS[name]: size for name, size in sizes.items()}
