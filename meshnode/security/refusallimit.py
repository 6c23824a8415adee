"""How many refusals of one client have a line of their own in the audit log.

Whoever reaches a port may ask for what is refused as often as the network lets them, and must not
fill the disk by it: where the log is required, that would stop all work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from meshnode.security.identity import Identity, MeshClient, TcpClient, TokenClient, UnixClient

LINES_A_MINUTE = 60
"""Refusals of one client that are written within a minute; the others are counted."""

MINUTE = 60.0
"""Seconds in which refusals are counted together."""

MOST_CLIENTS = 100
"""Clients that are counted apart at a time; those beyond count as one. With 60 lines each, all of
them together write 100 lines a second."""


@dataclass(slots=True, eq=False)
class _Count:
    """Refusals of one client since ``began``."""

    began: float
    last: Identity | None
    lines: int = 0
    left_out: int = 0


class RefusalLimit:
    """Counts refusals by client: the same user, node or address, whatever its connection."""

    def __init__(self) -> None:
        self._counts: dict[object, _Count] = {}

    def admits(self, by: Identity | None, now: float) -> bool:
        """Whether a refusal is written. Call :meth:`over` before, with the same time."""
        key = _key(by)
        if key not in self._counts and len(self._counts) >= MOST_CLIENTS:
            key = None
        count = self._counts.setdefault(key, _Count(now, by))
        count.last = by
        if count.lines < LINES_A_MINUTE:
            count.lines += 1
            return True
        count.left_out += 1
        return False

    def over(
        self, now: float, *, all_of_them: bool = False
    ) -> Iterator[tuple[Identity | None, int]]:
        """Return who had how many left out in each minute that is over, and forget it.

        ``now`` may be earlier than before, where the clock was set.
        """
        if not self._counts:
            return
        ended = [
            (key, count)
            for key, count in self._counts.items()
            if all_of_them or not count.began <= now < count.began + MINUTE
        ]
        for key, count in ended:
            del self._counts[key]
            if count.left_out:
                yield count.last, count.left_out


def _key(by: Identity | None) -> object:
    """Return what a client keeps when it comes again."""
    match by:
        case UnixClient():
            return "unix", by.uid
        case MeshClient():
            return "mesh", by.node
        case TokenClient():
            return "token", by.name
        case TcpClient():
            # Another connection comes from another port.
            return "tcp", by.address.rpartition(":")[0]
    return None
