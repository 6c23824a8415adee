"""Flow control: what peers may send ahead of our readers, and what our writers ahead of peers.

*Inbound.* What a peer sends ahead of a reader is kept here until it is read, so it has a budget in
bytes, which nodes and branches share (:class:`CreditPool`). A stream begins with a small window. It
gets a wide one with the first bytes that are read of it, as long as there is plenty left for its
node. Otherwise it keeps the small one, which costs speed on long paths only. So readers that stall
never stop those that read.

*Outbound.* A node that asks for much and reads nothing, or acknowledges nothing, makes its writers
wait. What they may have written by then is bounded for the node, not for each of its connections,
and for each branch, since a peer can invent nodes (:class:`SendBudget`).
"""

from typing import Self

from meshnode.shares import Holder, Shares

WIDE_WINDOW = 2 * 1024 * 1024
"""Bytes that may be sent ahead on a stream that is read: as many as are in flight at most."""

FIRST_WINDOW = 216 * 1024
"""Bytes that may be sent ahead on a stream before any are read: as many as are in flight at most
before the path is known, so that no stream waits a round trip for its second window."""

LEAST_WINDOW = 16 * 1024
"""Bytes that may be sent ahead on any stream, however many its node has."""

CREDIT_STEP = 4
"""Credit is granted anew when a quarter of it is used up. With each read it would cost a third more
processor time for each MiB; when half is used up, 7 % less, but a sender on a long path would wait
for it: a window is no larger than what may be in flight."""

MAX_BYTES = 96 * 1024 * 1024
"""Bytes that may be sent ahead on all streams; the least windows are not counted."""

MAX_PEER_STREAMS = 112
"""Streams that a peer may open on a connection. Dialers open a hundred, but a listener may not have
heard the last of some that are over for them."""

MAX_OPEN = 8192
"""Streams that peers may open on connections that carry many, some 2 KiB each. Half of them, which
one node may have, is twice the sessions that the control service has."""


BYTES_SPARED = 4
STREAMS_SPARED = 16
"""Each branch leaves MAX_BYTES and MAX_OPEN, divided by these, to others."""

NEAR_BYTES = 8 * FIRST_WINDOW
"""Bytes that a node which is linked to us may have of what its branch leaves to others."""


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
"""The same for all nodes of a branch: what four, or three, of the busiest have."""

IN_FLIGHT_LEAST = 64 * 1024
"""Bytes in flight on each of its connections for which they do not wait."""


class CreditPool:
    """What all connections of a node may promise to their peers."""

    def __init__(self) -> None:
        self.bytes = Shares(MAX_BYTES, MAX_BYTES // BYTES_SPARED, near=NEAR_BYTES)
        self.streams = Shares(MAX_OPEN, MAX_OPEN // STREAMS_SPARED, near=MAX_PEER_STREAMS)


class Credit:
    """What one connection promises to its peer, from its handshake to its end."""

    __slots__ = (
        "_consumed",
        "_holder",
        "_pool",
        "_reserved",
        "_reserved_streams",
        "_wide",
        "streams",
        "window",
    )

    def __init__(self, pool: CreditPool, holder: Holder) -> None:
        self._pool = pool
        self._holder = holder
        self._reserved = 0
        self._reserved_streams = 0
        self._consumed: dict[int, int] = {}
        """Bytes of each stream that were read, of those that some were read of."""
        self._wide: set[int] = set()
        """The streams of these that have the wide window."""
        self.streams = 0
        """Streams that the peer may have open."""
        self.window = 0
        """Bytes that may be sent ahead on a stream of which nothing was read."""

    def promise(self, streams: int) -> None:
        """Make the promises of a connection that carries up to that many streams."""
        holder, pool = self._holder, self._pool
        if streams > 1:
            self._reserved_streams = min(streams, pool.streams.left(holder))
            pool.streams.take(holder, self._reserved_streams)
        self.streams = max(1, self._reserved_streams)
        # Half of what is left: the rest is for wide windows, and for other connections.
        self._reserved = min(self.streams * FIRST_WINDOW, pool.bytes.left(holder) // 2)
        pool.bytes.take(holder, self._reserved)
        self.window = max(LEAST_WINDOW, self._reserved // self.streams)

    def consumed(self, stream_id: int, count: int, limit: int) -> int | None:
        """Note that ``count`` bytes of a stream were read, of which the peer may send ``limit``.

        Returns:
            The new limit, if the peer is to be told one.
        """
        consumed = self._consumed.get(stream_id, 0) + count
        self._consumed[stream_id] = consumed
        window = self.window_of(stream_id)
        if limit - consumed >= window - window // CREDIT_STEP:
            return None
        return consumed + self.widen(stream_id)

    def window_of(self, stream_id: int) -> int:
        """Return the window of a stream."""
        return WIDE_WINDOW if stream_id in self._wide else self.window

    def widen(self, stream_id: int) -> int:
        """Return the window of a stream that is read, which is wide if there is plenty left."""
        if stream_id in self._wide:
            return WIDE_WINDOW
        more = WIDE_WINDOW - self.window
        if self._pool.bytes.left(self._holder) < 2 * more:
            return self.window
        self._pool.bytes.take(self._holder, more)
        self._wide.add(stream_id)
        return WIDE_WINDOW

    def forget(self, stream_id: int) -> None:
        """Take note of the end of a stream."""
        self._consumed.pop(stream_id, None)
        if stream_id in self._wide:
            self._wide.discard(stream_id)
            self._pool.bytes.give_back(self._holder, WIDE_WINDOW - self.window)

    def close(self) -> None:
        """Take note of the end of the connection."""
        for stream_id in list(self._wide):
            self.forget(stream_id)
        self._pool.bytes.give_back(self._holder, self._reserved)
        self._pool.streams.give_back(self._holder, self._reserved_streams)
        self._reserved = self._reserved_streams = 0


class SendBudget:
    """What waits to be sent to one node or to one branch, or is sent and not acknowledged."""

    def __init__(self, unsent: int, in_flight: int, branch: "SendBudget | None") -> None:
        self._unsent = unsent
        self._in_flight_most = in_flight
        self._branch = branch
        self.streams = 0
        """Streams with the node."""
        self.in_flight = 0
        """Bytes sent to the node that it has not acknowledged."""

    @classmethod
    def of_node(cls, branch: "SendBudget | None" = None) -> Self:
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
        share, branch = self._unsent // (self.streams or 1), self._branch
        if branch is not None:
            share = min(share, branch._unsent // (branch.streams or 1))
        return min(UNSENT_MOST, max(UNSENT_LEAST, share))

    def _is_behind(self) -> bool:
        branch = self._branch
        return self.in_flight >= self._in_flight_most or (
            branch is not None and branch._is_behind()
        )

    def room(self, unsent: int, in_flight: int) -> int:
        """Return how many bytes a stream may write, that has ``unsent`` ones of its own.

        ``in_flight`` are those of its connection.
        """
        if unsent + in_flight >= IN_FLIGHT_LEAST and self._is_behind():
            return 0
        return max(0, self.unsent_most - unsent)
