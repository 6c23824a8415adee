"""What there is too little of, by who holds it: whoever has most gives way first."""

from collections.abc import Container, Hashable
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
