"""The units of a batch's members that are in flight: who they are, and when each has ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meshnode.work.units.unit import Unit


class Flights:
    """Looks at units after each of their changes; ``ended`` is called once for each that ends.

    While a member is being started, how its unit stands is not how the member ends: a start that
    the machine has no room for is made again, with another unit.
    """

    def __init__(self, ended: Callable[[int, Unit], None]) -> None:
        self._ended = ended
        self._flying: dict[int, tuple[Unit, Callable[[], None]]] = {}
        self._starting: set[int] = set()
        self._asked: set[int] = set()
        """Members whose units are asked to end."""

    def follow(self, position: int, unit: Unit) -> None:
        """Have an eye on the unit of a member."""

        def look() -> None:
            if unit.is_final and position not in self._starting and position in self._flying:
                self.forget(position)
                self._ended(position, unit)

        self._flying[position] = unit, look
        unit.add_listener(look)
        look()

    def forget(self, position: int) -> None:
        """Look no more at the unit of a member."""
        unit, look = self._flying.pop(position)
        unit.remove_listener(look)

    @contextmanager
    def starting(self, position: int) -> Iterator[None]:
        """Tell of no end of a member while the context lasts; one that has come is told after."""
        self._starting.add(position)
        try:
            yield
        finally:
            self._starting.discard(position)
            if position in self._flying:
                self._flying[position][1]()

    def to_ask(self) -> Iterator[Unit]:
        """Yield the units that are to be asked to end, each once."""
        for position, (unit, _) in tuple(self._flying.items()):
            if position not in self._asked:
                self._asked.add(position)
                yield unit

    def ask_anew(self) -> None:
        """Have all be asked again that are to end from now on."""
        self._asked.clear()
