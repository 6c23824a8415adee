"""How much routing one peer, and all peers at one address, may bring in a time.

A flood of the mesh comes over some link, or over many. Here is bounded what a node takes from each
peer and forwards to all others, far above what honest meshes of thousands of nodes say. ``now``
arguments are seconds of one clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from meshnode.protocol.rates import NamedBuckets, TokenBucket
from meshnode.protocol.routing import RoutingUpdate

MESSAGE = 500
"""Bytes that a message counts beyond its own: judging it costs as much as decoding those."""

NEW_NAME = 3000
"""Bytes that news of a node without a route count besides: a name to hash, a record, and routes to
compute, here and on all other nodes."""

READ_RATE = 512 * 1024
READ_BURST = 8 * 1024 * 1024
"""Bytes of updates and advertisements decoded of all peers at one address, a second and at once:
a few hundredths of a core. More is dropped undecoded. A node that joins a mesh of 1,000 nodes is
told two megabytes as these are counted."""

NEWS_RATE = 256 * 1024
NEWS_BURST = 12 * 1024 * 1024
"""Bytes of news taken and forwarded of the same, a second and at once. A node that joins a mesh of
1,000 nodes is told five megabytes as these are counted; of 5,000 nodes it hears the rest within a
minute, when it is repeated. A quiet mesh of 1,000 nodes sends 50 kilobytes a second, and 240 if
each node has hundreds of work types."""

KEPT_FOR_KNOWN = NEWS_BURST // 6
"""Bytes of the news burst that are kept for nodes with a route: a flood of invented names must not
silence them."""

PACE = 0.125
OTHERS_PACE = 1.0
AT_ONCE = 20.0
"""Seconds between two updates of one node, over the peer that leads to it and over other peers; and
how many seconds' worth may come at once. While its links come and go a node sends ten a second; the
newest waits. Updates forged in its name come over other peers, where they are rarer than its own
answers (eight a second at most, with claims)."""

ADVERT_PACE = 16 * 1024
ADVERTS_AT_ONCE = 512 * 1024
"""Bytes of advertisements of one node over one peer, a second and at once: a hundred services and
hundreds of work types every minute."""

WAITING_BYTES = 512 * 1024
"""Bytes of one peer's updates that may wait. More is dropped; the node repeats it."""


@dataclass(slots=True)
class _Waiting:
    """An update that came too soon after others of its node."""

    update: RoutingUpdate
    pace: float
    known: bool
    due: float
    """When it is to be looked at again."""

    @property
    def cost(self) -> int:
        return self.update.size + MESSAGE


class Allowance:
    """What peers at one address may have decoded, and taken as news."""

    __slots__ = ("news", "read")

    def __init__(self, now: float) -> None:
        self.read = TokenBucket(READ_RATE, READ_BURST, now)
        self.news = TokenBucket(NEWS_RATE, NEWS_BURST, now)

    def is_whole(self, now: float) -> bool:
        """Whether nothing of it is used, so that it need not be remembered."""
        return all(b.left(now) >= b.burst for b in (self.read, self.news))


class Allowances:
    """The allowance of each address; it outlives the address's links."""

    _LEAST = 256
    """Addresses from which on whole allowances are looked for."""

    def __init__(self) -> None:
        self._by_address: dict[str, Allowance] = {}
        self._sweep_at = self._LEAST

    def of(self, address: str, now: float) -> Allowance:
        """Return what peers at an address share; a peer without one has its own."""
        if not address:
            return Allowance(now)
        found = self._by_address.get(address)
        if found is None:
            if len(self._by_address) >= self._sweep_at:
                self._sweep(now)
            found = self._by_address[address] = Allowance(now)
        return found

    def _sweep(self, now: float) -> None:
        left = {a: w for a, w in self._by_address.items() if not w.is_whole(now)}
        self._by_address = left
        self._sweep_at = max(2 * len(left), self._LEAST)

    def __len__(self) -> int:
        return len(self._by_address)


class Intake:
    """What one peer may bring now, and which of its updates wait."""

    def __init__(self, allowance: Allowance) -> None:
        self._read, self._news = allowance.read, allowance.news
        self._updates = NamedBuckets(AT_ONCE)
        self._claims = NamedBuckets(AT_ONCE)
        self._adverts = NamedBuckets(ADVERTS_AT_ONCE / ADVERT_PACE)
        self._waiting: dict[str, _Waiting] = {}
        """The newest update of each node that waits, the first ones first."""
        self._waiting_bytes = 0
        self.dropped = 0
        """Updates dropped because too many wait."""

    def may_read(self, size: int, now: float) -> bool:
        """Whether a message of that size is to be decoded."""
        return self._read.take(now, size + MESSAGE)

    def may_claim(self, node: str, size: int, now: float, *, leads_there: bool) -> bool:
        """Whether a claim in a node's name is to be taken; ``leads_there`` as below."""
        pace = PACE if leads_there else OTHERS_PACE
        return self._claims.take(node, now, pace) and self._news.take(now, size + MESSAGE)

    def may_advertise(self, node: str, size: int, now: float, *, known: bool) -> bool:
        """Whether news of a node's service are to be taken; ``known`` if there is a route to it."""
        keep = 0 if known else KEPT_FOR_KNOWN
        return self._adverts.take(node, now, size / ADVERT_PACE) and self._news.take(
            now, size + MESSAGE, keep=keep
        )

    # --- updates -----------------------------------------------------------------------------

    def may_update(
        self, update: RoutingUpdate, now: float, *, known: bool, leads_there: bool
    ) -> bool:
        """Whether news of a node are to be taken; otherwise they wait, if there is room.

        Args:
            update: the news.
            now: a clock in seconds.
            known: whether there is a route to the node.
            leads_there: whether the peer is the next hop to it.
        """
        waiting = _Waiting(update, PACE if leads_there else OTHERS_PACE, known, now)
        former = self._waiting.get(update.node_id)
        if former is None and self._take(waiting, now):
            return True
        if former is not None:
            if former.update.order >= update.order:
                return False
            waiting.due = former.due
        more = waiting.cost - (former.cost if former is not None else 0)
        if self._waiting_bytes + more <= WAITING_BYTES:
            self._waiting[update.node_id] = waiting
            self._waiting_bytes += more
        else:
            self.dropped += 1
        return False

    def _take(self, waiting: _Waiting, now: float) -> bool:
        """Take what an update counts; otherwise note when to try again."""
        node, cost, keep = waiting.update.node_id, waiting.cost, 0
        if not waiting.known:
            cost, keep = cost + NEW_NAME, KEPT_FOR_KNOWN
        waiting.due = max(
            self._updates.when(node, now, waiting.pace), self._news.when(now, cost, keep=keep)
        )
        if waiting.due > now:
            return False
        self._updates.add(node, now, waiting.pace)
        self._news.take(now, cost, keep=keep)
        return True

    def next_due(self) -> float | None:
        """Return when to look again at an update that waits, if any does."""
        return min((w.due for w in self._waiting.values()), default=None)

    def take_due(self, now: float) -> Iterator[RoutingUpdate]:
        """Yield the updates that have waited for long enough, the first ones first."""
        for waiting in [w for w in self._waiting.values() if w.due <= now]:
            if self._take(waiting, now):
                del self._waiting[waiting.update.node_id]
                self._waiting_bytes -= waiting.cost
                yield waiting.update
