"""Asks another node what became of a submission whose answer was lost.

There are three answers, and no guess: it was started; it never was, and never will be; nobody can
tell any more. That a node does not know a unit is the third: somebody may have released it, or the
node may have come back with another directory.
"""

from collections.abc import Mapping
from typing import Any

import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.remote.client import BAD_COMMAND, POLL_INTERVAL, RemoteControl
from meshnode.work.remote.farside import (
    FarStatus,
    FarTrace,
    NoStatus,
    RemoteRefused,
    RemoteUnavailable,
)
from meshnode.work.units.intake import Input
from meshnode.work.units.keys import Mark, Trace, work_digest
from meshnode.work.units.unit import Clock, Unit

SETTLE_TIMEOUT = 60.0
"""Seconds in which a receptor node must notice that our session broke off: twice the idle time-out
of its streams (protocol section 7). Only then is a unit that it still shows as waiting for input
known not to start any more."""

_WAITING = ("Unit Created", "Waiting for Input Data")
_INPUT_BROKE = "Error reading input data"
_NODE_ENDED = "lost: the node ended before"
"""How the details begin of a unit that failed before anything was started. A receptor node that was
restarted says ``Pending at restart``, also of a command that it has started."""


class Lost(WorkError):
    """Nobody can tell any more whether the work was done, or how it ended."""

    def __init__(self, text: str) -> None:
        super().__init__(f"lost: {text}")


