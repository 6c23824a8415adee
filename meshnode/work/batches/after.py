"""What a batch waits for before its first member: the end of units, or of other batches.

A batch can only name what was there before it, so no two wait for each other.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from meshnode.errors import CommandError, UnknownUnit
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.manager import UnitManager

MAX_AFTER: Final = 64
"""Units and batches that one batch waits for; a chain names one or two."""

ANY_END: Final = "end"
SUCCESS: Final = "success"
"""What may stand after the ID and a colon."""


_ID: Final = re.compile(r"b-[a-zA-Z0-9]{8}")


def is_batch_id(text: str) -> bool:
    """Whether that can be the ID of a batch; it can never be that of a unit."""
    return _ID.fullmatch(text) is not None


class AwaitedBatch(Protocol):
    """What is asked of another batch."""

    async def wait_done(self) -> str:
        """Return how it has ended, once it has."""
        ...


@dataclass(frozen=True, slots=True)
class After:
    """A unit or a batch that must have ended; ``success`` is whether it must have succeeded."""

    target: str
    success: bool = True

    def __str__(self) -> str:
        return self.target if self.success else f"{self.target}:{ANY_END}"

    @property
    def name(self) -> str:
        """What it is, for a person."""
        return f"{'batch' if is_batch_id(self.target) else 'unit'} {self.target}"

    @property
    def words(self) -> str:
        """What is waited for, for a person."""
        return f"{self.name} to {'succeed' if self.success else 'end'}"


def parse_after(text: str) -> tuple[After, ...]:
    """Read ``ID,ID:end``; an empty text has none. Raises CommandError."""
    words = text.split(",", MAX_AFTER) if text else []
    if len(words) > MAX_AFTER:
        raise CommandError(f"a batch waits for at most {MAX_AFTER} units and batches")
    found: list[After] = []
    for word in words:
        target, _, condition = word.partition(":")
        if not (target.replace("-", "").isalnum() and condition in {"", SUCCESS, ANY_END}):
            raise CommandError(f"after {word[:64]!r}: write an ID, ID:{SUCCESS} or ID:{ANY_END}")
        found.append(After(target, condition != ANY_END))
    return tuple(found)


class Predecessors:
    """Knows how units and batches of the node end; ``find_batch`` returns one, None if there is
    none of that ID."""

    def __init__(
        self, units: UnitManager, find_batch: Callable[[str], AwaitedBatch | None]
    ) -> None:
        self._units = units
        self._find_batch = find_batch

    async def refusal(self, after: Sequence[After]) -> str:
        """Return once all have ended: why the batch may not begin, or an empty text if it may."""
        for one in after:
            state = await self._end_of(one.target)
            if one.success and state != UnitState.SUCCEEDED.label:
                return f"{one.name} {f'ended as {state}' if state else 'is gone'}"
        return ""

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
