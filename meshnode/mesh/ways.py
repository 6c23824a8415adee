"""By which link the nodes are reached that take places here, and what each link leaves to others.

A peer can invent as many nodes behind itself as it likes, so shares by node alone bound nothing.
What cannot be invented is the network address that a link comes from: all nodes that are reached
over links with one address are one branch, and no branch may take everything.
"""

from collections import Counter
from dataclasses import dataclass

FEW = 8
"""Places of a node that is linked to us, of the part that its branch leaves to others: enough to
look around, whatever those behind it have taken."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a node is reached. ``branch`` is empty for what does not come over the mesh."""

    branch: str = ""

    is_near: bool = False
    """Whether the node itself is linked to us."""


NO_WAY = Way()
"""That of clients who do not come from another node."""


class Ways:
    """How many of ``most`` places each branch has; it leaves ``spared`` of them to all others."""

    def __init__(self, most: int, spared: int) -> None:
        self._most = most
        self._spared = spared
        self._held: Counter[str] = Counter()

    def is_full(self, way: Way, held: int) -> bool:
        """Whether a node that has ``held`` places gets no more because of its branch."""
        if not way.branch:
            return False
        spared = self._spared // 2 if way.is_near and held < FEW else self._spared
        return self._held.get(way.branch, 0) >= self._most - spared

    def take(self, way: Way) -> None:
        """Count a place."""
        if way.branch:
            self._held[way.branch] += 1

    def give_back(self, way: Way) -> None:
        """Count a place no more."""
        if way.branch:
            self._held[way.branch] -= 1
            if not self._held[way.branch]:
                del self._held[way.branch]
