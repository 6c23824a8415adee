"""How many links others may open to this node, and which one gives way when there are too many."""

import resource
from collections.abc import Callable

from meshnode.shares import Held

MAX_OPENING = 512
"""Accepted links that may be opening at once. An honest one takes a few round trips; a silent one
holds a descriptor for seconds."""

MAX_LINKS = 2048
"""Accepted links that may be up at once. Each takes some tens of KiB, a descriptor, and room in our
updates."""

KEPT = 8
"""One in so many places is only for addresses whose link has lasted once: after a network outage
they all come back at the same time, perhaps in the middle of a flood."""

OPENING_DESCRIPTORS = 8
"""One in so many of the process's descriptors is for links that are opening."""

LINK_DESCRIPTORS = 3
"""One in so many of them is for links that are up."""

REMEMBERED = 1024
"""Addresses remembered from which a link has lasted."""


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
    """The places of all links that this node's listeners accepted, by address (the holder).

    A new link always gets a place to open in: if none is free, the oldest opening link of the
    address with the most of them gives way; an honest one would be through long ago. Of links that
    are up, the newest of the address with the most of them gives way: a flood ends none that has
    lasted.
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
        """Take a place back if there are too many, of all or of addresses that are unknown."""
        for_unknown = most - most // KEPT
        if len(pool) <= for_unknown:
            return
        if pool.count_without(self._lasted) > for_unknown:
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
