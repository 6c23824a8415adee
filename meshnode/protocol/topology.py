"""The link-state database of the mesh and the routes over it (reference section 4).

Pure values in, decisions out; the caller owns the clock, the links and the flooding.
"""

import enum
import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from meshnode.protocol.messages import RoutingUpdate

SEEN_SECONDS = 3600.0
"""How long an UpdateID is remembered (reference section 4)."""

MAX_SEEN = 20_000
"""Update IDs remembered at most (3 MB): twenty updates of each node of a mesh of 1,000 at once.
The oldest go first; what they protected against is then caught by epoch and sequence."""

MAX_NODES = 10_000
"""Nodes known at most: ten times the largest mesh that we measure; bounds invented names."""


class Verdict(enum.Enum):
    """What to do with a routing update."""

    IGNORE = "ignore"
    FORWARD = "forward"
    """Stored; flood it on."""
    NEW_NODE = "new node"
    """Stored; flood it on and send an own update at once."""
    EARLIER_LIFE = "earlier life"
    """Ignored: the node is known with a later start. If it is the node itself that speaks, it must
    be told what is known of it, or it would be ignored for ever."""
    WE_ARE_DUPLICATE = "we are the duplicate"
    """Another node had our ID first: this node must end."""
    DUPLICATE_SEEN = "duplicate seen"
    """Our ID is known with a later start: send an update that names that epoch."""


@dataclass(slots=True)
class _NodeRecord:
    epoch: int
    sequence: int
    claims: Mapping[str, float] = field(default_factory=dict)
    """The links that the node says it has."""
    edges: dict[str, float] = field(default_factory=dict)
    """Those of them that the other end claims too."""
    message: bytes = b""
    """The newest update as we forward it: also what a peer that joins later is given."""


