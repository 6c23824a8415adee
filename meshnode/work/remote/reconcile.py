"""Finds out what became of a submission whose answer was lost, by asking the other node.

There are three results, and no guess: the work was started; it never was, nor ever will be; nobody
can tell. A node that does not know the unit gives the third: somebody may have released the unit,
or the node may have another directory by now.
"""

from collections.abc import Mapping
from typing import Any

import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.remote.client import BAD_COMMAND, POLL_INTERVAL, RemoteControl
from meshnode.work.remote.failures import RemoteRefused, RemoteUnavailable
from meshnode.work.remote.replies import NoStatus, RemoteStatus
from meshnode.work.remote.submitted import RemoteSubmission
from meshnode.work.units.intake import Input
from meshnode.work.units.keys import KeyState, Receipt, work_digest
from meshnode.work.units.unit import Clock, Unit

SETTLE_TIMEOUT = 60.0
"""Seconds after which a receptor node has noticed that the session broke off: twice the idle
time-out of its streams (protocol section 7). A unit that still waits for input then will never
start."""

_WAITING = ("Unit Created", "Waiting for Input Data")
_INPUT_BROKE = "Error reading input data"
_NODE_ENDED = "lost: the node ended before"
"""Beginnings of the detail of a unit that failed before its command was started. ``Pending at
restart`` of a receptor node is none: it says so also of a command that it has started."""


class Lost(WorkError):
    """Nobody can tell whether the work was done, or how it ended."""

    def __init__(self, text: str) -> None:
        super().__init__(f"lost: {text}")


class AwaitsRest(WorkError):
    """The other node has a part of the payload, keeps it, and starts nothing without the rest."""


class Reconciler:
    """Asks another node about one submission."""

    def __init__(self, unit: Unit, key: str, now: Clock) -> None:
        """``unit`` is this node's, ``key`` that of its submission."""
        self._unit = unit
        self._key = key
        self._now = now

    async def started_unit(self, node: RemoteControl, *, resumes: bool = False) -> str | None:
        """Return the ID of the unit that was started; None if none was, nor ever will be.

        A unit that was never started is released.

        Raises:
            AwaitsRest: with ``resumes``, a unit waits for the rest of its payload.
            Lost: nobody can tell.
            RemoteUnavailable, RemoteRefused: the node does not tell now.
        """
        remote = self._unit.remote
        found = await self._find(node, remote.unit_id) if remote.receipt else None
        if found is None:
            return await self._started_without_keys(node)
        if resumes and found.awaits_rest:
            raise AwaitsRest
        if found.key_state is KeyState.UNIT and not await self._is_ruled_out(node, found):
            return found.unit_id
        if found.key_state is KeyState.UNIT:
            await release_unstarted(node, found.unit_id)
        return None

    async def _is_ruled_out(self, node: RemoteControl, found: RemoteSubmission) -> bool:
        """Whether a unit was never started; a unit that waits for its payload is canceled."""
        if not found.never_ran:
            return False
        try:
            await node.ask(subcommand="cancel", unitid=found.unit_id, unless="started")
        except RemoteRefused as refusal:
            # The unit has ended without a start, is gone, or was started just now.
            again = await self._find(node, found.unit_id)
            if again is None:
                raise RemoteUnavailable("the node knew keys just now, and does not") from refusal
            return again.key_state is KeyState.NOTHING or again.never_ran
        return True

    async def check_ours(self, node: RemoteControl, unit_id: str) -> Receipt | None:
        """Return the receipt of a unit that the node has under this key; None if it gives none.

        Raises:
            Lost: the unit is other work, or was released.
            RemoteUnavailable, RemoteRefused: the node does not tell now.
        """
        found = await self._find(node, unit_id)
        if found is None:
            self._check_status(await self._ask_status(node, unit_id))
            return None
        if found.key_state is KeyState.NOTHING:
            raise RemoteUnavailable("the unit of this submission is gone there by now")
        return found.receipt

    async def _find(self, node: RemoteControl, unit_id: str) -> RemoteSubmission | None:
        """Return what the node knows of the submission; None if it supports no keys.

        Raises:
            Lost: the node cannot know, or has no unit that could be followed.
        """
        receipt = self._unit.remote.receipt
        try:
            found = await node.find_submission(self._key, unit_id, receipt)
        except RemoteRefused as refusal:
            if refusal.reason != BAD_COMMAND:
                raise
            return None
        taken = Receipt.find(receipt)
        there = f"node {self._unit.remote.node}"
        if taken is not None and taken.store != found.receipt.store:
            raise Lost(
                f"{there} has another directory of units than when it took unit {unit_id}, so "
                "nobody can tell whether the work ran"
            )
        match found.key_state:
            case KeyState.RELEASED:
                ended = f" ({found.state.label})" if found.state is not None else ""
                raise Lost(
                    f"unit {unit_id} was started on {there} and released there{ended} before "
                    "this node knew of it"
                )
            case KeyState.DAMAGED:
                raise Lost(f"unit {unit_id} is damaged on {there}, so nobody can tell what it did")
            case KeyState.FORGOTTEN:
                raise Lost(
                    f"{there} took unit {unit_id} so long ago that it does not remember whether "
                    "the work ran"
                )
            case KeyState.UNIT if found.work:
                self._check_digest(found.work)
            case KeyState.UNIT:
                self._check_status(await self._ask_status(node, found.unit_id))
        return found

    # --- is it this work? -------------------------------------------------------------------------

    def _check_digest(self, digest: str) -> None:
        status, remote = self._unit.status, self._unit.remote
        stdin = Input(status.stdin_size, status.stdin_sha256)
        if digest != work_digest(remote.work_type, remote.params, stdin, status.job.fields()):
            raise self._other_work()

    def _check_status(self, reply: Mapping[str, Any]) -> None:
        """Compare type and size with the status that an older version gives."""
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
        """Ask about a unit whose node may still receive the rest of the payload.

        An older meshnode is told to cancel the unit unless it has started, in one step. A receptor
        node is watched until it must have noticed that the session broke off.
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
        await release_unstarted(node, unit_id)
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

    def _read(self, reply: Mapping[str, Any]) -> RemoteStatus:
        try:
            return RemoteStatus.from_reply(reply, self._now())
        except NoStatus as error:
            raise RemoteUnavailable(f"the node sent no unit status: {error}") from error


def _is_waiting(status: RemoteStatus) -> bool:
    """Whether a unit waits for its payload."""
    return status.state is UnitState.PENDING and status.detail in _WAITING


def _never_started(status: RemoteStatus, *, is_meshnode: bool) -> bool:
    """Whether a status proves that nothing was started, nor ever will be.

    In doubt the answer is no: work may be lost, but must not run twice.
    """
    if status.state is not UnitState.FAILED:
        return _is_waiting(status)
    if status.detail.startswith(_INPUT_BROKE):
        return True
    return is_meshnode and status.detail.startswith(_NODE_ENDED)


async def release_unstarted(node: RemoteControl, unit_id: str) -> None:
    """Have a node release a unit that was never started, if the node still has it.

    Raises:
        RemoteUnavailable, RemoteRefused
    """
    try:
        await node.ask(subcommand="release", unitid=unit_id)
    except RemoteRefused as refusal:
        if not refusal.unit_unknown:
            raise
