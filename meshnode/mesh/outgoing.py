"""What waits to be sent on all links of a node together.

Each link has bounds of its own (``sendqueue.py``, ``telling.py``). But there may be thousands of
links, and whoever has many of them may read none. So beyond a total each link has its part only,
and what waits does not hold on to more memory than its own bytes.
"""

from collections.abc import Callable

from meshnode.mesh.links.base import Message

MAX_WAITING = 16 * 1024 * 1024
"""Bytes that may wait on all links until each has no more than its part of them: four links that
are as far behind as a link may be. With those parts it is twice as much at most, but for the least
that each link has."""

LEAST_WAITING = 16 * 1024
"""Bytes that may wait on a link however many there are: as much as a link's first send carries."""

MAX_LENT = 24
"""Messages that may wait in the space that they were read into, which each of them keeps: half a
megabyte at most. That is for links that are a moment behind; what waits beside them is copied."""


LINK_BYTES = 64 * 1024
"""About what a link takes, beside what waits on it, until it has ended."""


class Outgoing:
    """The budget of one node. ``freed`` is told about how many bytes each ended link has freed."""

    def __init__(self, freed: Callable[[int], None] = lambda size: None) -> None:
        self.waiting = 0
        """Bytes that wait on all links, or are being sent."""
        self._freed = freed
        self._links = 0
        self._lent = 0

    def link_begins(self) -> None:
        """Count a link among those that share the budget."""
        self._links += 1

    def link_ends(self, waited: int) -> None:
        """Count it no more; so many bytes waited on it in the end."""
        self._links -= 1
        self._freed(LINK_BYTES + waited)

    def part(self, most: int) -> int:
        """Return how many bytes may wait on a link that may have ``most`` by itself."""
        if self.waiting < MAX_WAITING:
            return most
        return min(most, max(LEAST_WAITING, MAX_WAITING // max(1, self._links)))

    def may_lend(self, count: int = 1) -> bool:
        """Whether so many more messages may wait where they were read; they are counted then."""
        if self._lent + count > MAX_LENT:
            return False
        self._lent += count
        return True

    def keep(self, message: Message) -> Message:
        """Return a message as it may wait; :meth:`let_go` must be told of it in the end."""
        if type(message) is memoryview and not self.may_lend():
            return bytes(message)
        return message

    def let_go(self, messages: int, size: int) -> None:
        """Note that ``messages`` of those that were lent, and ``size`` bytes, wait no more."""
        self._lent -= messages
        self.waiting -= size
