"""``mesh``: the whole mesh as this node sees it, in one object; what others know too, on request.

Most of it this node knows: nodes flood their links, and what they offer. With ``detail`` the other
nodes are asked as well, for what they do not flood (:mod:`.mesh_asking`).
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from meshnode.control.mesh_asking import Answer, NodeAsker
from meshnode.control.meshview import (
    Distance,
    Ends,
    SeenLink,
    SeenPeer,
    distances,
    seen_links,
    seen_services,
    shown_time,
)
from meshnode.control.registry import (
    Asking,
    Command,
    CommandRegistry,
    ControlSession,
    Handler,
    JsonObject,
    origin_node,
)
from meshnode.errors import CommandError
from meshnode.mesh.mesh import MeshStatus
from meshnode.mesh.peers.conditions import LinksReport, Moment
from meshnode.mesh.streams.layer import MANY_STREAMS
from meshnode.permissions import Verb
from meshnode.protocol.control import CONTROL_SERVICE
from meshnode.protocol.routing import ServiceAdvertisement, plain_number
from meshnode.security.access import Target
from meshnode.version import VERSION

MOST_ASKED = 500
"""Nodes that one request has asked, the nearest first: beyond that a client names whom it wants."""

EPOCH_BITS = 24
"""Bits of an epoch below its seconds (protocol section 4)."""

PLAUSIBLE_FROM, PLAUSIBLE_AHEAD = 1_400_000_000, 86_400
"""Unix seconds before which no node began, and from now on after which none has: the epoch of
somebody else's implementation may be another kind of number."""


class SeenMesh(Protocol):
    """What is asked of a mesh."""

    def status(self) -> MeshStatus:
        """Return what this node knows of its mesh."""
        ...

    def epoch_of(self, node: str) -> int | None:
        """Return the epoch of a node's present life."""
        ...


Describe = Callable[[Mapping[str, str]], tuple[Mapping[str, str], JsonObject | None]]
"""Returns labels and load, as the tags of a control service tell them."""


@dataclass(frozen=True, slots=True)
class MeshRequest:
    """What a client asks for; ``nodes`` None are all."""

    detail: bool = False
    nodes: frozenset[str] | None = None


class MeshCommand:
    """Tells of the whole mesh."""

    def __init__(
        self,
        mesh: SeenMesh,
        registry: CommandRegistry,
        links: Callable[[], LinksReport],
        describe: Describe,
        asker: NodeAsker,
        *,
        forwarding: bool = False,
    ) -> None:
        """``links`` returns how configured links fare; ``forwarding`` says whether clients from
        the mesh may have this node ask others."""
        self._mesh = mesh
        self._registry = registry
        self._links = links
        self._describe = describe
        self._asker = asker
        self._forwarding = forwarding

    def command(self) -> Command:
        """Return the command."""
        return Command(
            "mesh",
            parse_text=lambda words: self._handler(parse_text(words)),
            parse_json=lambda data: self._handler(parse_json(data)),
        )

    def _handler(self, request: MeshRequest) -> Handler:
        async def run(session: ControlSession) -> JsonObject:
            answers: Mapping[str, Answer] = {}
            if request.detail:
                answers = await self._ask_others(request, session)
            async with session.turn():
                picture = _Picture.of(self._mesh.status(), answers)
                return self._view(picture)

        return Asking(run, Verb.MESH)

    async def _ask_others(self, request: MeshRequest, session: ControlSession) -> dict[str, Answer]:
        """Ask the nodes that the client may connect to; say of the others why they are not."""
        async with session.turn():
            status = self._mesh.status()
            far = distances(status.node_id, status.known_costs)
            wanted = status.routes.keys() if request.nodes is None else request.nodes
            nodes = sorted(wanted & status.routes.keys(), key=lambda node: _nearness(far, node))
            refused = {node: why for node in nodes if (why := self._refusal(session, node))}
        asked = [node for node in nodes if node not in refused]
        late = dict.fromkeys(asked[MOST_ASKED:], f"only {MOST_ASKED} nodes are asked at once")
        answers = await self._asker.answers(asked[:MOST_ASKED])
        now = Moment.now()
        return answers | {node: Answer(now, error=why) for node, why in (refused | late).items()}

    def _refusal(self, session: ControlSession, node: str) -> str:
        if origin_node(session) and not self._forwarding:
            return f"{session.node_id} asks no other nodes for clients from the mesh"
        target = Target(node=node, service=CONTROL_SERVICE)
        if self._registry.may(session, Verb.CONNECT, target):
            return ""
        return f"permission denied: connect {node} {CONTROL_SERVICE}"

    def _view(self, picture: "_Picture") -> JsonObject:
        status = picture.status
        peers = map(SeenPeer, self._links().peers)
        return {
            "node": status.node_id,
            "nodes": [self._node(node, picture) for node in picture.nodes],
            "links": [link.to_json() for link in picture.links],
            "routes": [_route(node, via, picture.far) for node, via in status.routes.items()],
            "services": [one.to_json() for one in seen_services(status).values()],
            "peers_down": [peer.to_json() for peer in peers if peer.is_down],
        }

    def _node(self, node: str, picture: "_Picture") -> JsonObject:
        status, own = picture.status, picture.status.node_id
        advert, answer = picture.controls.get(node), picture.answers.get(node)
        labels, load = self._describe({} if advert is None else advert.tags or {})
        direct = picture.own_links.get(node)
        is_reached = node == own or node in status.routes
        state = "here" if node == own else "reachable" if is_reached else "unreachable"
        version = VERSION if node == own else answer and answer.version
        return {
            "id": node,
            "state": state,
            "via": status.routes.get(node),
            **_distance(picture.far.get(node) if is_reached else None),
            "rtt": direct and direct.figures and direct.figures.round_trip,
            "kind": "meshnode" if node == own else _kind(advert),
            "version": version,
            "since": shown_time(_began(self._mesh.epoch_of(node))),
            "types": [known.name for known in advert.work_types or ()] if advert else [],
            "labels": dict(labels),
            "load": load,
            "asked": None if answer is None else shown_time(answer.asked.unix),
            "error": answer and answer.error,
        }


