"""What there is too little of, by who holds it: whoever has most gives way first."""

from collections import Counter
from collections.abc import Container, Hashable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T", bound=Hashable)


class Shares(Generic[T]):
    """Things by holder, in the order in which they came.

    ``gives_way`` says which of a holder's things is taken away first. Of holders that have as many
    it is the one that was there first, or last.
    """

    def __init__(self, gives_way: Literal["oldest", "newest"]) -> None:
        self._oldest_first = gives_way == "oldest"
        self._holders: dict[str, dict[T, None]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, holder: str, thing: T) -> None:
        """Note that ``holder`` has another thing."""
        self._holders.setdefault(holder, {})[thing] = None
        self._size += 1

    def discard(self, holder: str, thing: T) -> None:
        """Note that ``holder`` has it no more, if it has."""
        things = self._holders.get(holder, {})
        if thing in things:
            del things[thing]
            self._size -= 1
            if not things:
                del self._holders[holder]

    def count_without(self, spared: Container[str]) -> int:
        """Return how much all other holders have."""
        return sum(len(things) for name, things in self._holders.items() if name not in spared)

    def take_away(self, spared: Container[str] = ()) -> T:
        """Remove a thing of the largest holder that is not spared, and return it.

        There must be one.
        """
        holders = [(name, things) for name, things in self._holders.items() if name not in spared]
        if not self._oldest_first:
            holders.reverse()
        name, things = max(holders, key=lambda holder: len(holder[1]))
        thing = next(iter(things) if self._oldest_first else reversed(things))
        self.discard(name, thing)
        return thing


# --- A number of places, or of bytes, for all, of which nobody can take everybody's part
#
# Fixed parts would be too small for the one node that needs most of them, or no bound for a few
# that want all. So a holder may have as many as it leaves free: one alone has half of all, and
# whoever comes later finds half of the rest. Some are kept for those who have next to none, so
# that even many who take what they can leave something.


class Parts:
    """Which node (by its hash, or by its name) has how many of ``total``.

    The last ``kept`` are for nodes that have fewer than ``few``.
    """

    def __init__(self, total: int, *, kept: int = 0, few: int = 0) -> None:
        self._total = total
        self._kept = kept
        self._few = few
        self._held: Counter[bytes] = Counter()
        self._all = 0

    @property
    def all(self) -> int:
        """How many are taken."""
        return self._all

    def held(self, node: bytes) -> int:
        """Return how many a node has."""
        return self._held.get(node, 0)

    def left(self, node: bytes) -> int:
        """Return how many more a node may take."""
        held = self.held(node)
        free = self._total - self._all
        fair = (free - self._kept - held) // 2
        return max(0, fair, min(free, self._few - held))

    def take(self, node: bytes, count: int = 1) -> bool:
        """Take some for a node; False, and none is taken, if that is more than are left to it."""
        if count > self.left(node):
            return False
        if not count:
            return True
        self._all += count
        self._held[node] += count
        return True

    def give_back(self, node: bytes, count: int = 1) -> None:
        """Give back what a node took."""
        if not count:
            return
        self._all -= count
        self._held[node] -= count
        if not self._held[node]:
            del self._held[node]


# --- By which link the nodes are reached that take places here, and what each link leaves to
# others
#
# A peer can invent as many nodes behind itself as it likes, so shares by node alone bound
# nothing. What cannot be invented is the network address that a link comes from: all nodes that
# are reached over links with one address are one branch, and no branch may take everything.

pass  # SELFIMPORT

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
    """How many of ``most`` places each branch has; it leaves ``spared`` of them to all others.

    A node that is linked to us may have ``few`` of half of these.
    """

    def __init__(self, most: int, spared: int, few: int = FEW) -> None:
        self._most = most
        self._spared = spared
        self._few = few
        self._held: Counter[str] = Counter()

    def left(self, way: Way, held: int) -> int:
        """Return how many more a node that has ``held`` may take, as far as its branch goes."""
        if not way.branch:
            return self._most
        left = self._most - self._spared - self._held.get(way.branch, 0)
        if way.is_near:
            left = max(left, min(left + self._spared - self._spared // 2, self._few - held))
        return max(0, left)

    def is_full(self, way: Way, held: int) -> bool:
        """Whether a node that has ``held`` places gets no more because of its branch."""
        return not self.left(way, held)

    def take(self, way: Way, count: int = 1) -> None:
        """Count places."""
        if way.branch and count:
            self._held[way.branch] += count

    def give_back(self, way: Way, count: int = 1) -> None:
        """Count places no more."""
        if way.branch and count:
            self._held[way.branch] -= count
            if not self._held[way.branch]:
                del self._held[way.branch]


class BranchParts:
    """Parts of ``total`` by node, as :class:`Parts` has them, of which each branch spares some."""

    def __init__(
        self, total: int, spared: int, *, kept: int = 0, few: int = 0, near: int = FEW
    ) -> None:
        """``near`` is what a node that is linked to us may have of half of what is spared."""
        self._parts = Parts(total, kept=kept, few=few)
        self._ways = Ways(total, spared, near)

    @property
    def all(self) -> int:
        """How many are taken."""
        return self._parts.all

    def held(self, node: bytes) -> int:
        """Return how many a node has."""
        return self._parts.held(node)

    def left(self, node: bytes, way: Way) -> int:
        """Return how many more a node may take."""
        return min(self._parts.left(node), self._ways.left(way, self.held(node)))

    def is_branch_full(self, node: bytes, way: Way) -> bool:
        """Whether a node gets no more because of its branch."""
        return self._ways.is_full(way, self.held(node))

    def take(self, node: bytes, way: Way, count: int = 1) -> bool:
        """Take some for a node; False, and none is taken, if that is more than are left to it."""
        if count > self.left(node, way):
            return False
        self._ways.take(way, count)
        return self._parts.take(node, count)

    def give_back(self, node: bytes, way: Way, count: int = 1) -> None:
        """Give back what a node took by that way."""
        self._ways.give_back(way, count)
        self._parts.give_back(node, count)