class Inquiry:
    """Asks about the submission of one unit. ``key`` is that of the submission."""

    def __init__(self, unit: Unit, key: str, now: Clock) -> None:
        self._unit = unit
        self._key = key
        self._now = now

    async def started_unit(self, node: RemoteControl) -> str | None:
        """Return the ID of the unit that was started; None if none was, nor ever will be.

        What there is of one that was never started is released.

        Raises:
            Lost: nobody can tell.
            RemoteUnavailable, RemoteRefused: the node does not tell now.
        """
        remote = self._unit.remote
        trace = await self._trace(node, remote.unit_id) if remote.mark else None
        if trace is None:
            return await self._started_without_keys(node)
        if trace.trace is Trace.UNIT and not await self._is_ruled_out(node, trace):
            return trace.unit_id
        if trace.trace is Trace.UNIT:
            await discard(node, trace.unit_id)
        return None

    async def _is_ruled_out(self, node: RemoteControl, trace: FarTrace) -> bool:
        """Whether a unit was never started; one that waits for its payload is ended."""
        if not trace.never_ran:
            return False
        try:
            await node.ask(subcommand="cancel", unitid=trace.unit_id, unless="started")
        except RemoteRefused as refusal:
            # It has ended without a start, is gone, or was started just now.
            again = await self._trace(node, trace.unit_id)
            if again is None:
                raise RemoteUnavailable("the node knew keys just now, and does not") from refusal
            return again.trace is Trace.NOTHING or again.never_ran
        return True

    async def compare(self, node: RemoteControl, unit_id: str) -> Mark | None:
        """Return the mark of a unit that the node says it has of our key; None if it knows none.

        Raises:
            Lost: it is other work, or was released.
            RemoteUnavailable, RemoteRefused: the node does not tell now.
        """
        trace = await self._trace(node, unit_id)
        if trace is None:
            self._check_status(await self._ask_status(node, unit_id))
            return None
        if trace.trace is Trace.NOTHING:
            raise RemoteUnavailable("what it had of our submission is gone by now")
        return trace.mark

    async def _trace(self, node: RemoteControl, unit_id: str) -> FarTrace | None:
        """Return what the node knows of the submission; None if it knows no keys.

        Raises:
            Lost: it cannot know, or what it knows is no unit that could be followed.
        """
        mark = self._unit.remote.mark
        try:
            trace = await node.trace(self._key, unit_id, mark)
        except RemoteRefused as refusal:
            if refusal.reason != BAD_COMMAND:
                raise
            return None
        taken = Mark.find(mark)
        there = f"node {self._unit.remote.node}"
        if taken is not None and taken.store != trace.mark.store:
            raise Lost(
                f"{there} has another directory of units than when it took unit {unit_id}, so "
                "nobody can tell whether the work ran"
            )
        match trace.trace:
            case Trace.RELEASED:
                ended = f" ({trace.state.label})" if trace.state is not None else ""
                raise Lost(
                    f"unit {unit_id} was started on {there} and released there{ended} before "
                    "this node knew of it"
                )
            case Trace.DAMAGED:
                raise Lost(f"unit {unit_id} is damaged on {there}, so nobody can tell what it did")
            case Trace.FORGOTTEN:
                raise Lost(
                    f"{there} took unit {unit_id} so long ago that it does not remember whether "
                    "the work ran"
                )
            case Trace.UNIT if trace.work:
                self._check_digest(trace.work)
            case Trace.UNIT:
                self._check_status(await self._ask_status(node, trace.unit_id))
        return trace

    # --- is it ours? ----------------------------------------------------------------------------

    def _check_digest(self, digest: str) -> None:
        status, remote = self._unit.status, self._unit.remote
        stdin = Input(status.stdin_size, status.stdin_sha256)
        if digest != work_digest(remote.work_type, remote.params, stdin):
            raise self._other_work()

    def _check_status(self, reply: Mapping[str, Any]) -> None:
        """Compare what an older version tells of its units."""
        size, ours = reply.get("StdinSize"), self._unit.status.stdin_size
        is_same = reply.get("WorkType") == self._unit.remote.work_type
        if not is_same or (size is not None and ours is not None and size != ours):
            raise self._other_work()

    def _other_work(self) -> Lost:
        return Lost(f"node {self._unit.remote.node} has other work under the key of this unit")

    async def _ask_status(self, node: RemoteControl, unit_id: str) -> Mapping[str, Any]:
        return await node.ask(subcommand="status", unitid=unit_id)

    # --- nodes that know no keys ----------------------------------------------------------------

    async def _started_without_keys(self, node: RemoteControl) -> str | None:
        """Ask about a unit that may still get the rest of what was sent before the break.

        An older meshnode is told to end it unless it has started, in one step. A receptor node is
        watched until it notices the break.
        """
        unit_id = self._unit.remote.unit_id
        try:
            started = await self._watch(node, unit_id)
        except RemoteRefused as refusal:
            if not refusal.unit_unknown:
                raise
            raise Lost(
                f"node {self._unit.remote.node} does not know unit {unit_id} any more, so nobody "
                "can tell whether the work ran"
            ) from None
        if started:
            return unit_id
        await discard(node, unit_id)
        return None

    async def _watch(self, node: RemoteControl, unit_id: str) -> bool:
        reply = await self._ask_status(node, unit_id)
        is_meshnode = "Created" in reply
        status = self._read(reply)
        if _is_waiting(status) and is_meshnode:
            try:
                await node.ask(subcommand="cancel", unitid=unit_id, unless="started")
            except RemoteRefused as refusal:
                if refusal.unit_unknown:
                    raise
                status = self._read(await self._ask_status(node, unit_id))
            else:
                return False
        with trio.move_on_after(SETTLE_TIMEOUT):
            while _is_waiting(status):
                await trio.sleep(POLL_INTERVAL)
                status = self._read(await self._ask_status(node, unit_id))
        return not _never_started(status, is_meshnode=is_meshnode)

    def _read(self, reply: Mapping[str, Any]) -> FarStatus:
        try:
            return FarStatus.from_reply(reply, self._now())
        except NoStatus as error:
            raise RemoteUnavailable(f"the node sent no unit status: {error}") from error


def _is_waiting(status: FarStatus) -> bool:
    """Whether a unit waits for its payload."""
    return status.state is UnitState.PENDING and status.detail in _WAITING


def _never_started(status: FarStatus, *, is_meshnode: bool) -> bool:
    """Whether a status shows that nothing was started, nor ever will be.

    In doubt the answer is no: a unit may be lost, but never run twice.
    """
    if status.state is not UnitState.FAILED:
        return _is_waiting(status)
    if status.detail.startswith(_INPUT_BROKE):
        return True
    return is_meshnode and status.detail.startswith(_NODE_ENDED)


async def discard(node: RemoteControl, unit_id: str) -> None:
    """Have a node release a unit that was never started, if it has it still.

    Raises:
        RemoteUnavailable, RemoteRefused
    """
    try:
        await node.ask(subcommand="release", unitid=unit_id)
    except RemoteRefused as refusal:
        if not refusal.unit_unknown:
            raise
