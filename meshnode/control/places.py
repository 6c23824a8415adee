"""Who may have how many sessions of a kind, and who gives way when there is no place left."""

import resource
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf

import trio

from meshnode.control.heldbytes import (
    LINES_IN_ALL,
    LINES_OF_ONE,
    READS_IN_ALL,
    READS_OF_ONE,
    HeldLine,
    Ledger,
    Replies,
)
from meshnode.control.registry import SessionKind
from meshnode.net.sockets import Origin
from meshnode.shares import Ways

MAX_SESSIONS = 2048
"""Sessions at a time of one kind (unix, tcp, mesh); each costs some tens of KiB. Counted by kind,
so that clients of the network cannot take the operator's own socket away."""

SHARE = 3 / 4
"""Part of these that one node, user or address may have. Each remote unit that a node runs for
another holds up to two of its sessions, so one that has work for many needs most of them; but what
is left must be enough for everybody else."""

KEPT = 1 / 16
"""Part of the places on a unix socket that only root and the node's own user may take: whoever must
look after a node gets in."""

SPARED = 1 / 16
"""Part of the places on the mesh that one branch of it leaves to the others: whoever is linked to
us can invent nodes behind itself, and have sessions in the name of each."""

DESCRIPTORS_SHARE = 3
"""One in so many of the process's file descriptors is for sessions of one kind of socket: those on
TCP may take theirs, and those on the unix socket theirs, and the links still have the rest."""

GIVE_WAY_AFTER = 30.0
"""Seconds after which a session that waits for a command gives way to a newer one of the same
holder. One that was just opened is about to be used; hundreds may be, when much work comes at
once."""

