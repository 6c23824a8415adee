"""What waits here for one node to take it, on all its connections.

A node that asks for much and reads nothing, or acknowledges nothing, makes its writers wait. What
each may have written by then is bounded for the node, and not for each of its connections; and for
all nodes that one link leads to, since whoever is linked to us can invent them.
"""

from typing import Self

UNSENT_MOST = 1024 * 1024
"""Bytes of a stream that may wait to be sent before its writer does."""

UNSENT_LEAST = 16 * 1024
"""Bytes of any stream that may wait, however many there are: a large datagram."""

UNSENT_OF_NODE = 4 * UNSENT_MOST
"""Bytes of all streams with a node that may wait: from the fifth on they share this."""

IN_FLIGHT_OF_NODE = 24 * 1024 * 1024
"""Bytes in flight on all connections with a node before writers wait for acknowledgements: a dozen
connections at full speed."""

UNSENT_OF_BRANCH = 4 * UNSENT_OF_NODE
IN_FLIGHT_OF_BRANCH = 3 * IN_FLIGHT_OF_NODE
"""The same for all nodes that are reached over links with one address: what four, or three, that
are as busy as can be have."""

IN_FLIGHT_LEAST = 64 * 1024
"""Bytes in flight on each of its connections for which they do not wait."""


class Backlog:
    """What one node, or all of a branch of the mesh, has been sent, or is to be."""

    def __init__(self, unsent: int, in_flight: int, branch: "Backlog | None") -> None:
        self._unsent = unsent
        self._in_flight_most = in_flight
        self._branch = branch
        self.streams = 0
        """Streams with the node."""
        self.in_flight = 0
        """Bytes sent to the node that it has not acknowledged."""

    @classmethod
    def of_node(cls, branch: "Backlog | None" = None) -> Self:
        """Return that of a node, of a branch if it is another than this one."""
        return cls(UNSENT_OF_NODE, IN_FLIGHT_OF_NODE, branch)

    @classmethod
    def of_branch(cls) -> Self:
        """Return that of a branch, beside those of its nodes."""
        return cls(UNSENT_OF_BRANCH, IN_FLIGHT_OF_BRANCH, None)

    def add_streams(self, count: int) -> None:
        """Count streams; below zero, that many are over."""
        self.streams += count
        if self._branch is not None:
            self._branch.add_streams(count)

    def add_in_flight(self, count: int) -> None:
        """Count bytes that were sent; below zero, that many are acknowledged or given up."""
        self.in_flight += count
        if self._branch is not None:
            self._branch.add_in_flight(count)

    @property
    def unsent_most(self) -> int:
        """Bytes of each stream that may wait to be sent."""
        return min(UNSENT_MOST, max(UNSENT_LEAST, self._share()))

    def _share(self) -> int:
        share = self._unsent // max(1, self.streams)
        return share if self._branch is None else min(share, self._branch._share())

    @property
    def _is_behind(self) -> bool:
        if self.in_flight >= self._in_flight_most:
            return True
        return self._branch is not None and self._branch._is_behind

    def room(self, unsent: int, in_flight: int) -> int:
        """Return how many bytes a stream may write, that has ``unsent`` ones of its own.

        ``in_flight`` are those of its connection.
        """
        if unsent + in_flight >= IN_FLIGHT_LEAST and self._is_behind:
            return 0
        return max(0, self.unsent_most - unsent)
