"""The link-state database of the mesh: who is linked to whom at which cost (protocol section 4).

Pure values in, decisions out; the caller owns the clock, the links and the flooding. ``own_links``
has what this node says of itself, ``reachability`` the computation of routes.
"""

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from meshnode.protocol.own_links import OwnLinks
from meshnode.protocol.reachability import (
    Branches,
    newest_unreachable,
    shortest_paths,
    unreachable_first,
)
from meshnode.protocol.routing import RoutingUpdate

SEEN_SECONDS = 3600.0
"""How long an update is remembered (protocol section 4)."""

MAX_SEEN = 20_000
"""Updates remembered at most (2 MB): 20 of each node of a mesh of 1,000. The oldest go first; later
copies of them are told by epoch and sequence."""

UPDATE_LIFETIME = 210.0
"""Seconds for which a node's newest update outranks older ones: a node floods a new one every 60 s,
so three are missing. A forged update that its victim does not outrank, as a receptor node does not,
is overcome after this time."""

CONTESTED_SECONDS = 60.0
"""Seconds after a claim in which more forged updates in the claiming node's name are expected."""

REMOVAL_DELAY = 2.0
"""Seconds for which an edge of such a node stays when only its peer still claims it: longer than
the node takes to flood an update of its own."""

TOPOLOGY_BYTES = 28 * 1024 * 1024
"""Bytes remembered of all other nodes: 10,000 nodes of three links."""

NODE_BYTES = 1200
LINK_BYTES = 200
"""Bytes that a node costs beyond twice its update, and each link that it claims (measured; with
names and routes, and both ends confirming each link)."""

UNREACHABLE_BYTES = TOPOLOGY_BYTES // 8
"""Bytes remembered of unreachable nodes, for when they are back: of a thousand."""

ROOM_MADE = TOPOLOGY_BYTES // 16
"""Bytes freed at once when the budget is used up: not every new node shall look for the next."""


class Verdict(enum.Enum):
    """What to do with a routing update of another node."""

    IGNORE = "ignore"
    FORWARD = "forward"
    """Stored; flood it on."""
    NEW_NODE = "new node"
    """Stored; flood it on and send an own update at once."""
    OUTDATED = "outdated"
    """Ignored: a newer update of the node is known. If the node itself sent this one, show it the
    newer one: it would be ignored for long otherwise."""


@dataclass(slots=True)
class _NodeRecord:
    epoch: int
    sequence: int
    claims: Mapping[str, float] = field(default_factory=dict)
    """The links that the node says it has."""
    edges: dict[str, float] = field(default_factory=dict)
    """Those of them that the other end claims too."""
    message: bytes = b""
    """The newest update as we forward it, also to peers that join later."""
    via: str = ""
    """The peer that brought it."""
    heard: float = 0.0
    """When it came."""
    cost: int = 0
    """Bytes that all this is reckoned to take."""
    contested: float = float("-inf")
    """When the node last claimed its ID back from forged updates."""


