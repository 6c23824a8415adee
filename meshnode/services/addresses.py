"""The addresses that a datagram service knows: bounded in all, and shared out among their holders.

Who sends datagrams need not be who they say. So those of whom nothing shows that they are there
make room first, and no machine or node puts all others out; nor do nodes that a peer invents behind
itself.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from meshnode.mesh.ways import NO_WAY, Way, Ways

A = TypeVar("A")
"""An address."""

T = TypeVar("T")
"""What is kept of an address."""

SPARED = 16
"""One in so many addresses is left to others by all nodes that are reached over one link."""


class AddressTable(Generic[A, T]):
    """Addresses and what is kept of each, the one silent longest first.

    Args:
        holder_of: says which machine or node an address is of.
        most: addresses at a time.
        of_one: of these of one holder.
        way_of: says how the node is reached that an address is of.
    """

    def __init__(
        self,
        holder_of: Callable[[A], str],
        most: int,
        of_one: int,
        way_of: Callable[[A], Way] = lambda _: NO_WAY,
    ) -> None:
        self._holder_of = holder_of
        self._way_of = way_of
        self._most = most
        self._of_one = of_one
        self._strangers: OrderedDict[A, T] = OrderedDict()
        self._proven: OrderedDict[A, T] = OrderedDict()
        self._holders: dict[str, OrderedDict[A, None]] = {}
        self._ways = Ways(most, most // SPARED)
        self._came_by: dict[A, Way] = {}
        """How each address was reached when it was added."""

    def __len__(self) -> int:
        """How many are known."""
        return len(self._strangers) + len(self._proven)

    @property
    def addresses(self) -> tuple[A, ...]:
        """All that are known, those that are not proven first."""
        return (*self._strangers, *self._proven)

    def get(self, address: A) -> T | None:
        """Return what is kept of an address."""
        found = self._proven.get(address)
        return self._strangers.get(address) if found is None else found

    def add(self, address: A, item: T) -> T | None:
        """Add an address that is not known; return what was kept of the one that makes room."""
        way = self._way_of(address)
        evicted = self._make_room(self._holder_of(address), way)
        self._strangers[address] = item
        self._came_by[address] = way
        self._ways.take(way)
        self._holders.setdefault(self._holder_of(address), OrderedDict())[address] = None
        return evicted

    def _make_room(self, holder: str, way: Way) -> T | None:
        own = self._holders.get(holder, OrderedDict())
        if len(own) >= self._of_one:
            return self._remove(next(iter(own)))
        if self._ways.is_full(way, len(own)):
            # Few are passed over: others have hardly more than what the branch leaves to them.
            came_by, branch = self._came_by, way.branch
            return self._remove(next(a for a in self.addresses if came_by[a].branch == branch))
        if len(self) < self._most:
            return None
        if self._strangers:
            return self._remove(next(iter(self._strangers)))
        largest = max(self._holders.values(), key=len)
        return self._remove(next(iter(largest)))

    def heard(self, address: A) -> None:
        """Note that something was sent from or to an address."""
        for table in (self._strangers, self._proven):
            if address in table:
                table.move_to_end(address)
                self._holders[self._holder_of(address)].move_to_end(address)

    def prove(self, address: A) -> None:
        """Note that whoever sends from an address also receives there."""
        if address in self._strangers:
            self._proven[address] = self._strangers.pop(address)

    def discard(self, address: A, item: T) -> None:
        """Forget an address, if that is what is kept of it."""
        if self.get(address) is item:
            self._remove(address)

    def _remove(self, address: A) -> T:
        table = self._strangers if address in self._strangers else self._proven
        item = table.pop(address)
        self._ways.give_back(self._came_by.pop(address))
        holder = self._holder_of(address)
        del self._holders[holder][address]
        if not self._holders[holder]:
            del self._holders[holder]
        return item
