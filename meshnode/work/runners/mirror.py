"""Keeps a remote unit's record and stdout equal to what they are on the other node."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import TRANSITIONS, UnitState
from meshnode.work.farlines import RemoteUnavailable
from meshnode.work.farside import FarStatus, NoStatus, RemoteRefused
from meshnode.work.reconnect import Reconnector
from meshnode.work.remote_client import RemoteControl
from meshnode.work.status import UnitStatus
from meshnode.work.store import UnitFile, UnitStore
from meshnode.work.unit import Clock, Unit

GONE = "Remote work unit is gone"
"""receptor's text, which clients match."""

SHORT_TRIES = 3
"""Results of a final unit that end before its size, without a byte more, so many times: the other
node has lost part of stdout, and asking for ever would leave the unit without an end."""

GATHER_BYTES = 512 * 1024
"""Bytes of results that one write should have where they come quickly: a write is a hop to a thread
and wakes whoever reads them here, which costs as much as copying half of this."""

KEEP_DELAY = 0.1
"""Seconds after which the record of a unit that goes on is brought to disk. Short units are spared
the write, which costs them more than all else here. A node that is killed before asks the other one
about the unit's ID."""

GATHER_TIME = 0.02
"""Seconds for which results may be left to gather after a write; what comes later is not held."""


class _StdoutLost(WorkError):
    """The disk did not take all of stdout."""


class Mirror:
    """Follows one remote unit until it is final here, too: over there, and stdout complete."""

    def __init__(
        self,
        unit: Unit,
        link: Reconnector,
        store: UnitStore,
        now: Clock,
        followed: RemoteControl | None = None,
    ) -> None:
        """``followed`` is a conversation in which the other node tells of the unit, if there is."""
        self._unit = unit
        self._link = link
        self._store = store
        self._now = now
        self._followed = followed
        self._output = trio.Event()
        """Set when results are to be asked for: there are any, or nobody would tell."""
        self._keeps = followed is None
        """Whether what is heard goes to disk at once, and not only to memory."""
        self._end: FarStatus | None = None
        self._ended = trio.Event()
        self._complete = trio.Event()
        self._file: UnitFile | None = None
        self._failure = ""

    async def run(self) -> None:
        """Return when the unit is final."""
        try:
            self._file = UnitFile(self._store.stdout_path(self._unit.unit_id), append=True)
        except OSError as error:
            await self._unit.fail(f"cannot store the results: {error.strerror}")
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_status)
                nursery.start_soon(self._follow_results)
                nursery.start_soon(self._keep_soon)
                await self._complete.wait()
                nursery.cancel_scope.cancel()
            await self._settle()
        finally:
            self._file.close()

    async def _settle(self) -> None:
        """Record the end: stdout is on disk before the state says that it is complete."""
        if self._failure:
            await self._unit.fail(self._failure)
            return
        assert self._end is not None
        end = self._end
        size = self._stdout.size
        try:
            await self._unit.change(
                lambda status: self._merge(status, end, stdout_size=size),
                before=self._sync_stdout if size else None,
            )
        except _StdoutLost as error:
            await self._unit.fail(str(error))

    def _sync_stdout(self) -> None:
        try:
            self._stdout.sync()
        except OSError as error:
            raise _StdoutLost(f"cannot store the results: {error.strerror}") from error

    @property
    def _stdout(self) -> UnitFile:
        assert self._file is not None
        return self._file

    def _give_up(self, failure: str) -> None:
        self._failure = failure
        self._complete.set()

    def _merge(
        self, old: UnitStatus, new: FarStatus, *, stdout_size: int | None = None
    ) -> UnitStatus:
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
            detail=new.detail,
            stdout_size=old.stdout_size if stdout_size is None else stdout_size,
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
        try:
            await self._unit.keep()
        except WorkError as error:
            self._give_up(str(error))

    async def _record(self, status: FarStatus) -> None:
        """Take over what is not the end."""
        record = self._unit.change if self._keeps else self._unit.note
        await record(lambda old: self._merge(old, status))

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
                    self._give_up(GONE)
                    return
                # Such as a lack of descriptors over there: nothing about the unit itself.
                await self._link.recover(RemoteUnavailable(f"status refused: {refusal}"))
            except WorkError as error:
                self._give_up(str(error))
                return

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
            try:
                status = FarStatus.from_reply(reply, self._now())
            except NoStatus as error:
                # The node may mend; until then nothing is known of the unit.
                raise RemoteUnavailable(f"the node sent no unit status: {error}") from error
            self._link.succeeded()
            await self._take(status)
            if status.state.is_final:
                return
            reply = await node.next_status(self._unit.remote.unit_id)

    async def _take(self, status: FarStatus) -> None:
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
            self._store_whole(status.stdout)
        self._end = status
        self._ended.set()
        self._check_complete()
        if not self._complete.is_set():
            self._output.set()

    def _store_whole(self, stdout: bytes) -> None:
        try:
            self._stdout.write(stdout)
        except OSError as error:
            self._give_up(f"cannot store the results: {error.strerror}")

    # --- results ------------------------------------------------------------------------------

    async def _follow_results(self) -> None:
        """Append to our stdout what the other node's has beyond it, until it is complete."""
        await self._output.wait()
        short = 0
        while short < SHORT_TRIES:
            before, knew_end = self._stdout.size, self._ended.is_set()
            try:
                await self._copy()
            except RemoteUnavailable as error:
                await self._link.recover(error)
                continue
            except RemoteRefused as refusal:
                if refusal.unit_unknown:
                    self._give_up(GONE)
                    return
                await self._link.recover(RemoteUnavailable(f"results refused: {refusal}"))
                continue
            except OSError as error:
                self._give_up(f"cannot store the results: {error.strerror}")
                return
            # The other node ends results when its unit is final; how much they are, status says.
            await self._ended.wait()
            if knew_end and self._stdout.size == before:
                short += 1
        assert self._end is not None
        self._give_up(
            f"results of the remote unit ended at byte {self._stdout.size}"
            f" of {self._end.stdout_size}"
        )

    async def _copy(self) -> None:
        async with await self._link.open() as node:
            await node.start_results(self._unit.remote.unit_id, self._stdout.size)
            begun = trio.current_time()
            while data := await node.receive_results():
                taken = trio.current_time()
                await trio.to_thread.run_sync(self._stdout.write, data)
                self._check_complete()
                # As long as they need at the pace at which these came.
                pause = (taken - begun) * GATHER_BYTES / len(data)
                begun = taken
                await trio.sleep_until(taken + min(pause, GATHER_TIME))
