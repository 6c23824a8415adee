"""What there is too little of, and who may have how much of it.

Descriptors, memory, places and time are limited, and anybody on the network may ask for them. So
everything that is scarce is counted for a :class:`Holder`: the node, user or address on whose
account it is taken. Three limits apply:

* The *total* of the thing.
* The *share* of one holder, so that nobody has everything.
* The share of one *branch*: all nodes that are reached over links with one network address. A peer
  can invent nodes behind itself, as many as it likes, so shares of holders alone limit nothing. It
  cannot invent the address that its links come from. Each branch leaves a part to all others.

Four classes keep to them. :class:`Shares` counts what is refused when there is no more.
:class:`Budget` counts bytes that are there before they can be counted: who has too many is told to
stop. :class:`Held` keeps things of which one must give way to a new one, and finds the largest
holder. :class:`FairLock` shares time: it lets one in after another, each source as often as others.
"""

import enum
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Collection, Container, Hashable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Literal, TypeVar

import trio

T = TypeVar("T", bound=Hashable)

FEW = 8
"""What a node that is linked to us may have when its branch has its share: enough to look around,
whatever the nodes behind it have taken."""


@dataclass(frozen=True, slots=True)
class Holder:
    """On whose account something is taken."""

    name: str
    """A node, a user, or a network address."""

    branch: str = ""
    """The address of the link over which a node is reached; empty for what is no other node."""

    is_near: bool = False
    """Whether a node is linked to us itself."""

    is_owner: bool = False
    """Whether it is root or the user that this node runs as, on this machine."""

    @property
    def source(self) -> str:
        """What nobody can invent of it: its branch, or else its name."""
        return self.branch or self.name


class Limit(enum.Enum):
    """Which limit a holder has reached."""

    HOLDER = enum.auto()
    BRANCH = enum.auto()
    TOTAL = enum.auto()


