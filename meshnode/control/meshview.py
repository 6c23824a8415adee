"""The mesh as one node sees it: links, services, configured peers, and how far each node is.

Values that are made from what the mesh and its configured links report at one moment. Two of them
can be compared: that is how events of the mesh are found (:mod:`.mesh_events`). What the command
``mesh`` tells is made of them, too (:mod:`.mesh_command`).
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from meshnode.control.registry import JsonObject
from meshnode.mesh.links.base import LinkFigures
from meshnode.mesh.mesh import MeshStatus
from meshnode.mesh.peers.conditions import ConfiguredPeer, Moment, PeerState
from meshnode.protocol.routing import ConnType, ServiceAdvertisement, plain_number
from meshnode.protocol.times import SECOND, format_time

CONN_TYPES: Mapping[int, str] = {
    ConnType.DATAGRAM: "datagram",
    ConnType.STREAM: "stream",
    ConnType.STREAM_TLS: "stream-tls",
}
"""What the kinds of services are called."""

LINKED = frozenset({PeerState.UP, PeerState.LINKED})
"""A configured peer of these states is not down."""


def shown_time(unix: float | None) -> str | None:
    """Return a moment as RFC 3339 text."""
    return None if unix is None else format_time(int(unix * SECOND))


@dataclass(frozen=True, slots=True)
class SeenLink:
    """A link between two nodes; each cost is what that end says, None if it is not known.

    ``figures`` are those of ``a``: of a link of this node, which is ``a`` of its own ones, or as
    another node has told them.
    """

    a: str
    b: str
    cost_ab: float | None
    cost_ba: float | None
    figures: LinkFigures | None = None

    def to_json(self) -> JsonObject:
        """Return the object that clients see."""
        figures = self.figures
        return {
            "a": self.a,
            "b": self.b,
            "cost_ab": None if self.cost_ab is None else plain_number(self.cost_ab),
            "cost_ba": None if self.cost_ba is None else plain_number(self.cost_ba),
            "rtt": figures and figures.round_trip,
            "kind": figures and figures.kind,
            "address": figures and figures.address,
            "bytes_sent": figures and figures.sent_bytes,
            "bytes_received": figures and figures.received_bytes,
            "up_since": shown_time(None if figures is None else figures.since),
        }

    @property
    def costs(self) -> tuple[float | None, float | None]:
        """What each end says that it costs."""
        return self.cost_ab, self.cost_ba

    @property
    def life(self) -> tuple[str, str, float] | None:
        """What is another one for a link that takes the place of this one; None if unknown."""
        figures = self.figures
        return None if figures is None else (figures.kind, figures.address, figures.since)


Ends = tuple[str, str]
"""The two nodes of a link, this node first, or else in order."""


def seen_links(status: MeshStatus) -> dict[Ends, SeenLink]:
    """Return all links of the mesh that are known."""
    figures = {link.peer: link.figures for link in status.connections}
    costs, own = status.known_costs, status.node_id
    links: dict[Ends, SeenLink] = {}
    for node, peers in costs.items():
        for peer, cost in peers.items():
            ends = ends_of(node, peer, own)
            if ends not in links:
                back = costs.get(peer, {}).get(node)
                there, here = (cost, back) if ends[0] == node else (back, cost)
                at = figures.get(ends[1]) if ends[0] == own else None
                links[ends] = SeenLink(*ends, there, here, at)
    return links


def ends_of(one: str, other: str, own: str) -> Ends:
    """Return the ends of a link in their order."""
    if one == own or (other != own and one < other):
        return one, other
    return other, one


@dataclass(frozen=True, slots=True)
class SeenService:
    """A service as its node advertises it."""

    node: str
    service: str
    conn_type: int
    tags: tuple[tuple[str, str], ...]
    work_types: tuple[tuple[str, bool], ...]

    @classmethod
    def of(cls, advert: ServiceAdvertisement) -> "SeenService":
        """Return what an advertisement says, without when it was made."""
        return cls(
            advert.node_id,
            advert.service,
            advert.conn_type,
            tuple(sorted((advert.tags or {}).items())),
            tuple((known.name, known.secure) for known in advert.work_types or ()),
        )

    def to_json(self) -> JsonObject:
        """Return the object that clients see."""
        return {
            "node": self.node,
            "service": self.service,
            "type": CONN_TYPES.get(self.conn_type, "unknown"),
            "tags": dict(self.tags),
            "types": [{"name": name, "secure": secure} for name, secure in self.work_types],
        }


def seen_services(status: MeshStatus) -> dict[tuple[str, str], SeenService]:
    """Return the services that can be reached, by node and name."""
    return {(ad.node_id, ad.service): SeenService.of(ad) for ad in status.advertisements}


@dataclass(frozen=True, slots=True)
class SeenPeer:
    """A configured peer."""

    peer: ConfiguredPeer

    @property
    def key(self) -> tuple[str, str]:
        """What names it: directive and address."""
        return self.peer.directive, self.peer.address

    @property
    def is_down(self) -> bool:
        """Whether there is no link to it."""
        return self.peer.condition.state not in LINKED

    @property
    def lasting(self) -> tuple[object, ...]:
        """What does not change with each attempt."""
        condition = self.peer.condition
        return self.is_down, condition.node, self.reason

    @property
    def reason(self) -> str | None:
        """Why it is down, as far as anybody knows."""
        trouble = self.peer.condition.trouble
        return trouble.text if self.is_down and trouble is not None else None

    def to_json(self) -> JsonObject:
        """Return the object that clients see."""
        condition = self.peer.condition
        return {
            "address": self.peer.address,
            "kind": self.peer.directive.removesuffix("-peer"),
            "state": condition.state.value,
            "node": condition.node or None,
            "reason": self.reason,
            "tries": condition.attempts,
            "since": _moment(condition.since),
            "next": _moment(condition.next_try),
        }


def _moment(moment: Moment | None) -> str | None:
    return None if moment is None else shown_time(moment.unix)


# --- how far a node is ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Distance:
    """What the way to a node costs, and how many links it has."""

    cost: float
    hops: int


def distances(own: str, costs: Mapping[str, Mapping[str, float]]) -> dict[str, Distance]:
    """Return how far each node is that can be reached over known links."""
    found: dict[str, Distance] = {}
    heap: list[tuple[float, int, str]] = [(0.0, 0, own)]
    while heap:
        cost, hops, node = heapq.heappop(heap)
        if node in found:
            continue
        found[node] = Distance(cost, hops)
        for peer, step in costs.get(node, {}).items():
            if peer not in found:
                heapq.heappush(heap, (cost + step, hops + 1, peer))
    return found
