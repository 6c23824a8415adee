"""Gives a node to units that may run on any of several, or says what they wait for."""

import math
import random
from collections.abc import Callable, Hashable, Set

import trio

from meshnode.errors import WorkError
from meshnode.work.placement.choice import Choice, NoneFits, choose
from meshnode.work.placement.nodes import NodeDirectory
from meshnode.work.units.jobsettings import WORDS_OF_KEYS
from meshnode.work.units.runner import FirstOutcome
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.unit import Unit

UNREACHED_SECONDS = 30.0
"""Seconds for which a node is passed over that could not be reached: a link that broke is there
again by then, and so is a node that was started anew."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks for a node while none fits, however often the mesh has news."""

Permits = Callable[[UnitStatus], Callable[[str], bool] | None]
"""Returns what says whether who has submitted a unit may have it run on a node; None if it may on
all."""


MOST_REFUSALS = 8
"""Nodes that may refuse a unit before it fails. A submission that is wrong is refused by all, and a
mesh has thousands; one whom some do not want is taken by others."""


class AllRefuse(WorkError):
    """The nodes that fit have refused the unit; its text says what they say."""


class PassedOver:
    """The nodes that one unit could not be brought to: each is passed over for a while.

    Attributes:
        refusals: what those have said that take no such work, by node; they are asked no more.
    """

    def __init__(self) -> None:
        self.refusals: dict[str, str] = {}
        self._until: dict[str, float] = {}

    def refuse(self, node: str, words: str) -> None:
        """Pass over a node for good."""
        self.refusals[node] = words

    @property
    def told(self) -> str:
        """What was said last, for a person."""
        others = len(self.refusals) - 1
        more = f"; so did {others} other{'s' if others > 1 else ''}" if others else ""
        return next(reversed(self.refusals.values()), "") + more

    def add(self, node: str) -> None:
        """Pass over a node from now on."""
        self._until[node] = trio.current_time() + UNREACHED_SECONDS

    def nodes(self) -> frozenset[str]:
        """Return those that are passed over at this moment."""
        now = trio.current_time()
        return frozenset(node for node, until in self._until.items() if until > now)

    def next_end(self) -> float:
        """Return when the next one of them may be tried again."""
        return min((self._until[node] for node in self.nodes()), default=math.inf)


class Placer:
    """Chooses nodes for units."""

    def __init__(self, directory: NodeDirectory, permits: Permits = lambda status: None) -> None:
        self._directory = directory
        self.permits = permits
        """Asked of each node before it is chosen."""
        self._none_fits: dict[Hashable, NoneFits] = {}
        """What thousands that wait for the same would find out one by one, by what they ask for."""
        self._found_at: tuple[int, int] = (-1, -1)

    async def give_node(self, unit: Unit, passed: PassedOver, first: FirstOutcome) -> None:
        """Return once a node is chosen for a unit and on record, however long none fits.

        Raises:
            AllRefuse: no node is left that might take it.
            WorkError: the disk does not take the record.
        """
        refused = frozenset(passed.refusals)
        if len(refused) >= MOST_REFUSALS:
            raise AllRefuse(passed.told)
        while isinstance(
            choice := self._choose(unit, unreached := passed.nodes(), refused), NoneFits
        ):
            if refused and isinstance(self._choose(unit, frozenset(), refused), NoneFits):
                raise AllRefuse(passed.told)
            await self._leave_node(unit)
            unit.show_outage(f"waiting for a node: {choice.reason}")
            first.pending()
            with trio.move_on_at(passed.next_end()):
                await self._directory.mesh.wait_changed()
            await trio.sleep(LOOK_INTERVAL)
        unit.show_outage("")
        reason = choice.reason
        if unreached:
            reason += f"; {', '.join(sorted(unreached))} could not be reached"
        if refused:
            reason += f"; {', '.join(sorted(refused))} refused it"
        unit.log.info("goes to node %s: %s", choice.node, reason)
        # Before the record is written: others choose meanwhile.
        self._directory.count(unit, choice.node)
        try:
            await unit.change(lambda status: status.with_remote(node=choice.node, chosen=reason))
        except BaseException:
            self._directory.uncount(unit)
            raise

    async def _leave_node(self, unit: Unit) -> None:
        """Have a unit be on no node any more, if one was chosen that was not reached."""
        if unit.remote.node:
            self._directory.uncount(unit)
            # In memory only: who reads the record chooses anew in any case.
            await unit.note(lambda status: status.with_remote(node="", chosen=""))

    def _choose(
        self, unit: Unit, unreached: Set[str], refused: frozenset[str]
    ) -> Choice | NoneFits:
        remote = unit.remote
        assert remote.placement is not None
        permits = self.permits(unit.status)
        needs = {key: WORDS_OF_KEYS[key] for key in unit.status.job.fields()}
        asked = (
            remote.placement,
            remote.work_type,
            frozenset(needs),
            frozenset(unreached),
            refused,
        )
        if (moment := self._directory.moment()) != self._found_at:
            self._found_at = moment
            self._none_fits.clear()
        if permits is None and (known := self._none_fits.get(asked)) is not None:
            return known
        nodes = self._directory.candidates(remote.work_type)
        allowed = nodes if permits is None else [one for one in nodes if permits(one.node)]
        choice = choose(
            *(remote.placement, remote.work_type, allowed, random.choice),
            *(unreached, needs, refused),
        )
        if permits is None and isinstance(choice, NoneFits):
            self._none_fits[asked] = choice
        return choice

    def count(self, unit: Unit) -> None:
        """Count a unit on its node until it has ended there, or goes to another one."""
        self._directory.count(unit, unit.remote.node)
