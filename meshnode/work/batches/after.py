"""What a batch waits for before its first member, and what units hear of batches that they await.

A batch waits in its own task. A unit that waits has none: it is told of the ends of batches.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from meshnode.errors import UnknownUnit
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.after import After, is_batch_id
from meshnode.work.units.manager import UnitManager


class AwaitedBatch(Protocol):
    """What is asked of another batch."""

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def state_name(self) -> str:
        """How it stands, for a person."""
        ...

    async def wait_done(self) -> str:
        """Return how it has ended, once it has."""
        ...


FindBatch = Callable[[str], AwaitedBatch | None]
"""Returns the batch of an ID, None if there is none."""


class Predecessors:
    """Knows how units and batches of the node end."""

    def __init__(self, units: UnitManager, find_batch: FindBatch) -> None:
        self._units = units
        self._find_batch = find_batch

    async def refusal(self, after: Sequence[After]) -> str:
        """Return an empty text once all have ended so that the batch may begin, or, as soon as one
        has not, why it may not."""
        refusals: list[str] = []
        async with trio.open_nursery() as nursery:

            async def look(one: After) -> None:
                if refusal := one.refusal(await self._end_of(one.target)):
                    refusals.append(refusal)
                    nursery.cancel_scope.cancel()

            for one in after:
                nursery.start_soon(look, one)
        return refusals[0] if refusals else ""

    async def _end_of(self, target: str) -> str:
        """Return how something has ended, once it has; empty if nothing is known of it."""
        if is_batch_id(target):
            batch = self._find_batch(target)
            return "" if batch is None else await batch.wait_done()
        try:
            unit = self._units.find(target)
        except UnknownUnit:
            return ""
        await unit.wait_final()
        state = unit.status.state
        # One that was released before its end did not come to it.
        return (state if state.is_final else UnitState.CANCELED).label

    def standing(self, batch_id: str) -> tuple[str, bool]:
        """Return how a batch stands at this moment, and whether that is its end."""
        batch = self._find_batch(batch_id)
        return ("", True) if batch is None else (batch.state_name, batch.is_done)
