"""What sessions keep in memory for their clients: lines that are not complete, replies not taken.

Both have a budget in bytes (:class:`meshnode.shares.Budget`), which the clients share.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from meshnode.shares import Budget, FairLock, Holder

FREE = 4096
"""Bytes of each session that are not counted: an ordinary command or reply, and about what a
session costs anyway."""

LINES_OF_ONE = 8 * 1024 * 1024
"""Bytes of incomplete command lines of one holder: eight of the longest."""

LINES_IN_ALL = 24 * 1024 * 1024
"""Bytes of incomplete command lines of all holders."""

REPLIES_OF_ONE = 16 * 1024 * 1024
"""Bytes of replies that wait for one holder's clients to read: some dozens of the status of a
thousand nodes."""

REPLIES_IN_ALL = 32 * 1024 * 1024
"""Bytes of replies that wait in all."""

READS_OF_ONE = 16 * 1024 * 1024
"""Bytes that were read of files for one holder's clients and wait for them. Beyond it less is read
at a time: readers of results may be slow, and none is given up for that."""

READS_IN_ALL = 32 * 1024 * 1024
"""Bytes of files that wait in all."""

BODIES_OF_ONE = 64 * 1024 * 1024
"""Bytes of requests over HTTP that are kept whole for one holder: four of the largest."""

BODIES_IN_ALL = 128 * 1024 * 1024
"""Bytes of such requests of all holders."""

STALLED_AFTER = 10.0
"""Seconds in which a client must take some of its reply when others wait for that room. A client
that reads takes milliseconds."""


class HeldLine:
    """The bytes that one session keeps: of no complete line yet, or of the body of a request."""

    __slots__ = ("_budget", "_counted", "_holder")

    def __init__(self, budget: Budget, holder: Holder) -> None:
        self._budget = budget
        self._holder = holder
        self._counted = 0

    def count(self, size: int) -> bool:
        """Count the bytes that there are now; False if they grew beyond the holder's share."""
        counted = max(0, size - FREE)
        if counted == self._counted:
            return True
        grows = counted > self._counted
        self._budget.change(self._holder, counted - self._counted)
        self._counted = counted
        return not grows or self._budget.has_room(self._holder)


class _Reply:
    """A reply, or a part of one, that its client has not taken."""

    __slots__ = ("holder", "scope", "since")

    def __init__(self, holder: Holder, scope: trio.CancelScope) -> None:
        self.holder = holder
        self.scope = scope
        self.since = trio.current_time()


class Replies:
    """The replies of all sessions that wait to be read.

    A holder that has used up its share waits with its next command until some of its replies are
    read; a client that reads nothing meanwhile is given up. So slow clients of a holder delay its
    other clients, and nobody else's.
    """

    def __init__(self) -> None:
        self._budget = Budget(REPLIES_OF_ONE, REPLIES_IN_ALL)
        self._waiting: dict[_Reply, None] = {}
        self._changed = trio.lowlevel.ParkingLot()

    @contextmanager
    def sending(self, holder: Holder, size: int) -> Iterator[_Reply]:
        """Count a reply for as long as it is being sent; its scope is cancelled to give it up."""
        with trio.CancelScope() as scope:
            reply = _Reply(holder, scope)
            self._waiting[reply] = None
            self._budget.change(holder, size)
            try:
                yield reply
            finally:
                del self._waiting[reply]
                self._budget.change(holder, -size)
                self._changed.unpark_all()

    def progress(self, reply: _Reply) -> None:
        """Note that the client has taken a part."""
        reply.since = trio.current_time()
        self._waiting[reply] = self._waiting.pop(reply)

    def has_room(self, holder: Holder) -> bool:
        """Whether a holder may have another reply."""
        return self._budget.has_room(holder)

    async def wait_room(self, holder: Holder) -> None:
        """Wait until a holder may have another reply; give up those whose clients read nothing."""
        while not self._budget.has_room(holder):
            others = self._budget.is_exceeded
            stalled = next(r for r in self._waiting if others or r.holder.name == holder.name)
            with trio.CancelScope(deadline=stalled.since + STALLED_AFTER) as waiting:
                await self._changed.park()
            if waiting.cancelled_caught and stalled.since + STALLED_AFTER <= trio.current_time():
                stalled.scope.cancel()
                await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class SessionBudgets:
    """What all sessions of a node share."""

    lines: Budget = field(default_factory=lambda: Budget(LINES_OF_ONE, LINES_IN_ALL))
    replies: Replies = field(default_factory=Replies)
    reads: Budget = field(default_factory=lambda: Budget(READS_OF_ONE, READS_IN_ALL))
    bodies: Budget = field(default_factory=lambda: Budget(BODIES_OF_ONE, BODIES_IN_ALL))
    lock: FairLock = field(default_factory=FairLock)
    """For commands that take more than a millisecond of the node's time."""
