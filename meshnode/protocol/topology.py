"""The link-state database of the mesh and the routes over it (reference section 4).

Pure values in, decisions out; the caller owns the clock, the links and the flooding.
"""

import enum
import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from meshnode.protocol.messages import RoutingUpdate

SEEN_SECONDS = 3600.0
"""How long an UpdateID is remembered (reference section 4)."""

MAX_SEEN = 100_000
"""Update IDs remembered at most: a flooding peer must not fill the memory within the hour.
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
    WE_ARE_DUPLICATE = "we are the duplicate"
    """Another node had our ID first: this node must end."""
    DUPLICATE_SEEN = "duplicate seen"
    """A newer node uses our ID: send an update that names its epoch."""


@dataclass(slots=True)
class _NodeRecord:
    epoch: int
    sequence: int
    connections: dict[str, float] = field(default_factory=dict)
    update: RoutingUpdate | None = None
    """The newest update, for a peer that joins later."""


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

    # --- own links ---------------------------------------------------------------------------

    @property
    def connections(self) -> Mapping[str, float]:
        """Our own links: peer to cost."""
        return self._own

    def add_link(self, peer: str, cost: float) -> None:
        """Record that a link to ``peer`` is established."""
        self._own[peer] = cost
        self.version += 1
        # Both ends see a new link at the same moment: waiting for the peer's own update would
        # leave it without a route for a round trip.
        record = self._nodes.get(peer)
        if record is not None:
            record.connections[self.own_id] = cost

    def remove_link(self, peer: str) -> None:
        """Record that the link to ``peer`` is gone."""
        self._own.pop(peer, None)
        self.version += 1
        record = self._nodes.get(peer)
        if record is not None:
            record.connections.pop(self.own_id, None)

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
            self._store(_NodeRecord(update.epoch, update.sequence), update)
            return Verdict.NEW_NODE
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
        record.update = replace(update, forwarding_node=self.own_id)
        self._nodes[update.node_id] = record
        if record.connections == update.connections:
            return
        self.version += 1
        record.connections = dict(update.connections)
        for other, known in self._nodes.items():
            # A node that no longer lists X loses the edge in both directions.
            if other not in update.connections:
                known.connections.pop(update.node_id, None)

    def forget(self, node: str) -> None:
        """Drop all that is known of a node."""
        if self._nodes.pop(node, None) is not None:
            self.version += 1

    def epoch_of(self, node: str) -> int | None:
        """Return the epoch of a node's newest update: another one is another life of the node."""
        record = self._nodes.get(node)
        return record.epoch if record is not None else None

    def updates_for_new_peer(self, peer: str) -> list[RoutingUpdate]:
        """Return the newest update of each other node, as we would have forwarded it."""
        return [
            record.update
            for node, record in self._nodes.items()
            if node != peer and record.update is not None
        ]

    # --- what follows ------------------------------------------------------------------------

    @property
    def nodes(self) -> list[str]:
        """Every other node that an update was received from."""
        return list(self._nodes)

    def known_costs(self) -> dict[str, dict[str, float]]:
        """Return every node's links as known, our own included (``KnownConnectionCosts``)."""
        costs = {self.own_id: dict(self._own)}
        for node, record in self._nodes.items():
            costs[node] = dict(record.connections)
        for peer, cost in self._own.items():
            costs.setdefault(peer, {})[self.own_id] = cost
        return costs

    def routes(self) -> dict[str, str]:
        """Return the next hop to every reachable node: Dijkstra over the known costs.

        Of equally cheap paths the one through the alphabetically first peer is taken, so that
        every computation gives the same table.
        """
        next_hop: dict[str, str] = {}
        queue: list[tuple[float, str, str]] = []
        for peer, cost in self._own.items():
            heapq.heappush(queue, (cost, peer, peer))
        while queue:
            cost, via, node = heapq.heappop(queue)
            if node in next_hop or node == self.own_id:
                continue
            next_hop[node] = via
            record = self._nodes.get(node)
            if record is None:
                continue
            for neighbour, step in record.connections.items():
                if neighbour not in next_hop:
                    heapq.heappush(queue, (cost + step, via, neighbour))
        return next_hop
