"""The link-state database of the mesh and the routes over it (protocol section 4).

Pure values in, decisions out; the caller owns the clock, the links and the flooding.
"""

import enum
import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from meshnode.protocol.budget import Branches, newest_unreachable, unreachable_first
from meshnode.protocol.routing import RoutingUpdate, plain_number

SEEN_SECONDS = 3600.0
"""How long an update is remembered (protocol section 4)."""

MAX_SEEN = 20_000
"""Updates remembered at most (2 MB, a number for each): twenty of each node of a mesh of 1,000 at
once. The oldest go first; copies of them are then told by epoch and sequence."""

LINKS_BYTES = 62_000
"""What all links of one node may take of its update: 2,400 with names of 20 bytes. A message has
65,535 bytes; the rest is for the names of the node and of who passes it on, however written."""

LINKS_FOR_ANYBODY = LINKS_BYTES * 7 // 8
"""What of that links may take that the configuration does not ask for: the rest is kept for peers
that it dials or names."""

LONG_NAME = 64
LINKS_OF_LONG_NAMES = LINKS_BYTES // 2
"""Bytes from which on a name is long, and up to which all links may take room before one to such a
name is refused, so that two hundred of the longest do not keep out those with ordinary ones."""

WORD_COUNTS = 210.0
"""Seconds for which the newest word of a node keeps older ones from counting: a node says something
new every 60 s, so three words were missed. What was said in somebody else's name with an epoch or
sequence that its owner does not reach is over then, also if the owner is a receptor node, which
does not outdo it."""

CONTESTED_SECONDS = 60.0
"""For how long after a node has disowned words in its name a further such word is expected."""

DOUBT_SECONDS = 2.0
"""How long an edge of a contested node stays that it no longer claims and its peer does: longer
than the node takes to speak for itself."""

OWN_WORDS = 100
"""Own updates remembered, to tell them from what others say: those of ten seconds at the most."""

TOPOLOGY_BYTES = 28 * 1024 * 1024
"""What is remembered of all other nodes together: 10,000 nodes of three links, ten times the
largest mesh that we measure."""

NODE_BYTES = 1200
LINK_BYTES = 200
"""What a node costs beyond twice its update as it is passed on, and each link that it says it has:
as was measured, with names and routes, and with both ends confirming each link."""

UNREACHABLE_BYTES = TOPOLOGY_BYTES // 8
"""What is remembered of nodes that cannot be reached: of a thousand, for when they are back. Those
who bring them back bring also what is to be known of them."""

ROOM_MADE = TOPOLOGY_BYTES // 16
"""What is made room for when all is full, so that the next does not look through all again."""


class Verdict(enum.Enum):
    """What to do with a routing update."""

    IGNORE = "ignore"
    FORWARD = "forward"
    """Stored; flood it on."""
    NEW_NODE = "new node"
    """Stored; flood it on and send an own update at once."""
    OUTDATED = "outdated"
    """Ignored: a newer word of the node is known. If it is the node itself that speaks, it must be
    told that word, or it would be ignored for long."""
    WE_ARE_DUPLICATE = "we are the duplicate"
    """Somebody says that our ID was another node's before."""
    OUTDOES_US = "outdoes us"
    """Somebody says something newer in our name than we have: flood a claim of that epoch, and then
    an own update."""
    NOT_OURS = "not ours"
    """Somebody has spoken in our name; our next update is newer."""


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
    via: str = ""
    """The peer that brought it."""
    cost: int = 0
    """Bytes that all this is reckoned to take."""
    heard: float = 0.0
    """When that came."""
    contested: float = float("-inf")
    """When the node last disowned what others had said in its name."""


