"""Who may have how many control sessions, and which session ends when there are too many."""

import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf

import trio

from meshnode.control.registry import SessionKind
from meshnode.shares import Held, Holder, Limit, Shares

MAX_SESSIONS = 2048
"""Sessions at a time of one kind (unix, tcp, mesh); each costs some tens of KiB. Counted by kind,
so that clients of the network cannot take the operator's own socket away."""

SHARE = 3 / 4
"""Part of these that one node, user or address may have. Each remote unit that a node runs for
another holds up to two of its sessions, so one that has work for many needs most of them."""

KEPT = 1 / 16
"""Part of the places on a unix socket that only root and the node's own user may take."""

SPARED = 1 / 16
"""Part of the places on the mesh that each branch of it leaves to the others."""

DESCRIPTORS_SHARE = 3
"""The process's descriptors, divided by this, are for sessions on TCP; as many are for sessions on
the unix socket, and the links have the rest."""

GIVE_WAY_AFTER = 30.0
"""Seconds after which a session that waits for a command gives way to a newer one of the same
holder. One that was just opened is about to be used."""

MAX_LEAVING = 64
"""Clients without a place that are told why at a time; more are only closed."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many sessions of one kind there may be."""

    most: int
    of_one: int
    """What one holder may have of them."""
    kept: int = 0
    """What only owners may have."""
    spared: int = 0
    """What each branch leaves to all others."""
    brief: int = 0
    """Sessions beyond all of these that may be short ones."""

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

    __slots__ = (
        "deadline",
        "gave_way",
        "holder",
        "is_brief",
        "is_over",
        "is_told",
        "scope",
        "waiting_since",
    )

    def __init__(self, holder: Holder, *, is_brief: bool = False) -> None:
        self.holder = holder
        self.is_brief = is_brief
        """Whether it is one beyond the bounds; its session sees to it that it is soon over."""
        self.scope = trio.CancelScope()
        self.gave_way = False
        """Whether the place is another session's by now."""
        self.is_told = True
        """Whether the client is told so."""
        self.is_over = False
        """Whether the session has waited for too long."""
        self.waiting_since = inf
        """When the session began to wait for a command; ``inf`` while it runs one."""
        self.deadline = inf
        """Until when it may wait."""

    def waits(self, seconds: float) -> None:
        """Note that the session waits for a command, and for how long it may."""
        self.waiting_since = trio.current_time()
        self.deadline = self.waiting_since + seconds

    def extend_wait(self, seconds: float) -> None:
        """Set anew for how long a session that waits already may go on waiting."""
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

    A session that waits for a command is of less use than one that is about to bring one. So where
    there is no place, the session that has waited longest gives way: one of the same holder, or of
    the same branch, if that has its share; otherwise one of the largest holder.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._held = Held[Place]("oldest")
        self._shares = Shares(bounds.most, bounds.spared, of_one=bounds.of_one)
        self._brief = Shares(bounds.brief, 0)
        self.leaving = 0
        """Sessions that gave way, or were refused, and are still being told."""
        self.opened = self.refused = 0
        """Sessions that got a place since the start, and that got none."""

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._shares.used + self._brief.used

    def take(self, holder: Holder) -> Place | None:
        """Return a place for a new session, or None if nobody can give way to it."""
        if not self._make_room(holder):
            if self._brief.take(holder):
                self.opened += 1
                return Place(holder, is_brief=True)
            self.refused += 1
            return None
        self.opened += 1
        place = Place(holder)
        self._held.add(holder.name, place)
        self._shares.add(holder)
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, when its session is closed."""
        if place.is_brief:
            self._brief.give_back(place.holder)
        elif place.gave_way:
            self.leaving -= 1
        else:
            self._remove(place)

    def end_idle(self) -> None:
        """End the sessions that have waited for too long."""
        now = trio.current_time()
        for place in self._held:
            if place.deadline <= now:
                place.end()

    def _remove(self, place: Place) -> None:
        self._held.discard(place.holder.name, place)
        self._shares.give_back(place.holder)

    def _make_room(self, holder: Holder) -> bool:
        victim: Place | None
        match self._shares.limit(holder):
            case Limit.HOLDER:
                victim = _longest_waiting(self._held.of(holder.name))
                if victim and trio.current_time() - victim.waiting_since < GIVE_WAY_AFTER:
                    return False
            case Limit.BRANCH:
                victims = self._victims(holder)
                victim = next((v for v in victims if v.holder.branch == holder.branch), None)
            case limit:
                kept = 0 if holder.is_owner else self._bounds.kept
                if limit is None and self._shares.used < self._bounds.most - kept:
                    return True
                victim = next(self._victims(holder), None)
        if victim is None:
            return False
        self._remove(victim)
        self.leaving += 1
        victim.give_way(is_told=self.leaving <= MAX_LEAVING)
        return True

    def _victims(self, newcomer: Holder) -> Iterator[Place]:
        """Return who could give way to a session of another holder, of the largest one first."""
        own = self._shares.held(newcomer)
        for places in self._held.largest_first():
            victim = _longest_waiting(places)
            if victim is None or victim.holder.name == newcomer.name:
                continue
            # Owners do not wait for users, and never give way to them.
            if newcomer.is_owner or (len(places) > own and not victim.holder.is_owner):
                yield victim


def _longest_waiting(places: Iterable[Place]) -> Place | None:
    longest = min(places, key=lambda place: place.waiting_since, default=None)
    return None if longest is None or longest.waiting_since == inf else longest
