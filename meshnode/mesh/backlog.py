"""What waits here for one node to take it, on all its connections.

A node that asks for much and reads nothing, or acknowledges nothing, makes its writers wait. What
each may have written by then is bounded for the node, and not for each of its connections.
"""

UNSENT_MOST = 1024 * 1024
"""Bytes of a stream that may wait to be sent before its writer does."""

UNSENT_LEAST = 16 * 1024
"""Bytes of any stream that may wait, however many there are: a large datagram."""

UNSENT_OF_NODE = 4 * UNSENT_MOST
"""Bytes of all streams with a node that may wait: from the fifth on they share this."""

IN_FLIGHT_OF_NODE = 24 * 1024 * 1024
"""Bytes in flight on all connections with a node before writers wait for acknowledgements: a dozen
connections at full speed."""

IN_FLIGHT_LEAST = 64 * 1024
"""Bytes in flight on each of its connections for which they do not wait."""


class Backlog:
    """What one node has been sent, or is to be."""

    def __init__(self) -> None:
        self.streams = 0
        """Streams with the node."""
        self.in_flight = 0
        """Bytes sent to the node that it has not acknowledged."""

    @property
    def unsent_most(self) -> int:
        """Bytes of each stream that may wait to be sent."""
        return min(UNSENT_MOST, max(UNSENT_LEAST, UNSENT_OF_NODE // max(1, self.streams)))

    def room(self, unsent: int, in_flight: int) -> int:
        """Return how many bytes a stream may write, that has ``unsent`` ones of its own.

        ``in_flight`` are those of its connection.
        """
        if self.in_flight >= IN_FLIGHT_OF_NODE and unsent + in_flight >= IN_FLIGHT_LEAST:
            return 0
        return max(0, self.unsent_most - unsent)
