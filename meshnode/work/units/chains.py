"""Units that wait for the end of other units, or of batches, before they start.

Such a unit is Pending, all of its input is synced, and it has no task: it costs what a finished one
does. What it still waits for stands in its record. Each end that it has waited for is taken off the
record, which is synced, before anything else happens, so what has ended may then be released.

The order is: a target ends, the unit's task is spawned, :meth:`Chains.settle` brings that to the
record, and the task goes on when nothing is left, or ends when something is. A unit whose target
has not ended as it must fails there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Protocol

import trio

from meshnode.errors import CommandError, UnknownUnit, WorkError
from meshnode.work.units.access import Caller
from meshnode.work.units.after import After, is_batch_id
from meshnode.work.units.remoteextra import expired_words
from meshnode.work.units.shortage import Pauses, is_lack
from meshnode.work.units.unit import Clock, Unit

MOST_SHOWN = 3
"""Targets that the detail of a unit names."""


class AwaitedBatches(Protocol):
    """What is asked of the batches of the node."""

    def check_known(self, batch_id: str, caller: Caller) -> None:
        """Return if a client may know of a batch. Raises CommandError."""
        ...

    def standing(self, batch_id: str) -> tuple[str, bool]:
        """Return how a batch stands at this moment, and whether that is its end."""
        ...


class NeverStarts(CommandError):
    """What a unit waits for cannot come any more."""


@dataclass(slots=True, eq=False)
class _Target:
    """What units wait for. One that is released stays known here until they have heard of it."""

    name: str
    unit: Unit | None
    waiting: dict[str, Unit] = field(default_factory=dict)
    seen: object = None
    """How it stood when those who wait were last told."""


class Chains:
    """Holds units back until what they wait for has ended; ``wake`` spawns a unit's task.

    Batches are known later than units: until ``batches`` is set, none of them has ended.
    """

    def __init__(
        self, find: Callable[[str], Unit], wake: Callable[[Unit], None], now: Clock
    ) -> None:
        self._find = find
        self._wake = wake
        self._now = now
        self._targets: dict[str, _Target] = {}
        self._waiting: dict[str, tuple[_Target, ...]] = {}
        self._listeners: dict[str, Callable[[], None]] = {}
        self._batches: AwaitedBatches | None = None
        self._expiries: list[tuple[float, str]] = []
        """When units expire that wait, the next one first; who has left stays until it comes up."""
        self._sooner = trio.Event()

    @property
    def batches(self) -> AwaitedBatches | None:
        """The batches of the node, once they are there."""
        return self._batches

    @batches.setter
    def batches(self, batches: AwaitedBatches) -> None:
        self._batches = batches
        for name in filter(is_batch_id, tuple(self._targets)):
            self.look(name)

    # --- coming and going ---------------------------------------------------------------------

    def enter(self, unit: Unit) -> bool:
        """Have a unit wait; return whether anything is to be settled at once."""
        self.leave(unit)
        targets = tuple(self._target(one.target) for one in unit.status.after)
        for target in targets:
            target.waiting[unit.unit_id] = unit
        self._waiting[unit.unit_id] = targets
        unit.place = lambda: self.words(unit)
        remote = unit.status.remote
        if remote is not None and remote.expiration is not None:
            heappush(self._expiries, (remote.expiration.timestamp(), unit.unit_id))
            self._sooner.set()
        return self._is_late(unit) or any(self._standing(target)[1] for target in targets)

    def _target(self, name: str) -> _Target:
        known = self._targets.get(name)
        if known is not None:
            return known
        unit: Unit | None = None
        if not is_batch_id(name):
            try:
                unit = self._find(name)
            except UnknownUnit:
                unit = None
        target = self._targets[name] = _Target(name, unit)
        target.seen = self._standing(target)
        if unit is not None:
            listener = self._listeners[name] = lambda: self.look(name)
            unit.add_listener(listener)
        return target

    def is_waiting(self, unit: Unit) -> bool:
        """Whether a unit waits: nothing of it runs, and its runner has not heard of it."""
        return unit.unit_id in self._waiting

    def leave(self, unit: Unit) -> None:
        """Take a unit out, if it is in."""
        targets = self._waiting.pop(unit.unit_id, ())
        if targets:
            unit.place = None
        for target in targets:
            target.waiting.pop(unit.unit_id, None)
            if not target.waiting and target.name in self._targets:
                del self._targets[target.name]
                if target.unit is not None:
                    target.unit.remove_listener(self._listeners.pop(target.name))

    # --- what they wait for -------------------------------------------------------------------

    def look(self, name: str) -> None:
        """Have those go on, or hear, who wait for a unit or batch that stands in another way."""
        target = self._targets.get(name)
        if target is None or (standing := self._standing(target)) == target.seen:
            return
        target.seen = standing
        for unit in tuple(target.waiting.values()):
            if standing[1]:
                self._wake(unit)
            elif unit.watchers:
                unit.tell_watchers()

    def _standing(self, target: _Target) -> tuple[str, bool]:
        """Return how a target stands, and whether that is its end; no text if it is not there."""
        if is_batch_id(target.name):
            return ("", False) if self._batches is None else self._batches.standing(target.name)
        if target.unit is None:
            return "", True
        state = target.unit.status.state
        if target.unit.released and not state.is_final:
            return "", True
        return state.label, state.is_final

    def words(self, unit: Unit) -> str:
        """Return what a unit waits for: ``waiting for unit X to succeed (Running)``."""
        waits = [one for one in unit.status.after if not self._has_ended(one)]
        told = [one.words + self._shown(one) for one in waits[:MOST_SHOWN]]
        more = f" and {len(waits) - MOST_SHOWN} more" if len(waits) > MOST_SHOWN else ""
        return f"waiting for {', '.join(told)}{more}" if told else ""

    def _shown(self, one: After) -> str:
        state, _ = self._standing(self._targets[one.target])
        return f" ({state})" if state else ""

    def _has_ended(self, one: After) -> bool:
        return self._standing(self._targets[one.target])[1]

    def _is_late(self, unit: Unit) -> bool:
        remote = unit.status.remote
        moment = None if remote is None else remote.expiration
        return moment is not None and moment <= self._now()

    # --- the task of a unit -------------------------------------------------------------------

    async def settle(self, unit: Unit) -> bool:
        """Take what has ended off a unit's record; return whether the unit may start now.

        Raises:
            NeverStarts: with the reason; that is not on record yet.
        """
        pauses = Pauses()
        while self.is_waiting(unit):
            after = unit.status.after
            rest = tuple(one for one in after if not self._has_ended(one))
            if refusal := self._refusal(unit, after, rest):
                self.leave(unit)
                raise NeverStarts(refusal)
            if rest == after:
                # Without an await since the look, so that no end is missed.
                return False
            try:
                await unit.change(lambda old: replace(old, after=rest), durable=True)  # noqa: B023
            except WorkError as error:
                if not is_lack(error):
                    raise
                unit.show_outage(str(error))
                await pauses.take()
            else:
                unit.show_outage("")
                if not rest:
                    self.leave(unit)
        return True

    def _refusal(self, unit: Unit, after: Sequence[After], rest: Sequence[After]) -> str:
        for one in after:
            state, has_ended = self._standing(self._targets[one.target])
            if has_ended and (refusal := one.refusal(state)):
                return f"{refusal}: not started"
        remote = unit.status.remote
        if rest and self._is_late(unit) and remote is not None and remote.expiration is not None:
            return f"{expired_words(remote.expiration)}; {self.words(unit)}"
        return ""

    async def run(self) -> None:
        """Wake units whose time to start is over while they wait, until cancelled."""
        while True:
            self._sooner = trio.Event()
            now = self._now().timestamp()
            while self._expiries and self._expiries[0][0] <= now:
                self._expire(heappop(self._expiries)[1])
            left = self._expiries[0][0] - now if self._expiries else float("inf")
            with trio.move_on_after(left):
                await self._sooner.wait()

    def _expire(self, unit_id: str) -> None:
        for target in self._waiting.get(unit_id, ())[:1]:
            self._wake(target.waiting[unit_id])
