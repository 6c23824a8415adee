"""A number of places, or of bytes, for all, of which nobody can take everybody's part.

Fixed parts would be too small for the one node that needs most of them, or no bound for a few that
want all. So a holder may have as many as it leaves free: one alone has half of all, and whoever
comes later finds half of the rest. Some are kept for those who have next to none, so that even
many who take what they can leave something.
"""

from collections import Counter


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