@dataclass(frozen=True, slots=True)
class _Picture:
    """The mesh at one moment, and what its nodes have answered."""

    status: MeshStatus
    answers: Mapping[str, Answer]
    links: Collection[SeenLink]
    far: Mapping[str, Distance]
    controls: Mapping[str, ServiceAdvertisement]
    """How each node advertises its control service."""
    own_links: Mapping[str, SeenLink]
    """The links of this node, by their peers."""

    @classmethod
    def of(cls, status: MeshStatus, answers: Mapping[str, Answer]) -> "_Picture":
        controls = {
            advert.node_id: advert
            for advert in status.advertisements
            if advert.service == CONTROL_SERVICE
        }
        links = [_told(link, answers) for link in seen_links(status).values()]
        far = distances(status.node_id, status.known_costs)
        own_links = {link.b: link for link in links if link.a == status.node_id}
        return cls(status, answers, links, far, controls, own_links)

    @property
    def nodes(self) -> Iterable[str]:
        """This node, then all that is known of in any way."""
        status = self.status
        known = {*status.known_costs, *status.routes, *self.controls} - {status.node_id}
        return [status.node_id, *sorted(known)]


def _told(link: SeenLink, answers: Mapping[str, Answer]) -> SeenLink:
    """Return a link with the figures that one of its ends has told, if this node has none."""
    if link.figures is not None:
        return link
    ends: Ends = (link.a, link.b)
    for node, peer in (ends, ends[::-1]):
        answer = answers.get(node)
        figures = None if answer is None else (answer.links or {}).get(peer)
        if figures is None:
            continue
        if node == link.a:
            return replace(link, figures=figures)
        sent, received = figures.received_bytes, figures.sent_bytes
        return replace(link, figures=replace(figures, sent_bytes=sent, received_bytes=received))
    return link


def _route(node: str, via: str, far: Mapping[str, Distance]) -> JsonObject:
    return {"node": node, "via": via, **_distance(far.get(node))}


def _distance(distance: Distance | None) -> JsonObject:
    if distance is None:
        return {"cost": None, "hops": None}
    return {"cost": plain_number(distance.cost), "hops": distance.hops}


def _nearness(far: Mapping[str, Distance], node: str) -> tuple[int, str]:
    distance = far.get(node)
    return (len(far) if distance is None else distance.hops), node


def _kind(advert: ServiceAdvertisement | None) -> str:
    if advert is None:
        return "unknown"
    tag, value = MANY_STREAMS
    return "meshnode" if (advert.tags or {}).get(tag) == value else "receptor"


def _began(epoch: int | None) -> float | None:
    """Return when a node's present life began, if its epoch says that."""
    seconds = 0 if epoch is None else epoch >> EPOCH_BITS
    is_plausible = PLAUSIBLE_FROM <= seconds <= time.time() + PLAUSIBLE_AHEAD
    return float(seconds) if is_plausible else None


# --- reading requests ----------------------------------------------------------------------------


def parse_text(words: str) -> MeshRequest:
    """Read what stands after ``mesh ``. Raises CommandError."""
    if words not in {"", "detail"}:
        raise CommandError("mesh command takes no parameter but detail")
    return MeshRequest(detail=bool(words))


def parse_json(data: JsonObject) -> MeshRequest:
    """Read a whole JSON object. Raises CommandError."""
    detail, nodes = data.get("detail", False), data.get("nodes")
    if not isinstance(detail, bool):
        raise CommandError("field detail must be true or false")
    if nodes is None:
        return MeshRequest(detail)
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise CommandError("field nodes must be a list of node IDs")
    return MeshRequest(detail, frozenset(nodes))
