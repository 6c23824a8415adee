"""How many links others may open here, and who gives way when there are too many."""

import resource
from collections.abc import Callable

from meshnode.shares import Held

MAX_OPENING = 512
"""Accepted links that may be in their opening at once. An honest one is through in a few round
trips; one that says nothing holds a descriptor for seconds."""

MAX_LINKS = 2048
"""Accepted links that may be up at once: twice as many as any mesh that was measured has nodes.
Each takes some tens of KiB, a descriptor, and a place in all that this node says of itself."""

KEPT = 8
"""One in so many places is only for those whose link here has lasted once: after a cut of the
network they all come at the same time, and perhaps in the middle of a flood."""

OPENING_DESCRIPTORS = 8
"""One in so many of the process's descriptors may be taken by links that are opening."""

LINK_DESCRIPTORS = 3
"""One in so many of them may be taken by links that are up."""

REMEMBERED = 1024
"""Addresses of which it is remembered that a link from there has lasted."""


class LinkPlace:
    """The place of one accepted link. ``holder`` is the network address that it came from."""

    __slots__ = ("_give_way", "holder")

    def __init__(self, holder: str, give_way: Callable[[str], None]) -> None:
        self.holder = holder
        self._give_way = give_way

    def give_way(self, reason: str) -> None:
        """End the link; its place is another's by now."""
        self._give_way(reason)


class LinkPlaces:
    """The places of all links that this node's listeners have accepted.

    A newcomer always gets a place to open a link in: if there is none, the oldest opening of the
    largest holder gives way, which an honest one has left long ago. Of the links that are up, the
    newest of the largest holder gives way, so that none which has lasted falls to a flood.
    """

    def __init__(self) -> None:
        self._opening = Held[LinkPlace]("oldest")
        self._up = Held[LinkPlace]("newest")
        self._lasted: dict[str, None] = {}
        """Holders of links that have lasted, those of the last one at the end."""

    @property
    def opening(self) -> int:
        """How many links are in their opening."""
        return len(self._opening)

    @property
    def up(self) -> int:
        """How many links are up."""
        return len(self._up)

    def take(self, holder: str, give_way: Callable[[str], None]) -> LinkPlace:
        """Return a place for a link that begins; ``give_way`` is what ends the link."""
        place = LinkPlace(holder, give_way)
        self._opening.add(holder, place)
        most = _most(MAX_OPENING, OPENING_DESCRIPTORS)
        self._keep_within(self._opening, most, f"{most} handshakes already in progress")
        return place

    def established(self, place: LinkPlace) -> None:
        """Note that a link has come up."""
        self._opening.discard(place.holder, place)
        self._up.add(place.holder, place)
        most = _most(MAX_LINKS, LINK_DESCRIPTORS)
        self._keep_within(self._up, most, f"{most} links are up already")

    def leave(self, place: LinkPlace, *, lasted: bool) -> None:
        """Give a place back at the end of its link, if it is not another's by then."""
        self._opening.discard(place.holder, place)
        self._up.discard(place.holder, place)
        if lasted:
            self._lasted.pop(place.holder, None)
            self._lasted[place.holder] = None
            if len(self._lasted) > REMEMBERED:
                del self._lasted[next(iter(self._lasted))]

    def _keep_within(self, pool: Held[LinkPlace], most: int, reason: str) -> None:
        """Have places given up until all, and those of strangers, are no more than may be."""
        strangers = most - most // KEPT
        if len(pool) <= strangers:
            return
        if pool.count_without(self._lasted) > strangers:
            victim = pool.take_away(self._lasted)
        elif len(pool) > most:
            victim = pool.take_away()
        else:
            return
        victim.give_way(reason)


def _most(bound: int, share: int) -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return bound
    return max(1, min(bound, limit // share))