class Shares:
    """How much of a total each holder has.

    A holder may have ``of_one``. Without that it may have as much as it leaves free: one alone has
    half of the total, and whoever comes later finds half of the rest. Fixed shares would be too
    small for the one node that needs most, or no limit for a few that want everything.
    """

    def __init__(
        self,
        total: int,
        spared: int,
        *,
        of_one: int | None = None,
        kept: int = 0,
        few: int = 0,
        near: int = FEW,
    ) -> None:
        """Share a total.

        Args:
            total: How much there is.
            spared: What each branch leaves of it to all others.
            of_one: What one holder may have.
            kept: What only holders with less than ``few`` may have.
            few: See there.
            near: What a node that is linked to us may have of half of ``spared``.
        """
        self._total = total
        self._spared = spared
        self._of_one = of_one
        self._kept = kept
        self._few = few
        self._near = near
        self._by_holder: Counter[str] = Counter()
        self._by_branch: Counter[str] = Counter()
        self._used = 0

    @property
    def used(self) -> int:
        """How much all holders have."""
        return self._used

    def held(self, holder: Holder) -> int:
        """Return how much a holder has."""
        return self._by_holder.get(holder.name, 0)

    def left(self, holder: Holder) -> int:
        """Return how much more a holder may take."""
        own, branch = self._left_of_own(holder), self._left_of_branch(holder)
        return max(0, min(own, branch, self._total - self._used))

    def limit(self, holder: Holder) -> Limit | None:
        """Return which limit keeps a holder from taking any more."""
        if self._left_of_own(holder) <= 0:
            return Limit.HOLDER
        if self._left_of_branch(holder) <= 0:
            return Limit.BRANCH
        return Limit.TOTAL if self._used >= self._total else None

    def take(self, holder: Holder, count: int = 1) -> bool:
        """Take some for a holder; False, and none is taken, if it may not have that much."""
        if count > self.left(holder):
            return False
        self.add(holder, count)
        return True

    def add(self, holder: Holder, count: int = 1) -> None:
        """Count what a holder has taken, whether it may or not."""
        if count:
            self._used += count
            _count(self._by_holder, holder.name, count)
            _count(self._by_branch, holder.branch, count)

    def give_back(self, holder: Holder, count: int = 1) -> None:
        """Give back what a holder took."""
        self.add(holder, -count)

    def _left_of_own(self, holder: Holder) -> int:
        held = self.held(holder)
        if self._of_one is not None:
            return self._of_one - held
        free = self._total - self._used
        return max((free - self._kept - held) // 2, min(free, self._few - held))

    def _left_of_branch(self, holder: Holder) -> int:
        if not holder.branch:
            return self._total
        left = self._total - self._spared - self._by_branch.get(holder.branch, 0)
        if not holder.is_near:
            return left
        # The nodes behind it may all be invented, by itself or by others. So it may have a few of
        # what they leave; half of that only, since it may be one of many that are linked to us.
        reserve = left + self._spared - self._spared // 2
        return max(left, min(reserve, self._near - self.held(holder)))


class Budget:
    """How many bytes are kept for each holder.

    They are counted when they are there already. While all holders have less than the total, each
    may have ``of_one``; beyond it each source has an equal share, which its holders share.
    """

    def __init__(self, of_one: int, total: int) -> None:
        self._of_one = of_one
        self._total = total
        self._sources: dict[str, Counter[str]] = {}
        """What the holders of each source have."""
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes that are kept for all holders."""
        return self._used

    @property
    def is_exceeded(self) -> bool:
        """Whether all holders together have more than the total."""
        return self._used > self._total

    def change(self, holder: Holder, size: int) -> None:
        """Add to what a holder has; below zero, take from it."""
        if not size:
            return
        self._used += size
        holders = self._sources.setdefault(holder.source, Counter())
        _count(holders, holder.name, size)
        if not holders:
            del self._sources[holder.source]

    def has_room(self, holder: Holder) -> bool:
        """Whether a holder has no more than its share."""
        holders = self._sources.get(holder.source)
        if holders is None:
            return True
        held = holders[holder.name]
        if held > self._of_one:
            return False
        if not self.is_exceeded or holder.is_owner:
            return True
        # Of sources, not of holders: a peer that invents nodes takes nothing from other sources.
        share = self._total // max(1, len(self._sources))
        return held <= share // max(1, len(holders)) or holders.total() <= share


def _count(counts: Counter[str], name: str, count: int) -> None:
    counts[name] += count
    if not counts[name]:
        del counts[name]


class Held(Generic[T]):
    """Things by holder, in the order in which they came.

    ``gives_way`` says which of the largest holder's things is taken away first. Of holders with
    equally many it is the one that was there first, or last.
    """

    def __init__(self, gives_way: Literal["oldest", "newest"]) -> None:
        self._oldest_first = gives_way == "oldest"
        self._holders: dict[str, dict[T, None]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._holders.values())

    def add(self, holder: str, thing: T) -> None:
        """Note that ``holder`` has another thing."""
        self._holders.setdefault(holder, {})[thing] = None
        self._size += 1

    def discard(self, holder: str, thing: T) -> None:
        """Note that ``holder`` does not have a thing any more, if it had it."""
        things = self._holders.get(holder, {})
        if thing in things:
            del things[thing]
            self._size -= 1
            if not things:
                del self._holders[holder]

    def of(self, holder: str) -> Collection[T]:
        """Return what a holder has, the oldest first."""
        return self._holders.get(holder, {}).keys()

    def largest_first(self) -> list[Collection[T]]:
        """Return what each holder has; the one that has most comes first."""
        return sorted((t.keys() for t in self._holders.values()), key=len, reverse=True)

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


class FairLock:
    """A lock that lets each source in as often as others, and of one source each holder.

    It is for work that takes milliseconds of the node's one thread, such as putting all that is
    known of a mesh into words: a thousand sessions may ask for it at the same moment. Whoever has
    waited is let in when everything else that was due has run.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: OrderedDict[str, OrderedDict[Holder, deque[trio.Event]]] = OrderedDict()
        """Who waits, by source and holder; next is the first holder of the first source."""

    @asynccontextmanager
    async def turn(self, holder: Holder) -> AsyncIterator[None]:
        """Wait for the lock, and have it."""
        if self._is_taken:
            await self._wait(holder)
        else:
            self._is_taken = True
        try:
            # In the next round of the loop, not in this one.
            await trio.lowlevel.checkpoint()
            yield
        finally:
            self._pass_on()

    async def _wait(self, holder: Holder) -> None:
        mine = trio.Event()
        holders = self._waiting.setdefault(holder.source, OrderedDict())
        holders.setdefault(holder, deque()).append(mine)
        try:
            await mine.wait()
        except trio.Cancelled:
            if mine.is_set():  # it was just given the lock
                self._pass_on()
            else:
                self._remove(holder, mine)
            raise

    def _remove(self, holder: Holder, waiter: trio.Event) -> None:
        holders = self._waiting[holder.source]
        holders[holder].remove(waiter)
        if not holders[holder]:
            del holders[holder]
        if not holders:
            del self._waiting[holder.source]

    def _pass_on(self) -> None:
        if not self._waiting:
            self._is_taken = False
            return
        source, holders = self._waiting.popitem(last=False)
        holder, waiters = holders.popitem(last=False)
        waiters.popleft().set()
        # Both come again after all others.
        if waiters:
            holders[holder] = waiters
        if holders:
            self._waiting[source] = holders
