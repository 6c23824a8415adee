"""Units of other nodes that somebody else has submitted, and that this node adopts.

An adopted unit has no payload and is never submitted. From its first record on it names the unit
over there, so the follower does all the rest; a start of the node finds it like any other unit
that runs elsewhere. What is particular stands here: the first look at the unit, which shows that
it is there and that this node may read it, and the words for how it can be lost.
"""

from dataclasses import replace
from functools import partial

import trio

from meshnode.errors import CommandError
from meshnode.security.identity import MeshClient, claim_from_json, shown_text
from meshnode.work.remote.client import BAD_COMMAND, RemoteControl
from meshnode.work.remote.failures import (
    NoTlsClient,
    RemoteDistrusted,
    RemoteRefused,
    RemoteUnavailable,
    as_unavailable,
    printable,
)
from meshnode.work.remote.reconnect import Reconnector
from meshnode.work.remote.storage import StorageWait
from meshnode.work.units.keys import KeyState, Receipt
from meshnode.work.units.labels import recorded_labels
from meshnode.work.units.runner import FirstOutcome
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.submission import MAX_SHOWN
from meshnode.work.units.unit import Unit

GONE = "Remote work unit is gone"
"""receptor's text, which clients match."""

MAX_TYPE = 255
"""Characters of the name of a work type on another node."""

UNKNOWN_TYPE = "unknown"
"""The work type of a unit whose node does not name it."""

NO_KEY = "-"
"""A submission key that this node has never used: asking for it tells of the store only."""

ASK_TIMEOUT = 20.0
"""Seconds to find out why a unit is gone, before it is only called gone."""


class FirstLook:
    """The first look at a unit on another node: is it there, may it be read, and what is it."""

    def __init__(self, unit: Unit, reconnector: Reconnector) -> None:
        self._unit = unit
        self._reconnector = reconnector
        self._storage = StorageWait(unit)

    async def take(self, first: FirstOutcome) -> None:
        """Look, however long it takes to reach the node; a unit that cannot be followed fails."""
        while True:
            try:
                await self._look()
            except (RemoteUnavailable, RemoteRefused) as error:
                text = self._refusal(error)
                if text:
                    await self._unit.fail(f"not adopted: {text}")
                    first.fail(CommandError(text))
                    return
                first.pending()
                await self._reconnector.recover(as_unavailable(error))
            else:
                first.done()
                return

    def _refusal(self, error: RemoteUnavailable | RemoteRefused) -> str:
        """Return why there is no use in another try; empty if there may be."""
        if isinstance(error, RemoteDistrusted | NoTlsClient):
            return str(error)
        if isinstance(error, RemoteRefused) and not error.is_passing:
            return error.told_by(self._unit.remote.node)
        return ""

    async def _look(self) -> None:
        unit_id = self._unit.remote.unit_id
        async with await self._reconnector.open() as node:
            status = await node.ask(subcommand="status", unitid=unit_id)
            receipt = await _receipt(node, unit_id)
        size = status.get("StdoutSize")
        async with await self._reconnector.open() as node:
            # Whoever may see the status may still not read the results: signed work.
            await node.start_results(unit_id, size if isinstance(size, int) else 0)
            # The rest is the follower's: it begins where stdout ends here.
        told = status.get("WorkType")
        work_type = printable(told, MAX_TYPE) if isinstance(told, str) and told else UNKNOWN_TYPE
        labels = recorded_labels(status.get("Labels"))
        submitted = status.get("SubmittedBy")
        # What it knows of a client is hearsay here.
        submitter = MeshClient(self._unit.remote.node, claim=claim_from_json(submitted))
        params = status.get("SubmittedParams")

        def learned(old: UnitStatus) -> UnitStatus:
            return replace(
                old.with_remote(work_type=work_type, receipt=receipt),
                submitted_by=submitter if submitted else None,
                submitted_params=shown_text(params, MAX_SHOWN) if isinstance(params, str) else "",
                labels=old.labels or labels,
            )

        await self._storage.record(partial(self._unit.change, learned, durable=True))
        self._reconnector.succeeded()
        self._unit.log.info("is unit %s of %s, adopted", unit_id, self._unit.remote.node)


async def _receipt(node: RemoteControl, unit_id: str) -> str:
    """Return a receipt of the node's store as it is now; empty if the node gives none."""
    if not node.with_meshnode:
        return ""
    try:
        return str((await node.find_submission(NO_KEY, unit_id, "")).receipt)
    except RemoteRefused as refusal:
        if refusal.reason != BAD_COMMAND:
            raise
        return ""


async def why_gone(unit: Unit, reconnector: Reconnector) -> str:
    """Return the detail of a unit that its node does not know any more.

    Of an adopted one, what became of it is asked: somebody else may release it at any time.
    """
    taken = Receipt.find(unit.remote.receipt)
    if not unit.remote.adopted or taken is None:
        return GONE
    node = f"node {unit.remote.node}"
    with trio.move_on_after(ASK_TIMEOUT):
        try:
            async with await reconnector.open() as control:
                found = await control.find_submission(NO_KEY, unit.remote.unit_id, str(taken))
        except (RemoteUnavailable, RemoteRefused):
            return GONE
        if found.receipt.store != taken.store:
            return f"{GONE}: {node} has another directory of units than when it was adopted"
        if found.key_state is KeyState.DAMAGED:
            return f"{GONE}: its files on {node} are damaged"
        return f"{GONE}: it was released on {node}"
    return GONE
