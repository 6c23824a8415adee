"""Chooses the node for a unit. Pure: who there is, and what they say, are arguments."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from meshnode.work.placement.load import Load
from meshnode.work.units.jsonreader import NOTHING
from meshnode.work.units.placement import Placement, Rule


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that can be reached, and what is known of it.

    Attributes:
        node: its ID.
        work_types: what it advertises to run.
        labels: what it says of itself.
        load: what it says that it has to do; None of a node that says nothing, as receptor.
        takes: the keys of a submission that it knows beside receptor's.
        cost: of the route to it.
        own: units of the type that this node has placed there and that have not ended.
        placed: those of them that its load cannot know of yet.
    """

    node: str
    work_types: Set[str]
    labels: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    load: Load | None = None
    takes: Set[str] = frozenset()
    cost: float = 0.0
    own: int = 0
    placed: int = 0

    def busy_with(self, work_type: str) -> int:
        """Return how many units of a type run or wait there, as far as can be known.

        What the node says is of a moment ago, so what was placed since counts as well; and it has
        at least what this node knows of.
        """
        said = 0 if self.load is None else self.load.of(work_type)
        return max(self.own, said + self.placed)


@dataclass(frozen=True, slots=True)
class Choice:
    """The node that was chosen, and why, for a person."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class NoneFits:
    """That no node can be chosen, and which rule excludes how many, for a person."""

    reason: str


def choose(
    placement: Placement,
    work_type: str,
    candidates: Sequence[Candidate],
    pick: Callable[[Sequence[Candidate]], Candidate],
    unreached: Set[str] = frozenset(),
    needs: Mapping[str, str] = NOTHING,
    refused: Set[str] = frozenset(),
) -> Choice | NoneFits:
    """Choose the node for a unit.

    Args:
        placement: what its submission asks for.
        work_type: which type of work it is.
        candidates: the nodes that there are.
        pick: takes one of several that are equally good, by chance.
        unreached: nodes that were chosen before and could not be reached.
        needs: the keys of the submission that a node must know, each with a word for it.
        refused: nodes that were chosen before and take no such work.
    """
    excluded: Counter[str] = Counter()
    fit: list[Candidate] = []
    for one in candidates:
        lacks = next((s.excludes for s in placement.selectors if not s.admits(one.labels)), None)
        if lacks is None and work_type not in one.work_types:
            lacks = f"lack work type {work_type}"
        if lacks is None and (unknown := needs.keys() - one.takes):
            words = dict.fromkeys(word for key, word in needs.items() if key in unknown)
            lacks = f"take no {' and no '.join(words)}"
        if lacks is None and one.node in refused:
            lacks = "refused it"
        if lacks is None and one.node in unreached:
            lacks = "could not be reached"
        if lacks is None:
            fit.append(one)
        else:
            excluded[lacks] += 1
    if not fit:
        return NoneFits(_why_none(len(candidates), excluded))
    return _best(placement.rule, work_type, fit, len(candidates), pick)


def _why_none(count: int, excluded: Counter[str]) -> str:
    """Return ``0 of 12 nodes: 9 lack label gpu, 3 lack work type render``."""
    nodes = "1 node" if count == 1 else f"{count} nodes"
    told = ", ".join(f"{number} {_of(number, what)}" for what, number in excluded.most_common())
    return f"0 of {nodes}: {told}" if told else "0 of 0 nodes"


def _of(number: int, what: str) -> str:
    """Return what a number of nodes do, in the right number."""
    verb, _, rest = what.partition(" ")
    return f"{_OF_ONE.get(verb, verb)} {rest}" if number == 1 else what


_OF_ONE = {"lack": "lacks", "have": "has", "take": "takes"}


def _best(
    rule: Rule,
    work_type: str,
    fit: Sequence[Candidate],
    of: int,
    pick: Callable[[Sequence[Candidate]], Candidate],
) -> Choice:
    where = f"of {len(fit)} that fit" if len(fit) < of else f"of {of}"
    if rule is Rule.RANDOM:
        return Choice(pick(fit).node, f"random {where}")
    if rule is Rule.ANY:
        least = min(one.cost for one in fit)
        return Choice(pick([o for o in fit if o.cost == least]).node, f"nearest {where}")
    fewest = min(one.busy_with(work_type) for one in fit)
    idle = [one for one in fit if one.busy_with(work_type) == fewest]
    calm = min(_load_of(one) for one in idle)
    chosen = pick([one for one in idle if _load_of(one) == calm])
    units = "1 unit" if fewest == 1 else f"{fewest} units"
    return Choice(chosen.node, f"least {where}: {units} of {work_type} there")


def _load_of(one: Candidate) -> float:
    return 0.0 if one.load is None else one.load.per_processor