class Topology:
    """Who is linked to whom at which cost, as this node knows it."""

    def __init__(self, own_id: str, epoch: int) -> None:
        self.own_id = own_id
        self.epoch = epoch
        self._sequence = 0
        self._own: dict[str, float] = {}
        self._own_bytes = 0
        """What our links take of our update."""
        self._own_words: dict[int, str] = {}
        self._nodes: dict[str, _NodeRecord] = {}
        self._seen: dict[int, float] = {}
        self._doubted: dict[tuple[str, str], float] = {}
        """Since when an edge of a contested node (the first) is claimed by its peer only."""
        self.bytes = 0
        """What all records are reckoned to take."""
        self._given_up: list[str] = []
        self.version = 0
        """Counts up whenever routes may have changed."""
        self.relaxations = 0
        """Edges looked at by all computations of routes so far: what they cost, on any machine."""

    # --- own links ---------------------------------------------------------------------------

    @property
    def connections(self) -> Mapping[str, float]:
        """Our own links: peer to cost."""
        return self._own

    def has_place(self, peer: str, cost: float, expected: bool) -> bool:
        """Whether our update can list one more link; ``expected`` if the configuration asks for it.

        An update that is too long could not be sent, and all links would end.
        """
        if expected:
            most = LINKS_BYTES
        elif len(peer.encode()) < LONG_NAME:
            most = LINKS_FOR_ANYBODY
        else:
            most = LINKS_OF_LONG_NAMES
        return self._own_bytes + _link_field(peer, cost) <= most

    def add_link(self, peer: str, cost: float) -> None:
        """Record that a link to ``peer`` is established."""
        self.remove_link(peer)
        self._own[peer] = cost
        self._own_bytes += _link_field(peer, cost)

    def remove_link(self, peer: str) -> None:
        """Record that the link to ``peer`` is gone."""
        cost = self._own.pop(peer, None)
        if cost is not None:
            self._own_bytes -= _link_field(peer, cost)
        self.version += 1

    def own_update(self, update_id: str, suspected_duplicate: int = 0) -> RoutingUpdate:
        """Return the next update about ourselves; each call counts the sequence up.

        With ``suspected_duplicate`` it is a claim: whoever knows us with that epoch, from another
        node or our own future, goes back to what we are now. For receptor nodes too, and also if
        that epoch is ours and only the sequence is not.
        """
        self._sequence += 1
        self._own_words[self._sequence] = update_id
        self._own_words.pop(self._sequence - OWN_WORDS, None)
        return RoutingUpdate(
            node_id=self.own_id,
            update_id=update_id,
            epoch=self.epoch,
            sequence=self._sequence,
            connections=dict(sorted(self._own.items())),
            forwarding_node=self.own_id,
            suspected_duplicate=suspected_duplicate,
        )

    # --- others' updates ---------------------------------------------------------------------

    def is_seen(self, key: int) -> bool:
        """Whether an update with this key (:attr:`RoutingUpdate.key`) was judged before."""
        return key in self._seen

    def is_news(self, update: RoutingUpdate, now: float) -> bool:
        """Whether :meth:`apply` would store an update of another node, if there is room."""
        record = self._nodes.get(update.node_id)
        return (
            record is None
            or update.order > (record.epoch, record.sequence)
            or now >= record.heard + WORD_COUNTS
        )

    def apply(self, update: RoutingUpdate, now: float, via: str = "") -> Verdict:
        """Take in an update and say what to do with it.

        Args:
            update: what was received.
            now: a clock in seconds.
            via: the peer that brought it.
        """
        if update.node_id == self.own_id:
            return self._judge_own_id(update)
        if update.key is not None and self._was_seen(update.key, now):
            return Verdict.IGNORE
        record = self._nodes.get(update.node_id)
        if update.suspected_duplicate:
            # The first owner of the name outlives the newcomer: follow it, although its epoch
            # is the older one.
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

    def _judge_own_id(self, update: RoutingUpdate) -> Verdict:
        same_life = update.epoch == self.epoch
        if same_life and (
            update.sequence <= self._sequence - OWN_WORDS
            or self._own_words.get(update.sequence) == update.update_id
        ):
            return Verdict.IGNORE  # our own word came round
        if update.suspected_duplicate == self.epoch and not same_life:
            return Verdict.WE_ARE_DUPLICATE
        if (update.epoch, update.sequence) > (self.epoch, self._sequence):
            return Verdict.OUTDOES_US
        if same_life or update.suspected_duplicate:
            return Verdict.NOT_OURS
        return Verdict.IGNORE  # of a former life: nobody who knows us listens

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
        record.message = update.encode(self.own_id)
        record.heard, record.via = now, via
        cost = NODE_BYTES + 2 * len(record.message) + LINK_BYTES * len(update.connections)
        self.bytes += cost - record.cost
        record.cost = cost
        if record.claims != update.connections:
            gone = record.claims.keys() - update.connections.keys()
            record.claims = update.connections
            if now < record.contested + CONTESTED_SECONDS:
                gone = self._doubt(update.node_id, gone, now)
            self._match_edges(update.node_id, record, gone)

    def _doubt(self, node: str, gone: set[str], now: float) -> set[str]:
        """Put off the end of edges that a contested node's peers still claim; return the others.

        Updates that list nobody, in its name, would otherwise take it off the mesh each time.
        """
        kept = {p for p in gone if (other := self._nodes.get(p)) and node in other.claims}
        for peer in kept:
            self._doubted.setdefault((node, peer), now)
        for peer in self._nodes[node].claims:
            self._doubted.pop((node, peer), None)
        return gone - kept

    @property
    def has_doubts(self) -> bool:
        """Whether :meth:`settle` has anything to do."""
        return bool(self._doubted)

    def settle(self, now: float) -> float | None:
        """End the edges that were doubted for long enough; return when to call again, if ever."""
        for (node, peer), since in list(self._doubted.items()):
            record = self._nodes.get(node)
            if record is None or peer in record.claims or peer not in record.edges:
                del self._doubted[node, peer]
            elif now >= since + DOUBT_SECONDS:
                del self._doubted[node, peer]
                self._remove_edge(node, peer)
        return min(self._doubted.values()) + DOUBT_SECONDS if self._doubted else None

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

    # --- what goes ---------------------------------------------------------------------------

    def forget(self, node: str) -> None:
        """Drop all that is known of a node."""
        record = self._nodes.get(node)
        if record is not None:
            for peer in list(record.edges):
                self._remove_edge(node, peer)
            self.bytes -= record.cost
            del self._nodes[node]

    def take_given_up(self) -> list[str]:
        """Return the nodes that were forgotten for want of room since this was asked last."""
        given_up, self._given_up = self._given_up, []
        return given_up

    def branches(self) -> Branches:
        """Return who can be reached, and over whom."""
        nodes = self._nodes
        return Branches(self._own, lambda node: nodes[node].edges if node in nodes else ())

    def _make_room(self, newest: str) -> None:
        """Forget nodes, but not the one that has just spoken: its peers may confirm it next."""
        excess = self.bytes - TOPOLOGY_BYTES + ROOM_MADE
        costs, bringers = self._shares()
        del costs[newest]
        self._give_up(unreachable_first(costs, bringers, self.branches(), excess))

    def give_up_unreachable(self) -> None:
        """Forget nodes that cannot be reached as far as they are too many."""
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
        """Forget the nodes that can be reached, as it seems, and have not spoken for long."""
        branches = self.branches()
        self._give_up(
            node
            for node, record in self._nodes.items()
            if now >= record.heard + WORD_COUNTS and node in branches
        )

    # --- what is known -----------------------------------------------------------------------

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


def _link_field(peer: str, cost: float) -> int:
    """Return the bytes that a link to a peer may take in an update, whoever writes it.

    Go writes characters that mean something in HTML, and two separators of lines, as six bytes.
    """
    longer = sum(peer.count(c) for c in '<>&"\\\u2028\u2029')
    return len(peer.encode()) + 5 * longer + len(f'"":{plain_number(cost)!r},')