MAX_LEAVING = 64
"""Clients without a place that are told so at a time; more are closed without a word."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many sessions of one kind there may be."""

    most: int
    of_one: int
    """What one holder may have of them."""
    kept: int = 0
    """What only owners may have."""
    spared: int = 0
    """What the nodes that are reached over one link leave to all others."""

    @classmethod
    def of(cls, kind: SessionKind) -> "Bounds":
        """Return those of a kind in this process; sessions on the mesh need no descriptor."""
        most = MAX_SESSIONS
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if kind != "mesh" and limit != resource.RLIM_INFINITY:
            most = min(most, limit // DESCRIPTORS_SHARE)
        kept = max(1, int(most * KEPT)) if kind == "unix" else 0
        spared = int(most * SPARED) if kind == "mesh" else 0
        return cls(most, max(1, int(most * SHARE)), kept, spared)


class Place:
    """One session's place. The session says when it waits for a command, and for how long it may.

    It runs within ``scope``, which is cancelled only while it waits.
    """

    __slots__ = ("deadline", "gave_way", "is_over", "is_told", "origin", "scope", "waiting_since")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.scope = trio.CancelScope()
        self.gave_way = False
        """Whether the place is another session's by now."""
        self.is_told = True
        """Whether the client is told so."""
        self.is_over = False
        """Whether the session has waited for too long."""
        self.waiting_since = inf
        """When the session began to wait for a command; while it runs one, never."""
        self.deadline = inf
        """Until when it may wait."""

    def waits(self, seconds: float) -> None:
        """Note that the session waits for a command, and for how long it may."""
        self.waiting_since = trio.current_time()
        self.deadline = self.waiting_since + seconds

    def waits_on(self, seconds: float) -> None:
        """Note for how long from now on a session that waits already may do so."""
        self.deadline = trio.current_time() + seconds

    def works(self) -> None:
        """Note that the session has got a command."""
        self.waiting_since = self.deadline = inf

    def give_way(self, *, is_told: bool) -> None:
        """End a session that waits: the place is another's."""
        self.gave_way = True
        self.is_told = is_told
        self.scope.cancel()

    def end(self) -> None:
        """End a session that has waited for too long."""
        self.is_over = True
        self.scope.cancel()


class Places:
    """The places of one kind of session.

    One that waits for a command is of less use than one that is about to bring one. So where there
    is no place, the one that has waited longest gives way: of the same holder if that has its
    share, otherwise of the largest one.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._holders: dict[str, dict[Place, None]] = {}
        """The places of each holder, in the order in which they were taken."""
        self._ways = Ways(bounds.most, bounds.spared)
        self._taken = 0
        self.leaving = 0
        """Sessions that gave way, or were refused, and are still being told."""

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken

    def take(self, origin: Origin) -> Place | None:
        """Return a place for a new session, or None if nobody can give way to it."""
        if not self._make_room(origin):
            return None
        place = Place(origin)
        self._holders.setdefault(origin.name, {})[place] = None
        self._ways.take(origin.way)
        self._taken += 1
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, when its session is closed."""
        if place.gave_way:
            self.leaving -= 1
        else:
            self._remove(place)

    def end_idle(self) -> None:
        """End the sessions that have waited for too long."""
        now = trio.current_time()
        for holder in self._holders.values():
            for place in holder:
                if place.deadline <= now:
                    place.end()

    def _remove(self, place: Place) -> None:
        holder = self._holders[place.origin.name]
        del holder[place]
        if not holder:
            del self._holders[place.origin.name]
        self._ways.give_back(place.origin.way)
        self._taken -= 1

    def _make_room(self, origin: Origin) -> bool:
        own = self._holders.get(origin.name, {})
        now = trio.current_time()
        if len(own) >= self._bounds.of_one:
            victim = _longest_waiting(own)
            if victim is None or now - victim.waiting_since < GIVE_WAY_AFTER:
                return False
        elif self._ways.is_full(origin.way, len(own)):
            branch = origin.way.branch
            victims = self._victims(origin, len(own))
            victim = next((v for v in victims if v.origin.way.branch == branch), None)
            if victim is None:
                return False
        else:
            most = self._bounds.most - (0 if origin.is_owner else self._bounds.kept)
            if self._taken < most:
                return True
            victim = next(self._victims(origin, len(own)), None)
            if victim is None:
                return False
        self._remove(victim)
        self.leaving += 1
        victim.give_way(is_told=self.leaving <= MAX_LEAVING)
        return True

    def _victims(self, newcomer: Origin, own: int) -> Iterator[Place]:
        """Return who could give way to a session of another holder, of the largest one first."""
        for holder in sorted(self._holders.values(), key=len, reverse=True):
            victim = _longest_waiting(holder)
            if victim is None or victim.origin.name == newcomer.name:
                continue
            # Whoever looks after the node is not held up by its users, and comes before them.
            if newcomer.is_owner or (len(holder) > own and not victim.origin.is_owner):
                yield victim


def _longest_waiting(places: Iterable[Place]) -> Place | None:
    longest = min(places, key=lambda place: place.waiting_since, default=None)
    return None if longest is None or longest.waiting_since == inf else longest


# --- Turns at what takes the node's time: one at a time, and each client's origin as often as
# others
#
# All that a node knows of its mesh, or of its units, takes milliseconds to put into words, and
# nothing else happens meanwhile. A thousand sessions may ask for it at the same moment.


class FairLock:
    """Whoever waits is let in when all else that was due has had its time."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: OrderedDict[str, OrderedDict[Origin, deque[trio.Event]]] = OrderedDict()
        """Who waits, by origins and their sources; the next one is of the first origin of the first
        source. A peer can invent nodes behind itself, and these are origins of one source."""

    @asynccontextmanager
    async def turn(self, origin: Origin) -> AsyncIterator[None]:
        """Wait for a turn, and have it."""
        if self._is_taken:
            await self._wait(origin)
        else:
            self._is_taken = True
        try:
            # In the next round of the loop, not in this one.
            await trio.lowlevel.checkpoint()
            yield
        finally:
            self._pass_on()

    async def _wait(self, origin: Origin) -> None:
        mine = trio.Event()
        origins = self._waiting.setdefault(origin.source, OrderedDict())
        origins.setdefault(origin, deque()).append(mine)
        try:
            await mine.wait()
        except trio.Cancelled:
            if mine.is_set():  # it was just given the turn
                self._pass_on()
            else:
                self._remove(origin, mine)
            raise

    def _remove(self, origin: Origin, waiter: trio.Event) -> None:
        origins = self._waiting[origin.source]
        origins[origin].remove(waiter)
        if not origins[origin]:
            del origins[origin]
        if not origins:
            del self._waiting[origin.source]

    def _pass_on(self) -> None:
        if not self._waiting:
            self._is_taken = False
            return
        source, origins = self._waiting.popitem(last=False)
        origin, waiters = origins.popitem(last=False)
        waiters.popleft().set()
        # Again, after all others.
        if waiters:
            origins[origin] = waiters
        if origins:
            self._waiting[source] = origins


# --- What one session may take of what all sessions share

pass  # SELFIMPORT
pass  # SELFIMPORT


@dataclass(frozen=True, slots=True)
class Holdings:
    """What all sessions of a node keep for their clients, and take turns at."""

    lines: Ledger = field(default_factory=lambda: Ledger(LINES_OF_ONE, LINES_IN_ALL))
    replies: Replies = field(default_factory=Replies)
    reads: Ledger = field(default_factory=lambda: Ledger(READS_OF_ONE, READS_IN_ALL))
    turns: FairLock = field(default_factory=FairLock)


@dataclass(frozen=True, slots=True)
class Allowance:
    """A session's place, and its part in what is kept."""

    place: Place
    line: HeldLine
    replies: Replies
    reads: Ledger
    turns: FairLock

    @classmethod
    def of(cls, place: Place, holdings: Holdings) -> "Allowance":
        """Return that of the session at a place."""
        line = HeldLine(holdings.lines, place.origin)
        return cls(place, line, holdings.replies, holdings.reads, holdings.turns)

    @classmethod
    def unshared(cls, name: str) -> "Allowance":
        """Return that of a session beside which there are no others."""
        return cls.of(Place(Origin(name)), Holdings())