class Topology:
    """Who is linked to whom at which cost, as this node knows it."""

    def __init__(self, own_id: str, epoch: int) -> None:
        self.own = OwnLinks(own_id, epoch)
        self._nodes: dict[str, _NodeRecord] = {}
        self._seen: dict[int, float] = {}
        """Keys of the updates that were judged, and when."""
        self._removals: dict[tuple[str, str], float] = {}
        """Edges to be removed later: of which node, to which peer, since when."""
        self.bytes = 0
        """What all records are reckoned to take."""
        self._given_up: list[str] = []
        self._version = 0
        self.relaxations = 0
        """Edges relaxed by all computations of routes so far: their cost, on any machine."""

    @property
    def version(self) -> int:
        """A number that counts up whenever routes may have changed."""
        return self._version + self.own.version

    # --- updates -----------------------------------------------------------------------------

    def is_seen(self, key: int) -> bool:
        """Whether an update with this key (:attr:`RoutingUpdate.key`) was judged before."""
        return key in self._seen

    def is_news(self, update: RoutingUpdate, now: float) -> bool:
        """Whether :meth:`apply` would store an update, if there is room."""
        record = self._nodes.get(update.node_id)
        return (
            record is None
            or update.order > (record.epoch, record.sequence)
            or now >= record.heard + UPDATE_LIFETIME
        )

    def apply(self, update: RoutingUpdate, now: float, via: str = "") -> Verdict:
        """Take in an update of another node and say what to do with it.

        Args:
            update: what was received.
            now: a clock in seconds.
            via: the peer that brought it.
        """
        if update.key is not None and self._was_seen(update.key, now):
            return Verdict.IGNORE
        record = self._nodes.get(update.node_id)
        if update.suspected_duplicate:
            # A claim: the first owner of an ID goes on and the newcomer stops, so the claimed
            # epoch counts again although it is the older one.
            if record is not None and record.epoch == update.suspected_duplicate:
                record.epoch, record.sequence = update.epoch, update.sequence
                record.contested = now
            return Verdict.FORWARD
        verdict = Verdict.FORWARD
        if record is None:
            verdict = Verdict.NEW_NODE
            record = self._nodes[update.node_id] = _NodeRecord(update.epoch, update.sequence)
        elif not self.is_news(update, now):
            is_older = update.order < (record.epoch, record.sequence)
            return Verdict.OUTDATED if is_older else Verdict.IGNORE
        self._store(record, update, now, via)
        if self.bytes > TOPOLOGY_BYTES:
            self._make_room(update.node_id)
        return verdict

    def _was_seen(self, key: int, now: float) -> bool:
        oldest = now - SEEN_SECONDS
        while self._seen:
            first = next(iter(self._seen))
            if self._seen[first] > oldest and len(self._seen) < MAX_SEEN:
                break
            del self._seen[first]
        if key in self._seen:
            return True
        self._seen[key] = now
        return False

    def _store(self, record: _NodeRecord, update: RoutingUpdate, now: float, via: str) -> None:
        record.epoch, record.sequence = update.epoch, update.sequence
        record.message = update.encode(self.own.own_id)
        record.heard, record.via = now, via
        cost = NODE_BYTES + 2 * len(record.message) + LINK_BYTES * len(update.connections)
        self.bytes += cost - record.cost
        record.cost = cost
        if record.claims != update.connections:
            gone = record.claims.keys() - update.connections.keys()
            record.claims = update.connections
            if now < record.contested + CONTESTED_SECONDS:
                gone = self._put_off(update.node_id, gone, now)
            self._match_edges(update.node_id, record, gone)

    # --- edges -------------------------------------------------------------------------------

    def _put_off(self, node: str, gone: set[str], now: float) -> set[str]:
        """Put off the removal of edges that a contested node's peers still claim; return the rest.

        Each forged update that lists no links would otherwise take the node off the mesh.
        """
        kept = {p for p in gone if (other := self._nodes.get(p)) and node in other.claims}
        for peer in kept:
            self._removals.setdefault((node, peer), now)
        for peer in self._nodes[node].claims:
            self._removals.pop((node, peer), None)
        return gone - kept

    @property
    def has_removals(self) -> bool:
        """Whether :meth:`remove_due` has anything to do, now or later."""
        return bool(self._removals)

    def remove_due(self, now: float) -> float | None:
        """Remove the edges whose delay is over; return when to call again, if ever."""
        for (node, peer), since in list(self._removals.items()):
            record = self._nodes.get(node)
            if record is None or peer in record.claims or peer not in record.edges:
                del self._removals[node, peer]
            elif now >= since + REMOVAL_DELAY:
                del self._removals[node, peer]
                self._remove_edge(node, peer)
        return min(self._removals.values()) + REMOVAL_DELAY if self._removals else None

    def _match_edges(self, node: str, record: _NodeRecord, gone: Collection[str]) -> None:
        """Bring the edges of a node whose claims changed in line with those of its peers.

        An edge counts only while both ends claim it. So whichever end loses a link first removes
        it from the mesh, in any order of updates, and no node can add edges to invented names.
        """
        for peer in gone:
            self._remove_edge(peer, node)
        for peer, cost in record.claims.items():
            other = self._nodes.get(peer)
            if other is None or node not in other.claims:
                continue
            if record.edges.get(peer) != cost or node not in other.edges:
                record.edges[peer] = cost
                other.edges[node] = other.claims[node]
                self._version += 1

    def _remove_edge(self, one: str, other: str) -> None:
        for node, peer in ((one, other), (other, one)):
            record = self._nodes.get(node)
            if record is not None and record.edges.pop(peer, None) is not None:
                self._version += 1

    # --- forgetting --------------------------------------------------------------------------

    def forget(self, node: str) -> None:
        """Drop all that is known of a node."""
        record = self._nodes.get(node)
        if record is not None:
            for peer in list(record.edges):
                self._remove_edge(node, peer)
            self.bytes -= record.cost
            del self._nodes[node]

    def take_given_up(self) -> list[str]:
        """Return the nodes that were forgotten to free memory since the last call."""
        given_up, self._given_up = self._given_up, []
        return given_up

    def branches(self) -> Branches:
        """Return who can be reached, and over whom."""
        return Branches(self.own.costs, self._edges_of)

    def _edges_of(self, node: str) -> Mapping[str, float]:
        record = self._nodes.get(node)
        return record.edges if record is not None else {}

    def _make_room(self, newest: str) -> None:
        """Forget nodes, but not the newest: updates of its peers may confirm its edges next."""
        excess = self.bytes - TOPOLOGY_BYTES + ROOM_MADE
        costs, bringers = self._shares()
        del costs[newest]
        self._give_up(unreachable_first(costs, bringers, self.branches(), excess))

    def give_up_unreachable(self) -> None:
        """Forget unreachable nodes until the rest fits its budget."""
        branches = self.branches()
        unreachable = sum(r.cost for n, r in self._nodes.items() if n not in branches)
        excess = unreachable - UNREACHABLE_BYTES
        self._give_up(newest_unreachable(*self._shares(), branches, excess))

    def _shares(self) -> tuple[dict[str, int], dict[str, str]]:
        nodes = self._nodes.items()
        return {node: r.cost for node, r in nodes}, {node: r.via for node, r in nodes}

    def _give_up(self, nodes: Iterable[str]) -> None:
        for node in list(nodes):
            self.forget(node)
            self._given_up.append(node)

    def forget_silent(self, now: float) -> None:
        """Forget nodes that seem reachable but have flooded nothing for UPDATE_LIFETIME."""
        branches = self.branches()
        self._give_up(
            node
            for node, record in self._nodes.items()
            if now >= record.heard + UPDATE_LIFETIME and node in branches
        )

    # --- what is known -----------------------------------------------------------------------

    @property
    def nodes(self) -> Collection[str]:
        """Every other node that an update was received from."""
        return self._nodes.keys()

    def epoch_of(self, node: str) -> int | None:
        """Return the epoch of a node's newest update; another epoch is another life of the node."""
        record = self._nodes.get(node)
        return record.epoch if record is not None else None

    def message_about(self, node: str) -> bytes | None:
        """Return a node's newest update as we forward it, if there was one."""
        record = self._nodes.get(node)
        return record.message if record is not None else None

    def known_costs(self) -> dict[str, dict[str, float]]:
        """Return every node's links as known, our own included (``KnownConnectionCosts``)."""
        costs = {self.own.own_id: dict(self.own.costs)}
        for node, record in self._nodes.items():
            costs[node] = dict(record.edges)
        for peer, cost in self.own.costs.items():
            costs.setdefault(peer, {})[self.own.own_id] = cost
        return costs

    def routes(self, current: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the next hop to every reachable node; ``current`` is the table so far.

        The cost of an edge is what the end says that is left over it, as receptor reckons: in a
        mixed mesh all nodes must choose alike, or messages circle.
        """
        next_hops, relaxed = shortest_paths(self.own.costs, self._edges_of, current or {})
        self.relaxations += relaxed
        return next_hops
