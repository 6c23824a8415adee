"""What sessions keep in memory for their clients: lines that are not complete, replies not taken.

Both have a budget in bytes, and each source of clients (a user, an address, or a link over which
nodes are reached) its share of it, which its holders (the user, the address, these nodes) share.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from meshnode.net.sockets import Origin

FREE = 4096
"""Bytes of each session that are not counted: an ordinary command or reply, and about what a
session costs anyway."""

LINES_OF_ONE = 8 * 1024 * 1024
"""Bytes of incomplete command lines of one holder: eight of the longest."""

LINES_IN_ALL = 24 * 1024 * 1024
"""Bytes of incomplete command lines of all. Beyond it each source has an equal share."""

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

STALLED_AFTER = 10.0
"""Seconds in which a client must take some of its reply when others wait for the room that it
takes. A client that reads at all takes milliseconds."""


class Ledger:
    """Who holds how many bytes."""

    def __init__(self, of_one: int, in_all: int) -> None:
        self._of_one = of_one
        self._in_all = in_all
        self._sources: dict[str, Counter[str]] = {}
        """What the holders of each source hold."""
        self._all = 0

    @property
    def all(self) -> int:
        """Bytes that are held."""
        return self._all

    def change(self, origin: Origin, size: int) -> None:
        """Add to (or, below zero, take from) what a holder holds."""
        if not size:
            return
        self._all += size
        holders = self._sources.setdefault(origin.source, Counter())
        holders[origin.name] += size
        if not holders[origin.name]:
            del holders[origin.name]
            if not holders:
                del self._sources[origin.source]

    def has_room(self, origin: Origin) -> bool:
        """Whether a holder has no more than its share."""
        holders = self._sources.get(origin.source, Counter())
        held = holders[origin.name]
        if held > self._of_one:
            return False
        if self._all <= self._in_all or origin.is_owner:
            return True
        # A peer can invent nodes behind itself, so their number takes nothing from other sources.
        share = self._in_all // max(1, len(self._sources))
        return held <= share // max(1, len(holders)) or holders.total() <= share

    def exceeds_all(self) -> bool:
        """Whether all together hold more than they may."""
        return self._all > self._in_all


class HeldLine:
    """The bytes of one session that are no complete line yet."""

    __slots__ = ("_counted", "_ledger", "_origin")

    def __init__(self, ledger: Ledger, origin: Origin) -> None:
        self._ledger = ledger
        self._origin = origin
        self._counted = 0

    def is_within(self, size: int) -> bool:
        """Note how many bytes there are now; whether that is within the holder's share."""
        counted = max(0, size - FREE)
        if counted == self._counted:
            return True
        grows = counted > self._counted
        self._ledger.change(self._origin, counted - self._counted)
        self._counted = counted
        return not grows or self._ledger.has_room(self._origin)

    def close(self) -> None:
        """Note that nothing is held any more."""
        self._ledger.change(self._origin, -self._counted)
        self._counted = 0


class _Reply:
    """A reply, or a part of one, that its client has not taken."""

    __slots__ = ("origin", "scope", "since")

    def __init__(self, origin: Origin, scope: trio.CancelScope) -> None:
        self.origin = origin
        self.scope = scope
        self.since = trio.current_time()


class Replies:
    """The replies of all sessions that wait to be read.

    Who has used up its share waits with its next command until some are read, and whoever reads
    nothing meanwhile is given up: a holder's slow clients hold up its others, and nobody else.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger or Ledger(REPLIES_OF_ONE, REPLIES_IN_ALL)
        self._waiting: dict[_Reply, None] = {}
        self._changed = trio.lowlevel.ParkingLot()

    @contextmanager
    def sending(self, origin: Origin, size: int) -> Iterator[_Reply]:
        """Count a reply for as long as it is being sent; its scope is cancelled to give it up."""
        with trio.CancelScope() as scope:
            reply = _Reply(origin, scope)
            self._waiting[reply] = None
            self._ledger.change(origin, size)
            try:
                yield reply
            finally:
                del self._waiting[reply]
                self._ledger.change(origin, -size)
                self._changed.unpark_all()

    def progress(self, reply: _Reply) -> None:
        """Note that the client has taken a part."""
        reply.since = trio.current_time()
        self._waiting[reply] = self._waiting.pop(reply)

    def has_room(self, origin: Origin) -> bool:
        """Whether a holder may have another reply."""
        return self._ledger.has_room(origin)

    async def wait_room(self, origin: Origin) -> None:
        """Wait until a holder may have another reply; give up those whose clients read nothing."""
        while not self._ledger.has_room(origin):
            others = self._ledger.exceeds_all()
            stalled = next(r for r in self._waiting if others or r.origin.name == origin.name)
            with trio.CancelScope(deadline=stalled.since + STALLED_AFTER) as waiting:
                await self._changed.park()
            if waiting.cancelled_caught and stalled.since + STALLED_AFTER <= trio.current_time():
                stalled.scope.cancel()
                await trio.lowlevel.checkpoint()
