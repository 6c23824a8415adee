"""Which services the mesh offers (protocol section 6)."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from meshnode.protocol.reachability import Branches, newest_unreachable, unreachable_first
from meshnode.protocol.routing import ServiceAdvertisement

ADVERTISEMENT_LIFETIME = 210.0
"""Seconds after which an advertisement that was not repeated is dropped: nodes repeat theirs every
60 s, so three are missing. A service whose withdrawal was lost is gone after this time."""

WITHDRAWAL_LIFETIME = 2 * ADVERTISEMENT_LIFETIME
"""Seconds for which a withdrawal outranks older advertisements that come later: after that nobody
has an older one. A forged withdrawal is overcome then, too."""

RENEWED_WITHIN = 70.0
"""Seconds within which a restarted node has advertised all of its services: every node repeats them
every 60 s, and receptor sends its first ones after 5."""

ADVERTS_BYTES = 16 * 1024 * 1024
"""Bytes remembered of the services of all other nodes: of 10,000 ordinary nodes, or of 1,000 with
hundreds of work types."""

NODE_ADVERTS_BYTES = 256 * 1024
"""Bytes remembered of the services of one node: 200 services with some tags."""

ENTRY_BYTES = 900
"""Bytes that a service costs beyond its message (measured)."""

UNREACHABLE_BYTES = ADVERTS_BYTES // 8
"""Bytes remembered of the services of unreachable nodes; most get a route a moment later."""

READ_LATELY = 64
"""Advertisements that are kept decoded. Dialing a stream looks one up; decoding it takes as long as
all else that a dial looks up."""

READ_LATELY_BYTES = 4096
"""Bytes of the longest message that is kept decoded; all of them take a megabyte at most."""

ROOM_MADE = ADVERTS_BYTES // 16
"""Bytes freed at once when the budget is used up: not every new service shall look for the next."""


@dataclass(slots=True)
class _Entry:
    """The newest advertisement of a service, undecoded: decoded it takes four times the memory."""

    raw: bytes
    nanoseconds: int
    is_offer: bool
    via: str
    """The peer that brought it; empty if it is our own."""
    ends: float
    """When it is dropped."""
    outdated: bool = False
    """Whether its node may have restarted since: then any advertisement counts as newer."""

    @property
    def cost(self) -> int:
        return ENTRY_BYTES + len(self.raw)


@dataclass(slots=True)
class _NodeRecord:
    services: dict[str, _Entry] = field(default_factory=dict)
    via: str = ""
    """The peer that brought the newest advertisement."""
    cost: int = 0


class AdvertisementTable:
    """The newest advertisement of every service of every node."""

    def __init__(self) -> None:
        self._nodes: dict[str, _NodeRecord] = {}
        self._raw: set[bytes] = set()
        self._read_lately: dict[bytes, ServiceAdvertisement] = {}
        """By the message."""
        self.bytes = 0
        """What the advertisements of others are reckoned to take."""

    def is_known(self, raw: bytes) -> bool:
        """Whether exactly this message is the newest about its service: most copies are."""
        return raw in self._raw

    def is_news(self, advert: ServiceAdvertisement) -> bool:
        """Whether :meth:`apply` would store an advertisement, if there is room."""
        record = self._nodes.get(advert.node_id)
        current = record.services.get(advert.service) if record is not None else None
        return current is None or current.outdated or advert.nanoseconds > current.nanoseconds

    def apply(
        self,
        advert: ServiceAdvertisement,
        now: float = 0.0,
        raw: bytes | None = None,
        via: str = "",
    ) -> bool:
        """Take in an advertisement; True means that it was news, to be flooded on.

        Args:
            advert: what was received.
            now: a clock in seconds.
            raw: the whole message that it came in; it is forwarded unchanged.
            via: the peer that brought it; empty for our own, which have no bound.
        """
        if not self.is_news(advert):
            return False
        message = advert.encode() if raw is None else raw
        lifetime = WITHDRAWAL_LIFETIME if advert.cancel else ADVERTISEMENT_LIFETIME
        entry = _Entry(message, advert.nanoseconds, not advert.cancel, via, now + lifetime)
        node = self._nodes.setdefault(advert.node_id, _NodeRecord())
        self._put(node, advert.service, entry)
        if node.cost > NODE_ADVERTS_BYTES and via:
            self._trim(advert.node_id)
        return message in self._raw

    def _put(self, node: _NodeRecord, service: str, entry: _Entry) -> None:
        """Replace a service's entry."""
        current = node.services.get(service)
        if current is not None:
            self._forget_message(current)
            self._reckon(node, current, -1)
        node.services[service] = entry
        node.via = entry.via
        self._raw.add(entry.raw)
        self._reckon(node, entry, 1)

    def _forget_message(self, entry: _Entry) -> None:
        self._raw.discard(entry.raw)
        self._read_lately.pop(entry.raw, None)

    def _reckon(self, node: _NodeRecord, entry: _Entry, times: int) -> None:
        if entry.via:
            node.cost += times * entry.cost
            self.bytes += times * entry.cost

    # --- what is known -----------------------------------------------------------------------

    def newest(self, node: str, service: str) -> ServiceAdvertisement | None:
        """Return the newest advertisement of a service, be it a withdrawal."""
        record = self._nodes.get(node)
        entry = record.services.get(service) if record is not None else None
        return self._read(entry.raw) if entry is not None else None

    def _read(self, raw: bytes) -> ServiceAdvertisement:
        advert = self._read_lately.get(raw)
        if advert is None:
            advert = ServiceAdvertisement.decode(raw)
            if len(raw) <= READ_LATELY_BYTES:
                if len(self._read_lately) == READ_LATELY:
                    del self._read_lately[next(iter(self._read_lately))]
                self._read_lately[raw] = advert
        return advert

    def find(self, node_id: str, service: str) -> ServiceAdvertisement | None:
        """Return a service's advertisement, if there is one."""
        advert = self.newest(node_id, service)
        return advert if advert is not None and not advert.cancel else None

    def stamps(self, service: str) -> Iterator[tuple[str, int]]:
        """Yield the nodes that offer a service, and the time of each one's advertisement (ns)."""
        for node, record in self._nodes.items():
            entry = record.services.get(service)
            if entry is not None and entry.is_offer:
                yield node, entry.nanoseconds

    @property
    def nodes(self) -> Collection[str]:
        """The nodes that anything is remembered of, be it a withdrawal."""
        return self._nodes.keys()

    def of(self, node: str) -> Iterator[ServiceAdvertisement]:
        """Yield the advertisements of the services that a node offers."""
        for raw in self.messages(node):
            yield ServiceAdvertisement.decode(raw)

    def messages(self, node: str) -> Iterator[bytes]:
        """Yield the whole message about each service that a node offers."""
        record = self._nodes.get(node)
        if record is not None:
            yield from (e.raw for e in record.services.values() if e.is_offer)

    def __iter__(self) -> Iterator[ServiceAdvertisement]:
        return (advert for node in self._nodes for advert in self.of(node))

    def __len__(self) -> int:
        return sum(e.is_offer for r in self._nodes.values() for e in r.services.values())

    # --- forgetting --------------------------------------------------------------------------

    def begin_anew(self, node: str, now: float) -> None:
        """Mark a node's services as outdated: it has restarted, or somebody says so.

        Those that are not advertised again are dropped. Those that are may bear an earlier time:
        the node's clock may have been set back.
        """
        record = self._nodes.get(node)
        for entry in record.services.values() if record is not None else ():
            entry.outdated = True
            entry.ends = min(entry.ends, now + RENEWED_WITHIN)

    def forget_node(self, node: str) -> None:
        """Forget what a node advertised and withdrew: it is gone."""
        record = self._nodes.pop(node, None)
        if record is not None:
            self.bytes -= record.cost
            for entry in record.services.values():
                self._forget_message(entry)

    def expire(self, now: float) -> None:
        """Forget services that were not repeated for long, and old withdrawals."""
        for node, record in list(self._nodes.items()):
            for service in [s for s, e in record.services.items() if e.ends <= now]:
                self._drop(node, service)

    @property
    def is_full(self) -> bool:
        """Whether more is remembered than may be."""
        return self.bytes > ADVERTS_BYTES

    def make_room(self, branches: Branches, newest: str) -> None:
        """Forget nodes until the rest fits its budget, but not the newest."""
        excess = self.bytes - ADVERTS_BYTES + ROOM_MADE
        costs, bringers = self._shares()
        costs.pop(newest, None)
        for node in unreachable_first(costs, bringers, branches, excess):
            self.forget_node(node)

    def give_up_unreachable(self, branches: Branches) -> None:
        """Forget unreachable nodes until the rest fits its budget."""
        costs, bringers = self._shares()
        unreachable = sum(cost for node, cost in costs.items() if node not in branches)
        excess = unreachable - UNREACHABLE_BYTES
        for node in newest_unreachable(costs, bringers, branches, excess):
            self.forget_node(node)

    def _shares(self) -> tuple[dict[str, int], dict[str, str]]:
        others = [(node, record) for node, record in self._nodes.items() if record.via]
        return {node: r.cost for node, r in others}, {node: r.via for node, r in others}

    def _trim(self, node: str) -> None:
        """Drop services of a node: always the newest of the peer that brought the most bytes."""
        record = self._nodes[node]
        while record.cost > NODE_ADVERTS_BYTES:
            brought: dict[str, int] = {}
            for entry in record.services.values():
                brought[entry.via] = brought.get(entry.via, 0) + entry.cost
            most = max(brought, key=brought.__getitem__)
            services = reversed(record.services.items())
            self._drop(node, next(s for s, e in services if e.via == most))

    def _drop(self, node: str, service: str) -> None:
        record = self._nodes[node]
        entry = record.services.pop(service)
        self._forget_message(entry)
        self._reckon(record, entry, -1)
        if not record.services:
            del self._nodes[node]