class Topology:
    """Who is linked to whom at which cost, as this node knows it."""

    def __init__(self, own_id: str, epoch: int) -> None:
        self.own_id = own_id
        self.epoch = epoch
        self._sequence = 0
        self._own: dict[str, float] = {}
        self._nodes: dict[str, _NodeRecord] = {}
        self._seen: dict[str, float] = {}
        self.version = 0
        """Counts up whenever routes may have changed."""
        self.relaxations = 0
        """Edges looked at by all computations of routes so far: what they cost, on any machine."""

    # --- own links ---------------------------------------------------------------------------

    @property
    def connections(self) -> Mapping[str, float]:
        """Our own links: peer to cost."""
        return self._own

    def add_link(self, peer: str, cost: float) -> None:
        """Record that a link to ``peer`` is established."""
        self._own[peer] = cost
        self.version += 1

    def remove_link(self, peer: str) -> None:
        """Record that the link to ``peer`` is gone."""
        self._own.pop(peer, None)
        self.version += 1

    def own_update(self, update_id: str, suspected_duplicate: int = 0) -> RoutingUpdate:
        """Return the next update about ourselves; each call counts the sequence up."""
        self._sequence += 1
        return RoutingUpdate(
            node_id=self.own_id,
            update_id=update_id,
            epoch=self.epoch,
            sequence=self._sequence,
            connections=dict(self._own),
            forwarding_node=self.own_id,
            suspected_duplicate=suspected_duplicate,
        )

    # --- others' updates ---------------------------------------------------------------------

    def is_seen(self, update_id: str) -> bool:
        """Whether :meth:`apply` would ignore an update with this ID."""
        return update_id in self._seen

    def apply(self, update: RoutingUpdate, now: float) -> Verdict:
        """Take in an update and say what to do with it. ``now`` is a clock in seconds."""
        if update.node_id == self.own_id:
            return self._judge_own_id(update)
        if self._was_seen(update.update_id, now):
            return Verdict.IGNORE
        record = self._nodes.get(update.node_id)
        if update.suspected_duplicate:
            # The first owner of the name outlives the newcomer: follow it, although its epoch
            # is the older one.
            if record is not None and record.epoch == update.suspected_duplicate:
                record.epoch, record.sequence = update.epoch, update.sequence
            return Verdict.FORWARD
        if record is None:
            if len(self._nodes) >= MAX_NODES:
                return Verdict.IGNORE
            record = self._nodes[update.node_id] = _NodeRecord(update.epoch, update.sequence)
            self._store(record, update)
            return Verdict.NEW_NODE
        if update.epoch < record.epoch:
            return Verdict.EARLIER_LIFE
        if (update.epoch, update.sequence) <= (record.epoch, record.sequence):
            return Verdict.IGNORE
        self._store(record, update)
        return Verdict.FORWARD

    def _judge_own_id(self, update: RoutingUpdate) -> Verdict:
        if update.epoch == self.epoch:
            return Verdict.IGNORE
        if update.suspected_duplicate == self.epoch:
            return Verdict.WE_ARE_DUPLICATE
        return Verdict.DUPLICATE_SEEN if update.epoch > self.epoch else Verdict.IGNORE

    def _was_seen(self, update_id: str, now: float) -> bool:
        oldest = now - SEEN_SECONDS
        while self._seen:
            first = next(iter(self._seen))
            if self._seen[first] > oldest and len(self._seen) < MAX_SEEN:
                break
            del self._seen[first]
        if update_id in self._seen:
            return True
        self._seen[update_id] = now
        return False

    def _store(self, record: _NodeRecord, update: RoutingUpdate) -> None:
        record.epoch, record.sequence = update.epoch, update.sequence
        record.message = update.encode(self.own_id)
        if record.claims != update.connections:
            gone = record.claims.keys() - update.connections.keys()
            record.claims = update.connections
            self._match_edges(update.node_id, record, gone)

    def _match_edges(self, node: str, record: _NodeRecord, gone: Collection[str]) -> None:
        """Bring the edges of a node whose claims changed in line with those of its peers.

        An edge counts only while both ends claim it: whichever end loses a link first takes it
        out of the mesh, in any order of updates, and nobody's routes can be filled with names
        that exist in one node's claims only.
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
                self.version += 1

    def _remove_edge(self, one: str, other: str) -> None:
        for node, peer in ((one, other), (other, one)):
            record = self._nodes.get(node)
            if record is not None and record.edges.pop(peer, None) is not None:
                self.version += 1

    def forget(self, node: str) -> None:
        """Drop all that is known of a node."""
        record = self._nodes.get(node)
        if record is not None:
            for peer in list(record.edges):
                self._remove_edge(node, peer)
            del self._nodes[node]

    def epoch_of(self, node: str) -> int | None:
        """Return the epoch of a node's newest update: another one is another life of the node."""
        record = self._nodes.get(node)
        return record.epoch if record is not None else None

    def message_about(self, node: str) -> bytes | None:
        """Return a node's newest update as we forward it, if there was one."""
        record = self._nodes.get(node)
        return record.message if record is not None else None

    # --- what follows ------------------------------------------------------------------------

    @property
    def nodes(self) -> Collection[str]:
        """Every other node that an update was received from."""
        return self._nodes.keys()

    def known_costs(self) -> dict[str, dict[str, float]]:
        """Return every node's links as known, our own included (``KnownConnectionCosts``)."""
        costs = {self.own_id: dict(self._own)}
        for node, record in self._nodes.items():
            costs[node] = dict(record.edges)
        for peer, cost in self._own.items():
            costs.setdefault(peer, {})[self.own_id] = cost
        return costs

    def routes(self, current: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the next hop to every reachable node: Dijkstra over the known costs.

        The cost of an edge is what the end says that is left over it, as receptor reckons: in a
        mixed mesh all must choose alike, or messages circle. Of equally cheap ways the one in
        ``current`` (the table so far) stays, so that a way as good as ours that comes and goes
        moves no traffic; without it, the alphabetically first peer is taken.
        """
        kept: Mapping[str, str] = current if current is not None else {}
        distances: dict[str, float] = {self.own_id: 0.0}
        next_hop: dict[str, str] = {}
        queue: list[tuple[float, str]] = []
        for peer, cost in self._own.items():
            distances[peer] = cost
            next_hop[peer] = peer
            queue.append((cost, peer))
        heapq.heapify(queue)
        nodes, pop, push = self._nodes, heapq.heappop, heapq.heappush
        while queue:
            distance, node = pop(queue)
            record = nodes.get(node)
            if distance > distances[node] or record is None:
                continue
            via = next_hop[node]
            self.relaxations += len(record.edges)
            for neighbour, step in record.edges.items():
                total = distance + step
                known = distances.get(neighbour)
                if known is None or total < known:
                    distances[neighbour] = total
                    next_hop[neighbour] = via
                    push(queue, (total, neighbour))
                elif total == known and via != (other := next_hop[neighbour]):
                    keep = kept.get(neighbour)
                    if via == keep or (via < other and other != keep):
                        next_hop[neighbour] = via
        return next_hop
